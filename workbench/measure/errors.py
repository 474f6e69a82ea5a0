"""What int4 does to a weight: summaries, errors of each group, maps at screen size, histograms."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor
from torch.nn import functional

from workbench.affine import QuantizedWeight, group_count
from workbench.errors import ConfigError, WeightError
from workbench.measure.pictures import coded, reduce_to, scale_of
from workbench.records.errors import ErrorMap, ErrorSummary, Histogram
from workbench.solvers.row_blocks import iter_row_blocks

_Result = TypeVar("_Result")
GroupMetric = Literal["rmse", "mse", "max", "mean_abs", "relative", "relative_max", "sqnr", "scale", "zero"]
Metric = Literal[
    "rmse", "mse", "max", "mean_abs", "relative", "relative_max", "sqnr", "scale", "zero", "original", "dequantized"
]
METRICS: tuple[Metric, ...] = get_args(Metric)
GROUP_METRICS: tuple[GroupMetric, ...] = get_args(GroupMetric)
MAX_SIDE = 512
# Dense float32 that is worked on at a time: what stays in a core's cache, or keeps a GPU busy.
_BLOCK_ELEMENTS, _BLOCK_ELSEWHERE = 1 << 17, 1 << 22
SQNR_LIMIT_DB = 150.0  # of a group: float32 has no digits beyond; an exact group counts as this
_LOGARITHMIC = ("rmse", "mse", "max", "mean_abs", "scale")
_WEIGHTS = ("original", "dequantized")
_SIGNED = ("zero", *_WEIGHTS)


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
    _check_pair(weight, quantized)
    square = absolute = signal = 0.0
    worst, worst_rows = -1.0, slice(0, 0)
    for rows, (squares, sizes, power, largest) in _each_block(_sums, weight, quantized, cancel):
        square, absolute, signal = square + squares, absolute + sizes, signal + power
        if largest > worst:
            worst, worst_rows = largest, rows
    flat = int(_error_in(weight, quantized, worst_rows)[1].abs().argmax())
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


def group_errors(
    weight: Tensor, quantized: QuantizedWeight, metric: GroupMetric = "rmse", group_size: int | None = None
) -> Tensor:
    """Return a value for each group, float32 [N, ceil(K/group_size)]; a short last group counts its own weights only.

    Args:
        weight: float [N, K], the original.
        quantized: What is stored for it.
        metric: "rmse", "max" and "mean_abs" in weight units, "mse" in squared ones; "relative" and "relative_max" are
            the RMS and the largest error over the RMS of the group's weights, "sqnr" the same in dB, within 150 dB;
            "scale" and "zero" (the value of code 8) are what is stored.
        group_size: Weights of a cell; None is that of the quantized weight, or for scale and zero a part of it.

    Raises:
        ConfigError: for an unknown metric, or when the shapes differ.
        WeightError: when there are no weights, or one of them is NaN or infinite.
    """
    if metric not in GROUP_METRICS:
        raise ConfigError(f"metric={metric!r}.", allowed=", ".join(GROUP_METRICS))
    _check_pair(weight, quantized)
    n, k = weight.shape
    size = group_size or quantized.group_size
    groups = group_count(k, size)
    if metric in ("scale", "zero"):
        _check_finite(weight)
        stored = quantized.scale.float() if metric == "scale" else quantized.zero_in_weight_units()
        return stored.repeat_interleave(quantized.group_size // size, 1)[:, :groups]
    result = torch.empty(n, groups, dtype=torch.float32, device=weight.device)
    lengths = torch.full((groups,), float(size), device=weight.device)
    lengths[-1] = k - (groups - 1) * size

    def errors_of(original: Tensor, error: Tensor) -> Tensor:
        return _error_of(_grouped(original, size), _grouped(error, size), lengths, metric).float()

    for rows, found in _each_block(errors_of, weight, quantized):
        result[rows] = found
    return result


def _error_of(weights: Tensor, errors: Tensor, lengths: Tensor, metric: GroupMetric) -> Tensor:
    """Return the error of each group, [R, G], of weights and errors float32 [R, G, size] and lengths float [G]."""
    if metric == "max":
        return errors.abs().amax(-1)
    if metric == "mean_abs":
        return errors.abs().sum(-1, dtype=torch.float64) / lengths
    mse = errors.double().square_().sum(-1) / lengths
    if metric == "mse":
        return mse.clamp(max=torch.finfo(torch.float32).max)
    if metric == "rmse":
        return mse.sqrt()
    power = (weights.double().square_().sum(-1) / lengths).sqrt()
    error = errors.abs().amax(-1).double() if metric == "relative_max" else mse.sqrt()
    if metric == "sqnr":
        decibels = 20 * (power / error).log10()  # 0/0 where both are zero: nothing is lost there
        return decibels.nan_to_num(nan=SQNR_LIMIT_DB).clamp(-SQNR_LIMIT_DB, SQNR_LIMIT_DB)
    return torch.where(power > 0, error / power, torch.zeros_like(error))


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
    if metric in _WEIGHTS:
        _check_finite(weight)
    return picture_of(map_values(weight, quantized, metric), metric, reduce, max_rows, max_cols)


def map_values(weight: Tensor, quantized: QuantizedWeight, metric: Metric, group_size: int | None = None) -> Tensor:
    """Return what a picture shows, float32 [N, groups], or [N, K] of the weights themselves.

    Args:
        weight: float [N, K], the original.
        quantized: What is stored for it.
        metric: What is shown.
        group_size: Weights of a cell, as `group_errors` takes it.
    """
    if metric == "original":
        return weight.float()
    if metric == "dequantized":
        return quantized.dequantize()
    return group_errors(weight, quantized, metric, group_size)


def picture_of(
    values: Tensor,
    metric: Metric,
    reduce: Literal["max", "mean"] = "max",
    max_rows: int = MAX_SIDE,
    max_cols: int = MAX_SIDE,
    limits: tuple[float, float] | None = None,
    *,
    difference: bool = False,
) -> ErrorMap:
    """Make a picture of values [R, C] at screen size.

    Args:
        values: float32 [R, C], as `map_values` returns them.
        metric: What they are.
        reduce: How blocks become cells; "max" keeps the worst, which of the SQNR is the least.
        max_rows: Most rows.
        max_cols: Most columns.
        limits: The least and the greatest value of the scale, for pictures that share one; None takes its own.
        difference: Whether they are differences of the metric: the scale is even around zero, and "max" keeps what is
            farthest from it.
    """
    least_kept = reduce == "max" and metric in LOW_IS_WORSE and not difference
    how: Literal["max", "mean", "min"] = "min" if least_kept else reduce
    small, row_span, col_span = reduce_to(values, max_rows, max_cols, how)
    least, greatest = limits or (float(small.min()), float(small.max()))
    lo, hi, log = scale_of(least, greatest, signed=difference or metric in _SIGNED, log=metric in _LOGARITHMIC)
    return ErrorMap(
        values=coded(small, lo, hi, log=log),
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
        reduce=how if row_span * col_span > 1 else "none",
        metric=metric,
    )


LOW_IS_WORSE: tuple[Metric, ...] = ("sqnr",)
_UNITS: dict[Metric, str] = {
    "rmse": "RMS error, weight units",
    "mse": "MSE, squared weight units",
    "max": "largest |error|, weight units",
    "mean_abs": "mean |error|, weight units",
    "relative": "RMS error / RMS weight",
    "relative_max": "largest |error| / RMS weight",
    "sqnr": "dB SQNR",
    "scale": "scale, weight units per code",
    "zero": "value of code 8, weight units",
    "original": "weight",
    "dequantized": "dequantized weight",
}


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
    low, high = torch.aminmax(weight)
    extreme = max(-float(low), float(high))
    error_extreme = max(sums[3] for _, sums in _each_block(_sums, weight, quantized))
    limit, error_limit = extreme or 1.0, error_extreme or 1.0
    counts = torch.zeros(bins, dtype=torch.float64)
    error_counts = torch.zeros(bins, dtype=torch.float64)

    def counted(original: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
        pairs = (original, limit), (error, error_limit)
        one, other = (torch.histc(values.cpu().double(), bins, -end, end) for values, end in pairs)
        return one, other

    for _, (some, errors) in _each_block(counted, weight, quantized):
        counts += some
        error_counts += errors
    return Histogram(bins, limit, tuple(int(c) for c in counts), error_limit, tuple(int(c) for c in error_counts))


def _each_block(
    work: Callable[[Tensor, Tensor], _Result],
    weight: Tensor,
    quantized: QuantizedWeight,
    cancel: threading.Event | None = None,
) -> Iterator[tuple[slice, _Result]]:
    """Yield (rows, `work(original, error)`) of blocks of rows, float32 [R, K], in order; on a CPU threads take blocks.

    A single thread works through a block that stays in its cache: shared among threads, each of the many short
    operations would wait for the slowest of them.
    """
    n, k = weight.shape
    on_cpu = weight.device.type == "cpu"
    step = max(1, (_BLOCK_ELEMENTS if on_cpu else _BLOCK_ELSEWHERE) // max(1, k))

    def part(start: int) -> tuple[slice, _Result]:
        rows = slice(start, min(n, start + step))
        original, error = _error_in(weight, quantized, rows)
        _check_finite(original, weight)
        return rows, work(original, error)

    if n <= step:  # no thread is started for a single group
        return iter([part(0)])
    return iter_row_blocks(part, n, step, weight.device, "the weight", cancel, None)


def _error_in(weight: Tensor, quantized: QuantizedWeight, rows: slice) -> tuple[Tensor, Tensor]:
    """Return some rows of the original and their error, float32 [R, K] each."""
    original = weight[rows].float()
    return original, quantized.part(rows).dequantize().sub_(original)


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


def _check_pair(weight: Tensor, quantized: QuantizedWeight) -> None:
    if weight.shape != quantized.shape:
        raise ConfigError(
            f"The weight is {list(weight.shape)}, the quantized one {list(quantized.shape)}.", allowed="one shape"
        )
    if weight.numel() == 0:
        raise WeightError(f"A weight of shape {list(weight.shape)} has no elements.", mend="leave this layer out")


def _check_finite(part: Tensor, whole: Tensor | None = None) -> None:
    """Refuse a part of a weight that holds NaN or infinity, and name the first one of the whole."""
    low, high = torch.aminmax(part)  # NaN comes through; no copy is made
    if not bool(torch.isfinite(torch.stack((low, high)).float()).all()):
        weight = part if whole is None else whole
        at = torch.nonzero(~torch.isfinite(weight.float()))[0].tolist()
        raise WeightError(f"weight{at} is {weight[tuple(at)].item()}.", allowed="finite weights")
