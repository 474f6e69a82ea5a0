"""How fast a linear layer is, int4 and dense, by batch size: measured on this machine, never estimated.

Candidates take turns call by call, so that a drift of the machine hits all alike; each works through copies of its
weight larger than the cache, as the layers of a model do.
"""

from __future__ import annotations

import copy
import csv
import io
import itertools
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workbench.config import Int4WeightOnlyConfig
from workbench.errors import Cancelled, ConfigError
from workbench.linear import Int4Linear
from workbench.records import SpeedPoint

Call = Callable[[], object]
DEFAULT_BATCH_SIZES = (1, 4, 16, 64, 256)
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_CACHE_BYTES = 64 * 2**20  # copies of a weight together exceed this, where 32 copies suffice
_MAX_COPIES = 32
_BUDGET_S = 0.3  # seconds of timed calls for each candidate at each batch size
_MIN_RUNS, _MAX_RUNS, _WARM_UP = 5, 200, 2


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


@dataclass(frozen=True)
class SpeedReport:
    """All points of a benchmark, and where they were taken.

    Attributes:
        points: One for each path, dtype and batch size.
        environment: Machine and versions.
    """

    points: tuple[SpeedPoint, ...]
    environment: Environment

    def speedups(self, dtype: str = "bfloat16") -> dict[int, float]:
        """Return batch size → dense time / int4 time (above 1: int4 is faster)."""
        return speedups(self.points, dtype)

    def crossover(self, dtype: str = "bfloat16") -> float | None:
        """Return the batch size from which dense is faster, or None when int4 wins at every one measured."""
        return crossover(self.speedups(dtype))

    def to_json(self) -> dict[str, Any]:
        """Return points and environment as JSON types."""
        return {"environment": vars(self.environment), "points": [point.to_json() for point in self.points]}

    def to_csv(self) -> str:
        """Return the points as CSV with a header line."""
        out = io.StringIO()
        if self.points:
            writer = csv.DictWriter(out, fieldnames=list(self.points[0].to_json()), lineterminator="\n")
            writer.writeheader()
            writer.writerows(point.to_json() for point in self.points)
        return out.getvalue()

    def __str__(self) -> str:
        """The points as a table."""
        lines = [f"{self.environment.device_name}, torch {self.environment.torch_version}"]
        lines += [
            f"{'path':<9} {'dtype':<9} {'batch':>6} {'time_ms':>10} {'p10':>9} {'p90':>9} {'GB/s':>7} {'GFLOP/s':>9}"
        ]
        lines += [
            f"{p.path:<9} {p.dtype:<9} {p.batch:>6} {p.time_ms:>10.4f} {p.p10_ms:>9.4f} {p.p90_ms:>9.4f} "
            f"{p.gb_per_s:>7.1f} {p.gflop_per_s:>9.1f}"
            for p in self.points
        ]
        return "\n".join(lines)


def bench_linear(
    n: int,
    k: int,
    cfg: Int4WeightOnlyConfig | None = None,
    batch_sizes: Sequence[int] = DEFAULT_BATCH_SIZES,
    *,
    device: str = "cpu",
    dtypes: Sequence[str] = ("bfloat16",),
    cancel: threading.Event | None = None,
) -> SpeedReport:
    """Measure a linear layer of `n` out_features and `k` in_features, int4 and dense, at each batch size.

    Args:
        n: out_features.
        k: in_features.
        cfg: The int4 configuration; speed depends on its group size and tiles only.
        batch_sizes: Rows of the activation.
        device: "cpu" or "cuda".
        dtypes: dtypes of the activations: "bfloat16", "float16", "float32".
        cancel: Set it to stop between points.

    Raises:
        ConfigError: for sizes or dtypes that cannot be measured.
        Cancelled: when `cancel` was set.
    """
    points = tuple(iter_bench_linear(n, k, cfg, batch_sizes, device=device, dtypes=dtypes, cancel=cancel))
    return SpeedReport(points, environment(device))


def iter_bench_linear(
    n: int,
    k: int,
    cfg: Int4WeightOnlyConfig | None = None,
    batch_sizes: Sequence[int] = DEFAULT_BATCH_SIZES,
    *,
    device: str = "cpu",
    dtypes: Sequence[str] = ("bfloat16",),
    cancel: threading.Event | None = None,
) -> Iterator[SpeedPoint]:
    """Yield each point of `bench_linear` as soon as it is measured."""
    cfg = cfg or Int4WeightOnlyConfig()
    _check(n, k, batch_sizes, dtypes)
    name = environment(device).device_name
    for dtype in dtypes:
        layers = _candidate_layers(n, k, cfg, device, DTYPES[dtype])
        for batch in batch_sizes:
            x = torch.randn(batch, k, device=device).to(DTYPES[dtype])
            calls = {path: _rotating(copies, x) for path, copies in layers.items()}
            with torch.inference_mode():
                times = time_interleaved(calls, device=device, cancel=cancel)
            for path, seconds in times.items():
                held = _held_bytes(layers[path][0])
                yield _point(device, name, path, dtype, n, k, cfg.group_size, batch, seconds, held)


def time_interleaved(
    calls: Mapping[str, Call],
    *,
    device: str = "cpu",
    budget_s: float = _BUDGET_S,
    min_runs: int = _MIN_RUNS,
    max_runs: int = _MAX_RUNS,
    cancel: threading.Event | None = None,
    timer: Callable[[Call], float] | None = None,
) -> dict[str, list[float]]:
    """Time calls in turn, the order reversed every round, until each used its budget; seconds of each call.

    Args:
        calls: Name → what to time.
        device: "cuda" times with CUDA events.
        budget_s: Seconds of timed calls for each name.
        min_runs: Least timed calls of each.
        max_runs: Most timed calls of each.
        cancel: Set it to stop between rounds.
        timer: Replaces the clock (tests).

    Raises:
        Cancelled: when `cancel` was set.
    """
    timer = timer or (_time_cuda if device == "cuda" else _time_cpu)
    for _ in range(_WARM_UP):
        for call in calls.values():
            timer(call)
    times: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    while open_names := [name for name in order if _wants_more(times[name], budget_s, min_runs, max_runs)]:
        if cancel is not None and cancel.is_set():
            raise Cancelled("Measuring was cancelled.", mend="points measured so far are kept")
        for name in open_names:
            times[name].append(timer(calls[name]))
        order.reverse()
    return times


def speedups(points: Sequence[SpeedPoint], dtype: str = "bfloat16", device: str | None = None) -> dict[int, float]:
    """Return batch size → dense time / int4 time, for the batch sizes where both were measured."""
    chosen = [p for p in points if p.dtype == dtype and device in (None, p.device)]
    dense = {p.batch: p.time_ms for p in chosen if p.path == "dense"}
    return {p.batch: dense[p.batch] / p.time_ms for p in chosen if p.path == "int4" and p.batch in dense}


def crossover(ratios: Mapping[int, float]) -> float | None:
    """Return the batch size where a speedup falls through 1, between measured ones on a log scale, or None."""
    batches = sorted(ratios)
    if batches and ratios[batches[0]] < 1:
        return float(batches[0])
    for low, high in itertools.pairwise(batches):
        if ratios[low] >= 1 > ratios[high]:
            share = (ratios[low] - 1) / (ratios[low] - ratios[high])
            return float(low * (high / low) ** share)
    return None


def environment(device: str = "cpu") -> Environment:
    """Say where measurements on `device` are taken."""
    if device == "cuda":
        major, minor = torch.cuda.get_device_capability()
        name, capability = torch.cuda.get_device_name(), f"sm{major}{minor}"
    else:
        name, capability = _cpu_name(), torch.backends.cpu.get_cpu_capability()
    return Environment(name, torch.__version__, torch.get_num_threads(), capability)


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


def _candidate_layers(
    n: int, k: int, cfg: Int4WeightOnlyConfig, device: str, dtype: torch.dtype
) -> dict[str, list[nn.Module]]:
    dense = nn.Linear(k, n, bias=False, device=device).to(dtype)
    int4 = Int4Linear.from_linear(dense, cfg, solver="rtn") if not cfg.use_hqq else Int4Linear.from_linear(dense, cfg)
    return {"int4": _copies(int4), "dense": _copies(dense)}


def _copies(layer: nn.Module) -> list[nn.Module]:
    count = min(_MAX_COPIES, max(1, -(-_CACHE_BYTES // _held_bytes(layer))))
    return [layer, *(copy.deepcopy(layer) for _ in range(count - 1))]


def _held_bytes(layer: nn.Module) -> int:
    if isinstance(layer, Int4Linear):
        return layer.size_bytes
    return sum(p.numel() * p.element_size() for p in layer.parameters())


def _rotating(layers: Sequence[nn.Module], x: Tensor) -> Call:
    turn = 0

    def call() -> object:
        nonlocal turn
        turn = (turn + 1) % len(layers)
        return layers[turn](x)

    return call


def _point(
    device: str,
    name: str,
    path: str,
    dtype: str,
    n: int,
    k: int,
    group_size: int,
    batch: int,
    seconds: list[float],
    held_bytes: int,
) -> SpeedPoint:
    ordered = sorted(seconds)
    median = ordered[len(ordered) // 2]
    moved = held_bytes + DTYPES[dtype].itemsize * batch * (n + k)
    return SpeedPoint(
        device=device,
        device_name=name,
        path=path,
        dtype=dtype,
        n=n,
        k=k,
        group_size=group_size,
        batch=batch,
        time_ms=median * 1e3,
        p10_ms=ordered[len(ordered) // 10] * 1e3,
        p90_ms=ordered[(9 * len(ordered)) // 10] * 1e3,
        runs=len(ordered),
        gb_per_s=moved / median / 1e9,
        gflop_per_s=2 * batch * n * k / median / 1e9,
    )


def _check(n: int, k: int, batch_sizes: Sequence[int], dtypes: Sequence[str]) -> None:
    if n < 1 or k < 1:
        raise ConfigError(f"A layer of shape {[n, k]} cannot be measured.", allowed="N and K of 1 or more")
    bad = [batch for batch in batch_sizes if batch < 1]
    if bad or not batch_sizes:
        raise ConfigError(f"batch_sizes={list(batch_sizes)}.", allowed="at least one, each 1 or more")
    unknown = [dtype for dtype in dtypes if dtype not in DTYPES]
    if unknown:
        raise ConfigError(f"dtype {unknown[0]!r}.", allowed=", ".join(DTYPES))


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:  # noqa: PTH123 (a kernel file, not a path of ours)
            for line in info:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
