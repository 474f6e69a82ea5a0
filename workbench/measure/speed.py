"""How fast a linear layer is, int4 and dense, by batch size: measured on this machine, never estimated.

Candidates take turns call by call, so that a drift of the machine hits all alike; each works through copies of its
weight larger than the cache, as the layers of a model do.
"""

from __future__ import annotations

import csv
import io
import itertools
import statistics
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from workbench.config import Int4WeightOnlyConfig
from workbench.errors import ConfigError
from workbench.linear import Int4Linear
from workbench.measure.timing import Environment, copies_beyond_cache, rotating, time_interleaved
from workbench.measure.timing import environment as environment
from workbench.records import SpeedPoint
from workbench.solvers import solve

DEFAULT_BATCH_SIZES = (1, 4, 16, 64, 256)
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


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
        cancel: Set it to stop before the next call that would be timed.

    Raises:
        ConfigError: for sizes, dtypes or devices that cannot be measured.
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
    _check(n, k, batch_sizes, device, dtypes)
    name = environment(device).device_name
    for dtype in dtypes:
        layers = _candidate_layers(n, k, cfg, device, DTYPES[dtype], cancel)
        for batch in batch_sizes:
            x = torch.randn(batch, k, generator=_generator(device), device=device, dtype=torch.float32)
            calls = {path: rotating(copies, x.to(DTYPES[dtype])) for path, copies in layers.items()}
            with torch.inference_mode():
                times = time_interleaved(calls, device=device, cancel=cancel)
            for path, seconds in times.items():
                held = _held_bytes(layers[path][0])
                yield _point(device, name, path, dtype, n, k, cfg.group_size, batch, seconds, held)


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


def _candidate_layers(
    n: int, k: int, cfg: Int4WeightOnlyConfig, device: str, dtype: torch.dtype, cancel: threading.Event | None
) -> dict[str, list[nn.Module]]:
    """Make the layers that take turns; the caller's random numbers are left as they are."""
    weight = torch.randn(n, k, generator=_generator(device), device=device, dtype=torch.float32) * 0.02
    dense = nn.Linear(k, n, bias=False, device="meta")
    dense.weight = nn.Parameter(weight.to(dtype))
    resolved = replace(cfg, use_hqq=False).resolved(device)  # the solver changes values, never speed
    solved = solve(weight, resolved, cancel=cancel).weight
    int4 = Int4Linear(solved, dtype=dtype, inner_k_tiles=resolved.inner_k_tiles)
    candidates: dict[str, nn.Module] = {"int4": int4, "dense": dense}
    return {path: copies_beyond_cache(layer, _held_bytes(layer)) for path, layer in candidates.items()}


def _generator(device: str) -> torch.Generator:
    return torch.Generator(device).manual_seed(0)


def _held_bytes(layer: nn.Module) -> int:
    if isinstance(layer, Int4Linear):
        return layer.size_bytes
    return sum(p.numel() * p.element_size() for p in layer.parameters())


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
    median = statistics.median(ordered)
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


def _check(n: int, k: int, batch_sizes: Sequence[int], device: str, dtypes: Sequence[str]) -> None:
    if n < 1 or k < 1:
        raise ConfigError(f"A layer of shape {[n, k]} cannot be measured.", allowed="N and K of 1 or more")
    bad = [batch for batch in batch_sizes if not isinstance(batch, int) or batch < 1]
    if bad or not batch_sizes:
        raise ConfigError(f"batch_sizes={list(batch_sizes)}.", allowed="at least one, each 1 or more")
    present = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    if device not in present:
        raise ConfigError(f"device {device!r} cannot be measured here.", allowed=", ".join(present))
    unknown = [dtype for dtype in dtypes if dtype not in DTYPES]
    if unknown:
        raise ConfigError(f"dtype {unknown[0]!r}.", allowed=", ".join(DTYPES))
