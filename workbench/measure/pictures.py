"""Matrices at screen size: reduced by blocks, and as bytes on a scale that holds the true extremes."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

_LOG_RANGE = 1e4  # a log scale spans at most four decades below its top


def reduce_to(
    values: Tensor, max_rows: int, max_cols: int, how: Literal["max", "mean", "min"]
) -> tuple[Tensor, int, int]:
    """Shrink [R, C] to at most [max_rows, max_cols]; each value counts in exactly one cell.

    "max" takes the value that is farthest from zero, with its sign; "min" the least, "mean" the mean.

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
    low = functional.pad(values, pad, value=math.inf).view(shape).amin((1, 3))
    if how == "min":
        return low, row_span, col_span
    high = functional.pad(values, pad, value=-math.inf).view(shape).amax((1, 3))
    return torch.where(low.abs() > high.abs(), low, high), row_span, col_span


def scale_of(low: float, high: float, *, signed: bool, log: bool) -> tuple[float, float, bool]:
    """Return the ends of a scale that holds low to high, and whether it is logarithmic.

    A signed scale is even around zero, a logarithmic one spans four decades at most, and none is without extent.
    """
    if signed:
        extreme = max(abs(low), abs(high)) or 1.0
        return -extreme, extreme, False
    if log and high > 0:
        low = max(low, high / _LOG_RANGE)
        return (low if low < high else high / 1.01), high, True
    return low, (high if high > low else low + (abs(low) or 1.0)), False


def coded(values: Tensor, low: float, high: float, *, log: bool) -> bytes:
    """Turn values into uint8 codes on a scale; those beyond its ends take the code of the end."""
    finite = values.double().cpu()
    if log:
        share = (finite.clamp(min=low) / low).log().div_(math.log(high / low))
    else:
        share = (finite - low).div_(high - low)
    return share.mul_(255).round_().clamp_(0, 255).to(torch.uint8).contiguous().numpy().tobytes()
