"""How long one token takes in one layer, int4 and dense: measured in a few hundred milliseconds, for a verdict."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from workbench.config import Int4WeightOnlyConfig
from workbench.measure.candidates import DENSE, LINEAR, calls_in_turn, generator, make_candidates
from workbench.measure.roofline import DTYPES
from workbench.measure.timing import environment, stop_if, time_interleaved
from workbench.records.record import Record

_BUDGET_S = 0.1  # seconds of timed calls of each


@dataclass(frozen=True)
class DecodeSpeed(Record):
    """One layer at batch 1, measured.

    Attributes:
        device: "cpu" or "cuda".
        device_name: Name of the processor or GPU.
        dtype: dtype of the activations and of the dense weight.
        n: out_features.
        k: in_features.
        group_size: Weights per group.
        int4_ms: Median time of a call of our layer, in milliseconds.
        dense_ms: The same of the dense layer.
        runs: Timed calls of our layer.
    """

    device: str
    device_name: str
    dtype: str
    n: int
    k: int
    group_size: int
    int4_ms: float
    dense_ms: float
    runs: int

    @property
    def ratio(self) -> float:
        """How many times as fast as dense int4 is."""
        return self.dense_ms / self.int4_ms

    @property
    def said(self) -> str:
        """Which is faster, in a phrase."""
        times, said = (self.ratio, "as fast as") if self.ratio >= 1 else (1 / self.ratio, "slower than")
        return f"{times:,.{2 if times < 10 else 1 if times < 100 else 0}f}× {said} dense"

    def __str__(self) -> str:
        """Say it in a phrase, with what was measured."""
        return f"{self.said} (batch 1, {self.n}×{self.k} {self.dtype}, {self.device_name})"


def iter_decode(
    n: int,
    k: int,
    group_size: int,
    *,
    device: str = "cpu",
    dtype: str = "bfloat16",
    budget_s: float = _BUDGET_S,
    cancel: threading.Event | None = None,
) -> Iterator[DecodeSpeed | None]:
    """Yield None when everything is made and warm, then, once nothing else computes, the measured speed.

    Args:
        n: out_features.
        k: in_features.
        group_size: 256, 128, 64 or 32.
        device: "cpu" or "cuda".
        dtype: dtype of the activations and of the dense weight.
        budget_s: Seconds of timed calls of each.
        cancel: Set it to stop before the next call.

    Raises:
        Cancelled: when `cancel` was set.
    """
    config, random = Int4WeightOnlyConfig(group_size=group_size), generator(device)
    paths = (LINEAR, DENSE)
    made = make_candidates(*(n, k, config), device=device, dtype=dtype, paths=paths, compiled=False, cancel=cancel)
    inputs = [torch.randn(1, k, generator=random, device=device).to(DTYPES[dtype]) for _ in range(2)]
    with torch.inference_mode():
        for one in made:
            stop_if(cancel)
            one.calls[0](inputs[0])
    yield None
    with torch.inference_mode():
        times = time_interleaved(calls_in_turn(made, inputs), device=device, budget_s=budget_s, cancel=cancel)
    ours, dense = (1e3 * statistics.median(times[path]) for path in paths)
    name = environment(device).device_name
    yield DecodeSpeed(device, name, dtype, n, k, group_size, ours, dense, len(times[LINEAR]))
