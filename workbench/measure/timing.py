"""Honest timing: calls take turns, so that a drift of the machine hits all alike, on weights larger than the cache."""

from __future__ import annotations

import copy
import platform
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from workbench.errors import Cancelled

Call = Callable[[], object]
Timer = Callable[[Call], float]
_CACHE_BYTES = 64 * 2**20  # copies of a weight together exceed this, where 32 copies suffice
_MAX_COPIES = 32
_BUDGET_S = 0.3  # seconds of timed calls for each candidate
_MIN_RUNS, _MAX_RUNS, _WARM_UP = 5, 200, 2

_T = TypeVar("_T")


@dataclass(frozen=True)
class Environment:
    """Where the measurements were taken.

    Attributes:
        device_name: Name of the processor or GPU.
        torch_version: Version of PyTorch.
        threads: Threads that PyTorch uses for one operation.
        capability: Instruction set of the CPU build, or the compute capability of the GPU.
    """

    device_name: str
    torch_version: str
    threads: int
    capability: str


def environment(device: str = "cpu") -> Environment:
    """Say where measurements on `device` are taken."""
    if device == "cuda":
        major, minor = torch.cuda.get_device_capability()
        name, capability = torch.cuda.get_device_name(), f"sm{major}{minor}"
    else:
        name, capability = _cpu_name(), torch.backends.cpu.get_cpu_capability()
    return Environment(name, torch.__version__, torch.get_num_threads(), capability)


def time_interleaved(
    calls: Mapping[str, Call],
    *,
    device: str = "cpu",
    budget_s: float = _BUDGET_S,
    min_runs: int = _MIN_RUNS,
    max_runs: int = _MAX_RUNS,
    warm_up: int = _WARM_UP,
    cancel: threading.Event | None = None,
    timer: Timer | None = None,
) -> dict[str, list[float]]:
    """Time calls in turn, the order reversed every round, until each used its budget; seconds of each call.

    Args:
        calls: Name → what to time.
        device: "cuda" times with CUDA events.
        budget_s: Seconds of timed calls for each name.
        min_runs: Least timed calls of each.
        max_runs: Most timed calls of each.
        warm_up: Calls of each that come first and are not counted.
        cancel: Set it to stop before the next call.
        timer: Replaces the clock (tests).

    Raises:
        Cancelled: when `cancel` was set.
    """
    timer = timer or (_time_cuda if device == "cuda" else _time_cpu)
    for _ in range(warm_up):
        for call in calls.values():
            _stop_if(cancel)
            timer(call)
    times: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    while open_names := [name for name in order if _wants_more(times[name], budget_s, min_runs, max_runs)]:
        for name in open_names:
            _stop_if(cancel)
            times[name].append(timer(calls[name]))
        order.reverse()
    return times


def copies_beyond_cache(layer: nn.Module, held_bytes: int) -> list[nn.Module]:
    """Return `layer` and as many copies as exceed a large cache together, at most 32 in all."""
    count = min(_MAX_COPIES, max(1, -(-_CACHE_BYTES // max(1, held_bytes))))
    return [layer, *(copy.deepcopy(layer) for _ in range(count - 1))]


def rotating(functions: Sequence[Callable[[Tensor], _T]], x: Tensor) -> Callable[[], _T]:
    """Return a call that gives `x` to the next of `functions` each time, as the layers of a model take turns."""
    turn = 0

    def call() -> _T:
        nonlocal turn
        turn = (turn + 1) % len(functions)
        return functions[turn](x)

    return call


def _stop_if(cancel: threading.Event | None) -> None:
    if cancel is not None and cancel.is_set():
        raise Cancelled("Measuring was cancelled.", mend="points measured so far are kept")


def _wants_more(times: list[float], budget_s: float, min_runs: int, max_runs: int) -> bool:
    return len(times) < min_runs or (sum(times) < budget_s and len(times) < max_runs)


def _time_cpu(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _time_cuda(call: Call) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
