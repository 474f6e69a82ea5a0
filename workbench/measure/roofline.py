"""What a machine can do at best: memory bandwidth and matmul rate, measured; the roof over every measured time.

No call is faster than its bytes can be moved, nor than its multiplications can be done: time >= max(bytes / bandwidth,
flop / rate). Source: Williams, Waterman, Patterson, "Roofline" (2009).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch.nn import functional

from workbench.errors import ConfigError
from workbench.measure.timing import Timer, rotation_bytes, stop_if, time_interleaved
from workbench.records.record import Record

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_SIZES = (1024, 2048, 4096, 8192)  # of square matrices; larger ones as long as they are quick
_BUDGET_S = 0.12  # seconds of timed calls of each


@dataclass(frozen=True)
class Roofline(Record):
    """The fastest that was seen on a device.

    Attributes:
        device: "cpu" or "cuda".
        bandwidth_gb_per_s: Bytes per second, in 1e9: of copying (those read and those written) or of reading,
            whichever is more.
        matmul_gflop_per_s: dtype → multiplications and additions per second of a dense matrix product, in 1e9.
    """

    device: str
    bandwidth_gb_per_s: float
    matmul_gflop_per_s: Mapping[str, float] = field(hash=False)

    def attainable_s(self, moved_bytes: float, flop: float, *dtypes: str) -> float:
        """Return the least time of a call, in seconds.

        Args:
            moved_bytes: Bytes that it must read and write.
            flop: Its multiplications and additions.
            dtypes: The dtypes that it may multiply in; the fastest counts.

        Raises:
            ConfigError: for a dtype that was not measured.
        """
        missing = [dtype for dtype in dtypes if dtype not in self.matmul_gflop_per_s]
        if missing or not dtypes:
            raise ConfigError(
                f"No matmul rate of {', '.join(missing) or 'no dtype'} is measured.",
                allowed=", ".join(self.matmul_gflop_per_s),
            )
        rate = max(self.matmul_gflop_per_s[dtype] for dtype in dtypes)
        return max(moved_bytes / (self.bandwidth_gb_per_s * 1e9), flop / (rate * 1e9))

    def __str__(self) -> str:
        """Say it in a line."""
        rates = ", ".join(f"{name} {rate:.4g} GFLOP/s" for name, rate in self.matmul_gflop_per_s.items())
        return f"{self.bandwidth_gb_per_s:.3g} GB/s, {rates}"


def measure_roofline(
    device: str = "cpu",
    dtypes: Sequence[str] = ("bfloat16",),
    *,
    budget_s: float = _BUDGET_S,
    cancel: threading.Event | None = None,
    timer: Timer | None = None,
) -> Roofline:
    """Measure the roof of `device`, in about a second.

    Args:
        device: "cpu" or "cuda".
        dtypes: dtypes to measure the matmul rate of: "bfloat16", "float16", "float32".
        budget_s: Seconds of timed calls for each of the bandwidths and matrix sizes.
        cancel: Set it to stop before the next call that would be timed.
        timer: Replaces the clock (tests).

    Raises:
        ConfigError: for an unknown dtype.
        Cancelled: when `cancel` was set.
    """
    check_dtypes(dtypes)
    with torch.inference_mode():
        bandwidth = _bandwidth(device, budget_s, cancel, timer)
        rates = {dtype: _matmul_rate(device, DTYPES[dtype], budget_s, cancel, timer) for dtype in dtypes}
    return Roofline(device, bandwidth / 1e9, {dtype: rate / 1e9 for dtype, rate in rates.items()})


def check_dtypes(dtypes: Sequence[str]) -> None:
    """Refuse a dtype of activations that is not measured.

    Raises:
        ConfigError: with those that are.
    """
    if unknown := [dtype for dtype in dtypes if dtype not in DTYPES]:
        raise ConfigError(f"dtype {unknown[0]!r}.", allowed=", ".join(DTYPES))


def _bandwidth(device: str, budget_s: float, cancel: threading.Event | None, timer: Timer | None) -> float:
    """Bytes per second of the faster of copying and reading; float32 vectors, together larger than the cache."""
    count = max(rotation_bytes(device) // 2, 2**28 if device == "cuda" else 0) // 4
    source = torch.ones(count, device=device)
    stop_if(cancel)  # either takes a while of a large cache
    target = torch.zeros(count, device=device)
    calls = {"copy": lambda: target.copy_(source), "read": lambda: torch.dot(source, source)}
    moved = {"copy": 8 * count, "read": 4 * count}
    times = time_interleaved(
        calls, device=device, budget_s=budget_s, min_runs=5, max_runs=50, warm_up=1, cancel=cancel, timer=timer
    )
    return max(moved[name] / min(seconds) for name, seconds in times.items())


def _matmul_rate(
    device: str, dtype: torch.dtype, budget_s: float, cancel: threading.Event | None, timer: Timer | None
) -> float:
    """Operations per second of the fastest square matrix product; sizes grow as long as the next one is quick."""
    best = 0.0
    for size in _SIZES:
        x, weight = (torch.full((size, size), 0.5, device=device, dtype=dtype) for _ in range(2))
        times = time_interleaved(
            {"matmul": lambda x=x, weight=weight: functional.linear(x, weight)},  # type: ignore[misc]
            device=device,
            budget_s=budget_s,
            min_runs=3,
            max_runs=50,
            cancel=cancel,
            timer=timer,
        )
        fastest = min(times["matmul"])
        best = max(best, 2 * size**3 / fastest)
        if 8 * fastest > budget_s:  # twice the size takes eight times as long
            break
    return best
