"""Pictures of a weight at screen size: the errors of its groups, what is stored of them, or the weights themselves."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from workbench.affine import QuantizedWeight
from workbench.errors import ConfigError
from workbench.measure.error_blocks import check_finite, check_pair
from workbench.measure.group_errors import group_errors
from workbench.measure.pictures import coded, reduce_to, scale_of
from workbench.records.errors import ErrorMap

Metric = Literal[
    "rmse", "mse", "max", "mean_abs", "relative", "relative_max", "sqnr", "scale", "zero", "original", "dequantized"
]
METRICS: tuple[Metric, ...] = get_args(Metric)
MAX_SIDE = 512
LOW_IS_WORSE: tuple[Metric, ...] = ("sqnr",)
_LOGARITHMIC = ("rmse", "mse", "max", "mean_abs", "scale")
_WEIGHTS = ("original", "dequantized")
_SIGNED = ("zero", *_WEIGHTS)
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
    check_pair(weight, quantized)
    if metric in _WEIGHTS:
        check_finite(weight)
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
