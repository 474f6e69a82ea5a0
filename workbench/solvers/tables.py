"""The errors of many starting ranges at once: one row of a table for each weight, summed over its group.

In coordinates of its own group (the middle at 0 and the range 15 wide; or 0 at 0 and the largest |w| at 8), a weight's
error under a starting range is a fixed function of one number. So the functions of all starts are tabulated once over
bins of that number; the errors of a group under all of them are the sum of one row for each of its weights, which is
`embedding_bag`: some hundred candidates for the price of about ten roundings.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from workbench.affine import MID_POINT, QUANT_MAX
from workbench.config import Domain

_BINS = 512
_POINTS = 8  # of a bin, over which a table's error is averaged
_NARROWEST = 0.55  # share of the range that the narrowest start spans: weights beyond it are clipped
_INT_WIDEST = 1.06  # an integer zero point can end the grid half a code early: wider ones than the range can win
_RANGES: dict[Domain, int] = {"float": 12, "int": 14, "symmetric": 64}
_SHIFTS = 8  # phases of a float zero point within one code


@dataclass(frozen=True, eq=False)
class Starts:
    """Starting ranges in group coordinates, and the error of each by bin.

    Attributes:
        scale: float32 [J], code width.
        base: float32 [J], value of code 0.
        zero: float32 [J], the code whose value is 0 (int and symmetric domains; NaN in the float domain).
        errors: float32 [bins, J], mean |x - x_r|^norm in a bin.
        reach: Coordinates run from -reach to reach.
    """

    scale: Tensor
    base: Tensor
    zero: Tensor
    errors: Tensor
    reach: float

    def group_errors(self, x: Tensor, weights: Tensor | None) -> Tensor:
        """Return the error of each group under each start, about: float32 [C, J].

        Args:
            x: float32 [C, L], weights in group coordinates.
            weights: float32, broadcastable to [C, L]: how much each error counts; None counts all alike.
        """
        bins = len(self.errors)
        inside = bins * (1 - 2**-16)  # so that the largest coordinate still falls into the last bin
        places = (x * (inside / (2 * self.reach))).add_(inside / 2)
        places = places.nan_to_num_(0.0).clamp_(0, bins - 1).to(torch.int32)
        each = None if weights is None else weights.expand(x.shape).contiguous()
        return functional.embedding_bag(places, self.errors, mode="sum", per_sample_weights=each)


@functools.lru_cache(maxsize=32)
def starts(domain: Domain, norm: float, ranges: int | None, device: torch.device) -> Starts:
    """Return the starts of a domain for an error norm, made once.

    Args:
        domain: "float", "int" or "symmetric".
        norm: Exponent of the error.
        ranges: Number of ranges (for each zero point); None takes what suits the domain.
        device: Where the table shall lie.
    """
    count = _RANGES[domain] if ranges is None else ranges
    if domain == "float":
        shares = torch.linspace(1.0, _NARROWEST, count, dtype=torch.float64)
        shifts = (torch.arange(_SHIFTS, dtype=torch.float64) - (_SHIFTS - 1) / 2) / _SHIFTS
        scale = shares.repeat_interleave(_SHIFTS)
        base = (shifts.repeat(count) - QUANT_MAX / 2) * scale
        zero = torch.full_like(scale, float("nan"))
        reach = QUANT_MAX / 2
    else:
        zeros = torch.arange(QUANT_MAX + 1) if domain == "int" else torch.tensor([MID_POINT])
        zero = zeros.double().repeat_interleave(count)
        shares = torch.linspace(_INT_WIDEST, _NARROWEST, count, dtype=torch.float64)
        reach = float(MID_POINT)
        scale = shares.repeat(len(zeros)) * reach / torch.maximum(zero, QUANT_MAX - zero)
        base = -zero * scale
    errors = _tabulate(scale, base, reach, norm)
    scale, base, zero, errors = (part.float().to(device) for part in (scale, base, zero, errors))
    return Starts(scale, base, zero, errors, reach)


def _tabulate(scale: Tensor, base: Tensor, reach: float, norm: float) -> Tensor:
    """Mean |x - x_r|^norm over the points of each bin: float64 [bins, J]."""
    count = _BINS * _POINTS
    points = ((torch.arange(count, dtype=torch.float64) + 0.5) * (2 * reach / count) - reach)[:, None]
    codes = ((points - base) / scale).round_().clamp_(0, QUANT_MAX)
    error = (points - (codes * scale + base)).abs_().pow_(norm)
    return error.view(_BINS, _POINTS, -1).mean(1)
