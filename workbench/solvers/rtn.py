"""Round-to-nearest, judged as it is stored: scale and zero point are rounded first, the codes are found against them.

Formulas of torchao 0.11's primitives on groups of g weights, in float32, with these differences, each for groups where
the formula as it stands loses what could be kept:

- the scale has no epsilon but the smallest normal number, so that groups of tiny weights keep their shape;
- a range that bfloat16, in which the kernels dequantize, would overflow is narrowed: by up to 1 %, in the int and
  symmetric domains by up to half a code more, because their grid begins and ends where the zero point lets it;
- a float zero point that its storage dtype moves by more than `_REFIT_STEPS` codes gets a scale that reaches the
  group's weights from where the zero point landed, so that a constant group stays (nearly) constant;
- a constant group in the int and symmetric domains is one code away from zero, exact when its value is storable.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.affine import MID_POINT, QUANT_MAX
from workbench.config import Domain

SMALLEST_SCALE = torch.finfo(torch.float32).tiny
_FLOAT32_MAX = torch.finfo(torch.float32).max
_BFLOAT16_MAX = torch.finfo(torch.bfloat16).max
_LARGEST_SCALE = _BFLOAT16_MAX / 8  # 8 codes below the zero point stay finite
_RANGE_LIMIT = _FLOAT32_MAX * (1 - 2**-7)  # room for the rounding of scale and zero point
_CONSTANT_LIMIT = _FLOAT32_MAX * (1 - 2**-15)
_REFIT_STEPS = 4
HUGE = 2.0**120  # beyond it the arithmetic of a group takes care of overflow


@dataclass(frozen=True, eq=False)
class GroupParams:
    """Scale and zero point of groups, already rounded to what is stored.

    Attributes:
        scale: float32 [C, 1], weight units per code.
        zero: float32 [C, 1]: float domain: the value of code 8 in weight units; int domain: a whole number 0..15;
            symmetric: None.
    """

    scale: Tensor
    zero: Tensor | None


@dataclass(frozen=True, eq=False)
class Improved:
    """What a solver found that starts from round-to-nearest.

    Attributes:
        params: Scale and zero point as stored.
        improved: Number of groups that are better than round-to-nearest.
        history: Sum of the objective over all weights: round-to-nearest, then best so far after each step.
    """

    params: GroupParams
    improved: int
    history: list[float]


def nearest_params(low: Tensor, high: Tensor, domain: Domain, preserve_zero: bool, dtype: torch.dtype) -> GroupParams:
    """Return scale and zero point of groups from their extremes.

    Args:
        low: Smallest weight of each group, finite float32 [C, 1].
        high: Largest weight of each group, finite float32 [C, 1].
        domain: "float", "int" or "symmetric".
        preserve_zero: Widen each range to contain 0; the int domain, whose zero point is a code, always does.
        dtype: Storage dtype of the scale, and of a float zero point.
    """
    constant = low == high
    only = low.clamp(-_CONSTANT_LIMIT, _CONSTANT_LIMIT)
    low, high = low.clamp(min=-_RANGE_LIMIT), high.clamp(max=_RANGE_LIMIT)
    if preserve_zero or domain == "int":
        low, high = low.clamp(max=0), high.clamp(min=0)
    if domain == "float":
        if preserve_zero:
            return _float_params(low, high, dtype)
        return _float_params(torch.where(constant, only, low), torch.where(constant, only, high), dtype)
    span = torch.maximum(-low, high) / 7.5 if domain == "symmetric" else high / 15 - low / 15
    scale = stored(torch.where(constant, only.abs(), span).clamp(SMALLEST_SCALE, None), dtype)
    if domain == "symmetric":
        return GroupParams(torch.where(constant, scale, scale.clamp(max=_LARGEST_SCALE)), None)
    zero = (-torch.round(low / scale)).clamp(0, QUANT_MAX)
    zero = torch.where(constant, torch.full_like(zero, MID_POINT), zero)
    return GroupParams(torch.where(constant, scale, torch.minimum(scale, _largest_scale(zero, dtype))), zero)


def _largest_scale(zero: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the scale under which both ends of the grid, -zero * s and (15 - zero) * s, are finite in bfloat16.

    The zero point is rounded to a code, so an end can lie half a code beyond the weights, and so beyond all numbers.
    """
    return stored(_BFLOAT16_MAX * (1 - 2**-8) / torch.maximum(zero, QUANT_MAX - zero), dtype)


def _float_params(low: Tensor, high: Tensor, dtype: torch.dtype) -> GroupParams:
    span = high / 15 - low / 15
    scale = stored(span.clamp(SMALLEST_SCALE, _LARGEST_SCALE), dtype)
    middle = low / 2 + high / 2
    exact_zero = torch.where(span < SMALLEST_SCALE, middle, middle + scale / 2)
    zero = stored(exact_zero, dtype)
    reach = torch.maximum((high - zero) / 7, (zero - low) / MID_POINT).clamp(SMALLEST_SCALE, _LARGEST_SCALE)
    moved = (zero - exact_zero).abs() > _REFIT_STEPS * span
    return GroupParams(torch.where(moved, stored(reach, dtype), scale), zero)


def stored(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Round float32 values to what `dtype` holds, clamped to what is finite in bfloat16, which the kernels run."""
    clamped = values.clamp(-_BFLOAT16_MAX, _BFLOAT16_MAX)
    return clamped if dtype == torch.float32 else clamped.to(dtype).float()


def stored_scale(wanted: Tensor, before: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what is stored for a wanted scale, float32 [C, 1]; one that is none leaves the scale before.

    Args:
        wanted: Weight units per code, float32 [C, 1]; NaN or no more than the smallest scale is none.
        before: The scale before, as stored, float32 [C, 1].
        dtype: dtype in which scales are stored.
    """
    kept = stored(wanted, dtype)
    return torch.where(kept > SMALLEST_SCALE, kept, before)


def stored_zero(wanted: Tensor, scale: Tensor, preserve_zero: bool, dtype: torch.dtype) -> Tensor:
    """Return what is stored for a wanted float zero point, float32 [C, 1].

    Args:
        wanted: Value of code 8 in weight units, float32 [C, 1].
        scale: The scale as stored, float32 [C, 1].
        preserve_zero: Whether the grid is to span 0.
        dtype: dtype in which zero points are stored.
    """
    if preserve_zero:
        wanted = torch.minimum(torch.maximum(wanted, (MID_POINT - QUANT_MAX) * scale), MID_POINT * scale)
    return stored(wanted, dtype)


def steps_from_zero(groups: Tensor, params: GroupParams, domain: Domain, huge: bool) -> Tensor:
    """Return each weight's distance from the zero point in codes, float32 [C, L]: (w - zero) / s, or w / s.

    Args:
        groups: float32 [C, L].
        params: Scale and zero point.
        domain: "float", "int" or "symmetric"; a float zero point alone is subtracted.
        huge: Halve before subtracting, so that the difference of two huge numbers stays finite.
    """
    if domain != "float" or params.zero is None:
        return groups / params.scale
    if huge:
        return (groups / 2 - params.zero / 2).div_(params.scale).mul_(2)
    return (groups - params.zero).div_(params.scale)


def nearest_codes(steps: Tensor, params: GroupParams, domain: Domain) -> Tensor:
    """Return the codes nearest to weights given in `steps_from_zero`, float32 [C, L] with whole numbers 0..15."""
    offset = params.zero if domain == "int" and params.zero is not None else MID_POINT
    return torch.round(steps).add_(offset).clamp_(0, QUANT_MAX)
