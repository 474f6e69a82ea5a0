"""Honest timing: calls take turns, so that a drift of the machine hits all alike, on weights larger than the cache."""

from __future__ import annotations

import copy
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from workbench.errors import Cancelled, ConfigError
from workbench.machine import device_capability, device_name, present_devices

Call = Callable[[], object]
Timer = Callable[[Call], float]
BUDGET_S = 0.3  # seconds of timed calls for each candidate
_MIN_RUNS, _MAX_RUNS, _WARM_UP = 5, 200, 2
_LEAST_ROTATION, _MOST_ROTATION = 64 * 2**20, 2**30  # bytes of the copies that take turns
_MAX_COPIES = 32  # as many layers of one shape as a model of the size of 7 billion weights has
_CPU_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")  # Linux
_FILL_CYCLES = 200_000  # about 0.1 ms of a GPU: while it waits, the host hands over the call that is timed

_T = TypeVar("_T")


@dataclass(frozen=True)
class Environment:
    """Where the measurements were taken.

    Attributes:
        device_name: Name of the processor or GPU.
        torch_version: Version of PyTorch.
        threads: Threads that PyTorch uses for one operation.
        capability: Instruction set of the CPU build, or the compute capability of the GPU.
        cache_bytes: Size of the last-level cache, or None where the system does not tell.
    """

    device_name: str
    torch_version: str
    threads: int
    capability: str
    cache_bytes: int | None = None


def environment(device: str = "cpu") -> Environment:
    """Say where measurements on `device` are taken."""
    return Environment(
        device_name(device),
        torch.__version__,
        torch.get_num_threads(),
        device_capability(device),
        cache_bytes(device),
    )


def check_device(device: str) -> None:
    """Refuse a device that cannot be measured here.

    Raises:
        ConfigError: with those that can.
    """
    if device not in (present := present_devices()):
        raise ConfigError(f"device {device!r} cannot be measured here.", allowed=", ".join(present))


def check_batch_sizes(batch_sizes: Sequence[int]) -> None:
    """Refuse batch sizes that cannot be measured.

    Raises:
        ConfigError: when there are none, or one is no whole number of 1 or more.
    """
    if not batch_sizes or any(not isinstance(batch, int) or batch < 1 for batch in batch_sizes):
        raise ConfigError(f"batch_sizes={list(batch_sizes)}.", allowed="at least one, each 1 or more")


def cache_bytes(device: str = "cpu") -> int | None:
    """Return the size of the last-level cache of `device` in bytes, or None where the system does not tell."""
    if device == "cuda":
        return int(torch.cuda.get_device_properties(0).L2_cache_size)
    sizes = []
    for folder in sorted(_CPU_CACHES.glob("index*")):
        try:
            kind, level, size = ((folder / name).read_text().strip() for name in ("type", "level", "size"))
            if kind != "Instruction":
                sizes.append((int(level), 1024 * int(size.removesuffix("K"))))
        except (OSError, ValueError):
            continue  # a virtual machine may leave one of them out
    return max(sizes)[1] if sizes else None


def time_interleaved(
    calls: Mapping[str, Call],
    *,
    device: str = "cpu",
    budget_s: float = BUDGET_S,
    min_runs: int = _MIN_RUNS,
    max_runs: int = _MAX_RUNS,
    warm_up: int = _WARM_UP,
    cancel: threading.Event | None = None,
    timer: Timer | None = None,
) -> dict[str, list[float]]:
    """Time calls in turn, the order reversed every round, until each used its budget; seconds of each call.

    A call of which fewer runs fill the budget comes up less often, and not only at first, so that a machine that
    slows down meanwhile slows all of them.

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
    turns = [_Turns(place, budget_s, min_runs, max_runs) for place in range(len(calls))]
    timed = list(zip(turns, calls.values(), strict=True))
    for _ in range(warm_up):
        for turn, call in timed:
            stop_if(cancel)
            turn.fastest = min(timer(call), turn.fastest)
    while waiting := [(turn, call) for turn, call in timed if len(turn.times) < turn.planned()]:
        turn, call = min(waiting, key=lambda pair: pair[0].due())
        stop_if(cancel)
        turn.times.append(timer(call))
    return {name: turn.times for name, turn in zip(calls, turns, strict=True)}


@dataclass
class _Turns:
    """The timed calls of one name, in seconds, and when its next one is due."""

    place: int
    budget_s: float
    min_runs: int
    max_runs: int
    fastest: float = math.inf  # of the warm-up
    times: list[float] = field(default_factory=list)

    def planned(self) -> int:
        """Runs in all, as far as can be told now."""
        one = sum(self.times) / len(self.times) if self.times else self.fastest
        runs = math.ceil(self.budget_s / one) if one > 0 else self.max_runs
        return max(self.min_runs, min(self.max_runs, runs))

    def due(self) -> tuple[float, int]:
        """When to run next, as a share of the whole; at the same time in turn, reversed every round."""
        done = len(self.times)
        return (done + 0.5) / self.planned(), self.place if done % 2 == 0 else -self.place


def rotation_bytes(device: str = "cpu") -> int:
    """Return how many bytes of copies take turns: twice the last-level cache, within 64 MiB and 1 GiB."""
    return min(_MOST_ROTATION, max(_LEAST_ROTATION, 2 * (cache_bytes(device) or 0)))


def copies_beyond_cache(
    layer: nn.Module, held_bytes: int, device: str = "cpu", cancel: threading.Event | None = None
) -> list[nn.Module]:
    """Return `layer` and as many copies as fill `rotation_bytes` together, at most 32 in all and 1 GiB.

    Raises:
        Cancelled: when `cancel` was set, before the next copy.
    """
    held = max(1, held_bytes)
    count = max(1, min(_MAX_COPIES, -(-rotation_bytes(device) // held), _MOST_ROTATION // held))
    made = [layer]
    for _ in range(count - 1):
        stop_if(cancel)
        made.append(copy.deepcopy(layer))
    return made


def rotating(
    functions: Sequence[Callable[[Tensor], _T]], inputs: Tensor | Sequence[Tensor], *, first: int = 0
) -> Callable[[], _T]:
    """Return a call that gives the next input to the next function each time, as the layers of a model take turns.

    Args:
        functions: What takes turns, for instance copies of a layer.
        inputs: One activation or several, which take turns too.
        first: Place of the function that begins: calls that share `functions` begin at different ones, so that none
            finds in the cache what the other has just read.
    """
    given = [inputs] if isinstance(inputs, Tensor) else inputs
    turn = first - 1

    def call() -> _T:
        nonlocal turn
        turn += 1
        return functions[turn % len(functions)](given[turn % len(given)])

    return call


def stop_if(cancel: threading.Event | None) -> None:
    """Stop where `cancel` is set.

    Raises:
        Cancelled: then.
    """
    if cancel is not None and cancel.is_set():
        raise Cancelled("Measuring was cancelled.", mend="points measured so far are kept")


def _time_cpu(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _time_cuda(call: Call) -> float:
    """Time on the device: the call is handed over while the device is still busy with a wait in front of it."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda._sleep(_FILL_CYCLES)
    start.record()
    call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000
