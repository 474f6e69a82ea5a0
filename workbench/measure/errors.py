"""What int4 does to a whole weight: a summary of its errors, and their histogram."""

from __future__ import annotations

import math
import threading

import torch
from torch import Tensor

from workbench.affine import QuantizedWeight
from workbench.errors import ConfigError
from workbench.measure.error_blocks import check_pair, each_block, error_in
from workbench.records.errors import ErrorSummary, Histogram


def error_summary(weight: Tensor, quantized: QuantizedWeight, cancel: threading.Event | None = None) -> ErrorSummary:
    """Sum up the error of a whole weight; sums are float64, no dense copy of the weight is made.

    Args:
        weight: float [N, K], the original.
        quantized: What is stored for it.
        cancel: Set it to stop between blocks.

    Raises:
        ConfigError: when the shapes differ.
        WeightError: when there are no weights, or one of them is NaN or infinite.
        Cancelled: when `cancel` was set.
    """
    check_pair(weight, quantized)
    square = absolute = signal = 0.0
    worst, worst_rows = -1.0, slice(0, 0)
    for rows, (squares, sizes, power, largest) in each_block(_sums, weight, quantized, cancel):
        square, absolute, signal = square + squares, absolute + sizes, signal + power
        if largest > worst:
            worst, worst_rows = largest, rows
    flat = int(error_in(weight, quantized, worst_rows)[1].abs().argmax())
    worst_at = worst_rows.start + flat // weight.shape[1], flat % weight.shape[1]
    mse = square / weight.numel()
    return ErrorSummary(
        mse=mse,
        rmse=math.sqrt(mse),
        mean_abs=absolute / weight.numel(),
        max_abs=worst,
        max_at=worst_at,
        sqnr_db=_decibels(signal, square),
        relative_rmse=math.sqrt(square / signal) if signal > 0 else (math.inf if square > 0 else 0.0),
        bits_per_weight=quantized.bits_per_weight,
        count=weight.numel(),
    )


def _sums(original: Tensor, error: Tensor) -> tuple[float, float, float, float]:
    """Return the sums of error², |error| and weight² of a block, and the largest |error|; uses up both.

    Args:
        original: float32 [R, K].
        error: float32 [R, K].
    """
    low, high = torch.aminmax(error)
    wide, weights = error.double().flatten(), original.double().flatten()  # a weight may lie transposed
    squares, power = torch.dot(wide, wide), torch.dot(weights, weights)
    found = torch.stack((squares, wide.abs_().sum(), power, torch.maximum(-low, high).double()))
    squares_sum, sizes, power_sum, largest = found.tolist()
    return squares_sum, sizes, power_sum, largest


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def histogram(weight: Tensor, quantized: QuantizedWeight, bins: int = 64) -> Histogram:
    """Count the weights and their errors in even bins over their own ranges.

    Raises:
        ConfigError: when the shapes differ, or for less than one bin.
        WeightError: when there are no weights, or one of them is NaN or infinite.
    """
    if bins < 1:
        raise ConfigError(f"bins={bins!r}.", allowed="1 or more")
    check_pair(weight, quantized)
    low, high = torch.aminmax(weight)
    extreme = max(-float(low), float(high))
    error_extreme = max(sums[3] for _, sums in each_block(_sums, weight, quantized))
    limit, error_limit = extreme or 1.0, error_extreme or 1.0
    counts = torch.zeros(bins, dtype=torch.float64)
    error_counts = torch.zeros(bins, dtype=torch.float64)

    def counted(original: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
        pairs = (original, limit), (error, error_limit)
        one, other = (torch.histc(values.cpu().double(), bins, -end, end) for values, end in pairs)
        return one, other

    for _, (some, errors) in each_block(counted, weight, quantized):
        counts += some
        error_counts += errors
    return Histogram(bins, limit, tuple(int(c) for c in counts), error_limit, tuple(int(c) for c in error_counts))
