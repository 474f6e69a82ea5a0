"""What int4 does to a weight: summaries, errors of each group, maps at screen size, histograms."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from workbench.affine import QuantizedWeight, group_count
from workbench.errors import ConfigError, WeightError
from workbench.records import ErrorMap, ErrorSummary, Histogram

GroupMetric = Literal["rmse", "max", "mean_abs", "relative", "scale", "zero"]
Metric = Literal["rmse", "max", "mean_abs", "relative", "scale", "zero", "original", "dequantized"]
METRICS: tuple[Metric, ...] = get_args(Metric)
GROUP_METRICS: tuple[GroupMetric, ...] = get_args(GroupMetric)
MAX_SIDE = 512
_BLOCK_ELEMENTS = 1 << 20  # dense float32 held at a time: 4 MiB a tensor
_LOG_RANGE = 1e4  # a log scale spans at most four decades below its top


def error_summary(weight: Tensor, quantized: QuantizedWeight) -> ErrorSummary:
    """Sum up the error of a whole weight; sums are float64, no dense copy of the weight is made.

    Args:
        weight: float [N, K], the original.
        quantized: What is stored for it.

    Raises:
        ConfigError: when the shapes differ.
        WeightError: when there are no weights, or one of them is NaN or infinite.
    """
    _check_pair(weight, quantized)
    square = absolute = signal = 0.0
    worst, worst_at = -1.0, (0, 0)
    for start, original, error in _blocks(weight, quantized):
        square += float(error.double().square().sum())
        absolute += float(error.double().abs().sum())
        signal += float(original.double().square().sum())
        flat = int(error.abs().argmax())
        value = float(error.flatten()[flat].abs())
        if value > worst:
            worst, worst_at = value, (start + flat // error.shape[1], flat % error.shape[1])
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


def group_errors(weight: Tensor, quantized: QuantizedWeight, metric: GroupMetric = "rmse") -> Tensor:
    """Return a value for each group, float32 [N, ceil(K/group_size)]; a short last group counts its own weights only.

    Args:
        weight: float [N, K], the original.
        quantized: What is stored for it.
        metric: "rmse", "max" and "mean_abs" in weight units; "relative" is the RMS error over the RMS of the group's
            weights; "scale" and "zero" (the value of code 8) are what is stored.

    Raises:
        ConfigError: for an unknown metric, or when the shapes differ.
        WeightError: when there are no weights, or one of them is NaN or infinite.
    """
    if metric not in GROUP_METRICS:
        raise ConfigError(f"metric={metric!r}.", allowed=", ".join(GROUP_METRICS))
    _check_pair(weight, quantized)
    if metric == "scale":
        return quantized.scale.float()
    if metric == "zero":
        return quantized.zero_in_weight_units()
    n, k = weight.shape
    groups = group_count(k, quantized.group_size)
    result = torch.empty(n, groups, dtype=torch.float32, device=weight.device)
    lengths = torch.full((groups,), float(quantized.group_size), device=weight.device)
    lengths[-1] = k - (groups - 1) * quantized.group_size
    for start, original, error in _blocks(weight, quantized):
        grouped = _grouped(error, quantized.group_size)
        rows = slice(start, start + error.shape[0])
        if metric == "max":
            result[rows] = grouped.abs().amax(-1)
        elif metric == "mean_abs":
            result[rows] = (grouped.abs().sum(-1, dtype=torch.float64) / lengths).float()
        else:
            rmse = (grouped.double().square().sum(-1) / lengths).sqrt()
            if metric == "relative":
                power = (_grouped(original, quantized.group_size).double().square().sum(-1) / lengths).sqrt()
                rmse = torch.where(power > 0, rmse / power, torch.zeros_like(rmse))
            result[rows] = rmse.float()
    return result


def error_map(
    weight: Tensor,
    quantized: QuantizedWeight,
    *,
    metric: Metric = "rmse",
    reduce: Literal["max", "mean"] = "max",
    max_rows: int = MAX_SIDE,
    max_cols: int = MAX_SIDE,
) -> ErrorMap:
    """Make a picture of a weight at screen size: rows x groups, or rows x columns for the weights themselves.

    A cell stands for `row_span` rows and `col_span` columns, reduced by max (of the absolute value for signed
    metrics, sign kept) or by mean; codes are uint8 on a linear or logarithmic scale that holds the true extremes.

    Raises:
        ConfigError: for an unknown metric or reduction, a picture without cells, or shapes that differ.
        WeightError: when there are no weights, or one of them is NaN or infinite.
    """
    if metric not in METRICS:
        raise ConfigError(f"metric={metric!r}.", allowed=", ".join(METRICS))
    if reduce not in ("max", "mean"):
        raise ConfigError(f"reduce={reduce!r}.", allowed="'max' or 'mean'")
    if max_rows < 1 or max_cols < 1:
        raise ConfigError(f"A picture of at most {max_rows} x {max_cols} cells.", allowed="1 or more each way")
    _check_pair(weight, quantized)
    if metric == "original":
        values = weight.float()
    elif metric == "dequantized":
        values = quantized.dequantize()
    else:
        values = group_errors(weight, quantized, metric)
    signed = metric in ("zero", "original", "dequantized")
    small, row_span, col_span = reduce_to(values, max_rows, max_cols, reduce)
    codes, lo, hi, log = _coded(small, signed=signed, log=metric in ("rmse", "max", "mean_abs", "scale"))
    return ErrorMap(
        values=codes,
        rows=small.shape[0],
        cols=small.shape[1],
        lo=lo,
        hi=hi,
        unit=_UNITS[metric],
        log=log,
        row_span=row_span,
        col_span=col_span,
        total_rows=values.shape[0],
        total_cols=values.shape[1],
        reduce=reduce if row_span * col_span > 1 else "none",
        metric=metric,
    )


_UNITS: dict[Metric, str] = {
    "rmse": "RMS error, weight units",
    "max": "largest |error|, weight units",
    "mean_abs": "mean |error|, weight units",
    "relative": "RMS error / RMS weight",
    "scale": "scale, weight units per code",
    "zero": "value of code 8, weight units",
    "original": "weight",
    "dequantized": "dequantized weight",
}


def reduce_to(values: Tensor, max_rows: int, max_cols: int, how: Literal["max", "mean"]) -> tuple[Tensor, int, int]:
    """Shrink [R, C] to at most [max_rows, max_cols]; each value counts in exactly one cell.

    Returns:
        The small tensor, and how many rows and columns a cell stands for (fewer at the far edges).
    """
    rows, cols = values.shape
    row_span, col_span = -(-rows // max_rows), -(-cols // max_cols)
    if row_span == 1 and col_span == 1:
        return values, 1, 1
    out_rows, out_cols = -(-rows // row_span), -(-cols // col_span)
    pad = (0, out_cols * col_span - cols, 0, out_rows * row_span - rows)
    shape = (out_rows, row_span, out_cols, col_span)
    if how == "mean":
        total = functional.pad(values, pad).view(shape).sum((1, 3), dtype=torch.float64)
        count = functional.pad(torch.ones_like(values), pad).view(shape).sum((1, 3), dtype=torch.float64)
        return (total / count).float(), row_span, col_span
    high = functional.pad(values, pad, value=-math.inf).view(shape).amax((1, 3))
    low = functional.pad(values, pad, value=math.inf).view(shape).amin((1, 3))
    return torch.where(low.abs() > high.abs(), low, high), row_span, col_span


def sampled_rows(n: int, limit: int = 256) -> Tensor:
    """Return at most `limit` row indices, evenly spaced over n rows, int64 and increasing."""
    if n <= limit:
        return torch.arange(n)
    return torch.linspace(0, n - 1, limit, dtype=torch.float64).round().long()


def histogram(weight: Tensor, quantized: QuantizedWeight, bins: int = 64) -> Histogram:
    """Count the weights and their errors in even bins over their own ranges.

    Raises:
        ConfigError: when the shapes differ, or for less than one bin.
        WeightError: when there are no weights, or one of them is NaN or infinite.
    """
    if bins < 1:
        raise ConfigError(f"bins={bins!r}.", allowed="1 or more")
    _check_pair(weight, quantized)
    extreme = float(weight.float().abs().max())
    error_extreme = max(float(error.abs().max()) for _, _, error in _blocks(weight, quantized))
    limit, error_limit = extreme or 1.0, error_extreme or 1.0
    counts = torch.zeros(bins, dtype=torch.float64)
    error_counts = torch.zeros(bins, dtype=torch.float64)
    for _, original, error in _blocks(weight, quantized):
        counts += torch.histc(original.cpu().double(), bins, -limit, limit)
        error_counts += torch.histc(error.cpu().double(), bins, -error_limit, error_limit)
    return Histogram(bins, limit, tuple(int(c) for c in counts), error_limit, tuple(int(c) for c in error_counts))


def _blocks(weight: Tensor, quantized: QuantizedWeight) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield (first row, original float32 [R, K], error float32 [R, K]) for blocks of rows."""
    n, k = weight.shape
    step = max(1, _BLOCK_ELEMENTS // max(1, k))
    for start in range(0, n, step):
        rows = slice(start, min(n, start + step))
        original = weight[rows].float()
        yield start, original, quantized.part(rows).dequantize() - original


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def _grouped(values: Tensor, group_size: int) -> Tensor:
    """View [R, K] as [R, G, group_size], a short last group padded with zeros."""
    missing = -values.shape[1] % group_size
    if missing:
        values = functional.pad(values, (0, missing))
    return values.view(values.shape[0], -1, group_size)


def _coded(values: Tensor, *, signed: bool, log: bool) -> tuple[bytes, float, float, bool]:
    """Turn values into uint8 codes on a scale that holds their extremes; signed scales are even around zero."""
    finite = values.double().cpu()
    low, high = float(finite.min()), float(finite.max())
    if signed:
        extreme = max(abs(low), abs(high)) or 1.0
        low, high = -extreme, extreme
    elif log and high > 0:
        low = max(low, high / _LOG_RANGE)
        if low >= high:
            low = high / 1.01
        span = math.log(high / low)
        codes = (finite.clamp(min=low) / low).log().mul_(255 / span)
        return _bytes(codes), low, high, True
    if not high > low:
        high = low + (abs(low) or 1.0)
    return _bytes((finite - low).mul_(255 / (high - low))), low, high, False


def _bytes(codes: Tensor) -> bytes:
    return codes.round_().clamp_(0, 255).to(torch.uint8).contiguous().numpy().tobytes()


def _check_pair(weight: Tensor, quantized: QuantizedWeight) -> None:
    if weight.shape != quantized.shape:
        raise ConfigError(
            f"The weight is {list(weight.shape)}, the quantized one {list(quantized.shape)}.", allowed="one shape"
        )
    if weight.numel() == 0:
        raise WeightError(f"A weight of shape {list(weight.shape)} has no elements.", mend="leave this layer out")
    low, high = torch.aminmax(weight)  # NaN comes through; no copy is made
    if not bool(torch.isfinite(torch.stack((low, high)).float()).all()):
        at = torch.nonzero(~torch.isfinite(weight.float()))[0].tolist()
        raise WeightError(f"weight{at} is {weight[tuple(at)].item()}.", allowed="finite weights")
