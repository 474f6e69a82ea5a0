"""The error of each group of a weight."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from workbench.affine import QuantizedWeight, group_count
from workbench.errors import ConfigError
from workbench.measure.error_blocks import check_finite, check_pair, each_block

GroupMetric = Literal["rmse", "mse", "max", "mean_abs", "relative", "relative_max", "sqnr", "scale", "zero"]
GROUP_METRICS: tuple[GroupMetric, ...] = get_args(GroupMetric)
SQNR_LIMIT_DB = 150.0  # of a group: float32 has no digits beyond; an exact group counts as this


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
    check_pair(weight, quantized)
    n, k = weight.shape
    size = group_size or quantized.group_size
    groups = group_count(k, size)
    if metric in ("scale", "zero"):
        check_finite(weight)
        stored = quantized.scale.float() if metric == "scale" else quantized.zero_in_weight_units()
        return stored.repeat_interleave(quantized.group_size // size, 1)[:, :groups]
    result = torch.empty(n, groups, dtype=torch.float32, device=weight.device)
    lengths = torch.full((groups,), float(size), device=weight.device)
    lengths[-1] = k - (groups - 1) * size

    def errors_of(original: Tensor, error: Tensor) -> Tensor:
        return _error_of(_grouped(original, size), _grouped(error, size), lengths, metric).float()

    for rows, found in each_block(errors_of, weight, quantized):
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


def _grouped(values: Tensor, group_size: int) -> Tensor:
    """View [R, K] as [R, G, group_size], a short last group padded with zeros."""
    missing = -values.shape[1] % group_size
    if missing:
        values = functional.pad(values, (0, missing))
    return values.view(values.shape[0], -1, group_size)
