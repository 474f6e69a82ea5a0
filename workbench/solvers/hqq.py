"""The half-quadratic solver: the zero point that makes the error of a group sparse, with round-to-nearest's scale.

Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning Models" (2023): alternate
w_e = shrink(w - w_r) and z = mean(q - (w - w_e) / s), with shrink(x) = sign(x) * relu(|x| - |x|^(p-1) / beta).

What differs from the reference implementation, and why: every iterate is judged as it will be stored, in its own
group (the reference stops all groups on the mean of the whole tensor); the best one is kept, round-to-nearest among
them; the start is the best of round-to-nearest and quarter-code shifts of its zero point; a group that has come to
rest is left out of the next iterations. Errors are mean |w - w_r| of a group, the reference's own measure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from workbench.affine import MID_POINT, QUANT_MAX
from workbench.config import Domain
from workbench.options import HqqOptions
from workbench.solvers.rtn import HUGE, GroupParams, stored

_SHIFTS = (0.25, -0.25, 0.5)  # of a code; a whole code changes nothing but the clamping
# What counts as better, relative and in codes: above the rounding noise of the comparison itself.
_MARGIN = (1e-5, 4e-6)
_WORTH_COMPACTING = 0.8  # share of groups still moving below which the others are left out


@dataclass(frozen=True, eq=False)
class Improved:
    """What the solver found.

    Attributes:
        zero: float32 [C, 1], as `GroupParams.zero`.
        improved: Number of groups whose zero point is better than round-to-nearest's.
        history: Sum over the groups of their best error so far, in weight units: first round-to-nearest, then one
            value for each iteration.
    """

    zero: Tensor
    improved: int
    history: list[float]


class _Judge:
    """Rounds groups against a zero point and measures the error; its two buffers are made once and stay in cache."""

    def __init__(self, steps: Tensor) -> None:
        self._shifted, self._codes = torch.empty_like(steps), torch.empty_like(steps)

    def __call__(self, steps: Tensor, middle: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (mean |error| in codes [C, 1], mean code [C, 1], signed error in codes [C, L], valid until next)."""
        shifted, codes = self._shifted[: len(steps)], self._codes[: len(steps)]
        torch.add(steps, middle, out=shifted)
        torch.round(shifted, out=codes).clamp_(0, QUANT_MAX)
        mean_code = codes.mean(1, keepdim=True)
        error = torch.sub(shifted, codes, out=shifted)
        return torch.abs(error, out=codes).mean(1, keepdim=True), mean_code, error


@dataclass(frozen=True, eq=False)
class _Lattice:
    """The zero points that can be stored, seen from the middle code that they stand for: z = code of the value 0."""

    scale: Tensor
    start: Tensor
    domain: Domain
    dtype: torch.dtype

    def snap(self, middle: Tensor) -> Tensor:
        """Return the storable zero point nearest to the one that moves the weights' codes by `middle`, [C, 1]."""
        if self.domain == "int":
            return torch.round(middle).clamp_(0, QUANT_MAX)
        return stored(torch.addcmul(self.start, MID_POINT - middle, self.scale), self.dtype)

    def middle(self, zero: Tensor) -> Tensor:
        """Return what to add to the steps from the first zero point so that they are codes under `zero`, [C, 1]."""
        return zero if self.domain == "int" else MID_POINT - (zero - self.start) / self.scale

    def of(self, kept: Tensor) -> _Lattice:
        return replace(self, scale=self.scale[kept], start=self.start[kept])


@dataclass(frozen=True, eq=False)
class _Moving:
    """The groups that have not come to rest: `place` among all groups, steps [A, L] and their mean, zero point."""

    place: Tensor
    steps: Tensor
    mean_steps: Tensor
    coarse: Tensor
    lattice: _Lattice
    zero: Tensor

    def only(self, kept: Tensor) -> _Moving:
        steps, mean_steps, coarse = self.steps[kept], self.mean_steps[kept], self.coarse[kept]
        return _Moving(self.place[kept], steps, mean_steps, coarse, self.lattice.of(kept), self.zero[kept])


def improve(
    steps: Tensor, extremes: Tensor, params: GroupParams, domain: Domain, dtype: torch.dtype, options: HqqOptions
) -> Improved:
    """Find better zero points than round-to-nearest's, group by group.

    Args:
        steps: float32 [C, L], the weights in codes away from `params.zero` (`steps_from_zero`).
        extremes: Largest |w| of each group, float32 [C, 1]; groups beyond `HUGE` keep round-to-nearest.
        params: Round-to-nearest's scale and zero point.
        domain: "float" or "int".
        dtype: Storage dtype of a float zero point.
        options: Norm, penalty, its growth, and the number of iterations.
    """
    assert params.zero is not None, "the configuration refuses HQQ in the symmetric domain"
    judge, lattice = _Judge(steps), _Lattice(params.scale, params.zero, domain, dtype)
    zero, best = params.zero.clone(), judge(steps, lattice.middle(params.zero))[0].clone()
    history = [_total(best, params.scale, steps)]
    movable = torch.nonzero(extremes.view(-1) < HUGE).view(-1)
    if options.iters == 0 or len(movable) == 0:
        return Improved(zero, 0, history * (options.iters + 1))
    coarse = (QUANT_MAX + 1) * params.scale > _least_shrunk(options)
    groups = _Moving(torch.arange(len(steps), device=steps.device), steps, steps.mean(1, True), coarse, lattice, zero)
    groups = groups if len(movable) == len(steps) else groups.only(movable)
    if domain == "float":
        for shift in _SHIFTS:
            shifted = groups.lattice.snap(torch.full_like(groups.zero, MID_POINT - shift))
            _keep_better(best, zero, groups, shifted, judge(groups.steps, groups.lattice.middle(shifted))[0])
        groups = replace(groups, zero=zero[groups.place])
    for iteration in range(options.iters + 1):
        error, mean_code, signed = judge(groups.steps, groups.lattice.middle(groups.zero))
        _keep_better(best, zero, groups, groups.zero, error)
        if iteration > 0:
            history.append(_total(best, params.scale, steps))
        sparse = _sparse_mean(signed, groups, options, iteration)
        moved = groups.lattice.snap(mean_code - groups.mean_steps + sparse)
        going = torch.nonzero(((moved != groups.zero) | groups.coarse).view(-1)).view(-1)
        if len(going) == 0:
            break
        groups = replace(groups, zero=moved)
        if len(going) < _WORTH_COMPACTING * len(groups.place):
            groups = groups.only(going)
    history += history[-1:] * (options.iters + 1 - len(history))
    return Improved(zero, int(torch.count_nonzero(zero != params.zero)), history)


def _keep_better(best: Tensor, zero: Tensor, groups: _Moving, candidate: Tensor, error: Tensor) -> None:
    """Take over, in place, the candidates that are better than the best so far."""
    before = best[groups.place]
    better = error < before * (1 - _MARGIN[0]) - _MARGIN[1]
    best[groups.place] = torch.where(better, error, before)
    zero[groups.place] = torch.where(better, candidate, zero[groups.place])


def _least_shrunk(options: HqqOptions) -> float:
    """Return the error, in weight units, up to which w_e is 0 in every iteration: |x|^(2-p) <= 1/beta."""
    largest_beta = options.beta * options.kappa**options.iters
    return float(largest_beta ** (-1 / (2 - options.lp_norm)))


def _sparse_mean(signed: Tensor, groups: _Moving, options: HqqOptions, iteration: int) -> Tensor | float:
    """Return mean(w_e) / s of each group, [A, 1]; 0 when no error of any group is large enough to matter."""
    if not bool(groups.coarse.any()):
        return 0.0
    error = signed * groups.lattice.scale
    size = error.abs()
    beta = options.beta * options.kappa**iteration
    kept = torch.relu(size - size.pow(options.lp_norm - 1) / beta)
    return (torch.sign(error) * kept).mean(1, keepdim=True) / groups.lattice.scale


def _total(best: Tensor, scale: Tensor, steps: Tensor) -> float:
    """Return the sum of |w - w_r| over all groups, in weight units."""
    return float((best.double() * scale).sum()) * steps.shape[1]
