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
from workbench.solvers.rtn import HUGE, GroupParams, Improved, stored

_SHIFTS = (0.25, -0.25, 0.5)  # of a code; a whole code changes nothing but the clamping
# What counts as better, relative and in codes: above the rounding noise of the comparison itself.
_MARGIN = (1e-5, 4e-6)
_WORTH_COMPACTING = 0.8  # share of groups still moving below which the others are left out


class _Judge:
    """Rounds groups against a zero point; its two buffers are made once and stay in cache."""

    def __init__(self, steps: Tensor) -> None:
        self._shifted, self._codes = torch.empty_like(steps), torch.empty_like(steps)

    def codes(self, steps: Tensor, middle: Tensor) -> tuple[Tensor, Tensor]:
        """Return (unrounded codes, codes), float32 [C, L], valid until the next call."""
        shifted, codes = self._shifted[: len(steps)], self._codes[: len(steps)]
        torch.add(steps, middle, out=shifted)
        return shifted, torch.round(shifted, out=codes).clamp_(0, QUANT_MAX)

    def error(self, steps: Tensor, middle: Tensor) -> Tensor:
        """Return the mean |error| of each group in codes, [C, 1]."""
        shifted, codes = self.codes(steps, middle)
        return shifted.sub_(codes).abs_().mean(1, keepdim=True)


@dataclass(frozen=True, eq=False)
class _Lattice:
    """The zero points that can be stored, seen from the middle code that they stand for: z = code of the value 0."""

    scale: Tensor
    start: Tensor
    domain: Domain
    dtype: torch.dtype

    def snap(self, middle: Tensor | float) -> Tensor:
        """Return the storable zero point nearest to the one that moves the weights' codes by `middle`, [C, 1]."""
        if self.domain == "int":
            return torch.round(torch.as_tensor(middle)).clamp_(0, QUANT_MAX)
        return stored(self.start + (MID_POINT - middle) * self.scale, self.dtype)

    def middle(self, zero: Tensor) -> Tensor:
        """Return what to add to the steps from the first zero point so that they are codes under `zero`, [C, 1]."""
        return zero if self.domain == "int" else MID_POINT - (zero - self.start) / self.scale

    def of(self, kept: Tensor) -> _Lattice:
        return replace(self, scale=self.scale[kept], start=self.start[kept])


@dataclass(eq=False)
class _Moving:
    """The groups that have not come to rest.

    Attributes:
        place: Where they are among all groups, int64 [A].
        steps: float32 [A, L].
        mean_steps: float32 [A, 1].
        lattice: What can be stored.
        zero: The zero point to be judged next, float32 [A, 1].
        best_zero: The best one so far, float32 [A, 1].
        best_error: Its mean |error| in codes, float32 [A, 1].
        total: Sum of the best |error| of all groups, at rest or not, in weight units.
    """

    place: Tensor
    steps: Tensor
    mean_steps: Tensor
    lattice: _Lattice
    zero: Tensor
    best_zero: Tensor
    best_error: Tensor
    total: float

    def offer(self, zero: Tensor, error: Tensor) -> None:
        """Take over the zero points that are better than the best so far."""
        better = error < self.best_error * (1 - _MARGIN[0]) - _MARGIN[1]
        gain = torch.where(better, self.best_error - error, 0.0).double() * self.lattice.scale
        self.total -= float(gain.sum()) * self.steps.shape[1]
        self.best_zero = torch.where(better, zero, self.best_zero)
        self.best_error = torch.where(better, error, self.best_error)

    def only(self, kept: Tensor) -> _Moving:
        parts = (self.place, self.steps, self.mean_steps)
        place, steps, mean_steps = (part.index_select(0, kept) for part in parts)
        zero, best_zero, best_error = (part[kept] for part in (self.zero, self.best_zero, self.best_error))
        return _Moving(place, steps, mean_steps, self.lattice.of(kept), zero, best_zero, best_error, self.total)


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
        options: Norm, penalty, its growth, the number of iterations, and when a group is at rest.

    Returns:
        The zero points, and after each iteration the sum of |error| in weight units.
    """
    assert params.zero is not None, "the configuration refuses HQQ in the symmetric domain"
    judge, lattice = _Judge(steps), _Lattice(params.scale, params.zero, domain, dtype)
    error = judge.error(steps, lattice.middle(params.zero))
    total = float((error.double() * params.scale).sum()) * steps.shape[1]
    history = [total]
    movable = torch.nonzero(extremes.view(-1) < HUGE).view(-1)
    if options.iters == 0 or len(movable) == 0:
        return Improved(params, 0, history * (options.iters + 1))
    place = torch.arange(len(steps), device=steps.device)
    zero = params.zero.clone()
    groups = _Moving(place, steps, steps.mean(1, True), lattice, zero, zero, error, total)
    groups = groups if len(movable) == len(steps) else groups.only(movable)
    if domain == "float":
        for shift in _SHIFTS:
            shifted = groups.lattice.snap(MID_POINT - shift)
            groups.offer(shifted, judge.error(groups.steps, groups.lattice.middle(shifted)))
        groups.zero = groups.best_zero
    for iteration in range(options.iters + 1):
        kept = _iterate(groups, judge, options, iteration)
        if iteration > 0:
            history.append(groups.total)
        if len(kept) < _WORTH_COMPACTING * len(groups.place) or iteration == options.iters:
            zero[groups.place] = groups.best_zero
            groups = groups.only(kept)
        if len(kept) == 0:
            break
    history += [groups.total] * (options.iters + 1 - len(history))
    return Improved(GroupParams(params.scale, zero), int(torch.count_nonzero(zero != params.zero)), history)


def _iterate(groups: _Moving, judge: _Judge, options: HqqOptions, iteration: int) -> Tensor:
    """Judge the zero points of the groups, move them, and return the places of those that have not come to rest."""
    middle = groups.lattice.middle(groups.zero)
    shifted, codes = judge.codes(groups.steps, middle)
    wanted = codes.mean(1, keepdim=True).sub_(groups.mean_steps)
    signed = shifted.sub_(codes)
    size = torch.abs(signed, out=codes)
    groups.offer(groups.zero, size.mean(1, keepdim=True))
    sparse = _sparse_rows(size, groups.lattice.scale, options)
    if sparse is not None:
        wanted[sparse] += _sparse_mean(signed[sparse], groups.lattice.scale[sparse], options, iteration)
    moved = groups.lattice.snap(wanted)
    if options.tolerance:
        going = (groups.lattice.middle(moved) - middle).abs_() > options.tolerance
    else:
        going = moved != groups.zero
    if sparse is not None:
        going[sparse] = True  # a growing penalty can move them later
    groups.zero = moved
    return torch.nonzero(going.view(-1)).view(-1)


def _least_shrunk(options: HqqOptions) -> float:
    """Return the error, in weight units, up to which w_e is 0 in every iteration: |x|^(2-p) <= 1/beta."""
    largest_beta = options.beta * options.kappa**options.iters
    return float(largest_beta ** (-1 / (2 - options.lp_norm)))


def _sparse_rows(size: Tensor, scale: Tensor, options: HqqOptions) -> Tensor | None:
    """Return the places of the groups with an error large enough for w_e to matter in any iteration; None for none."""
    least = _least_shrunk(options)
    if float(scale.amax() * size.amax()) <= least:
        return None
    return torch.nonzero(size.amax(1) * scale.view(-1) > least).view(-1)


def _sparse_mean(signed: Tensor, scale: Tensor, options: HqqOptions, iteration: int) -> Tensor:
    """Return mean(w_e) / s of each group, [A, 1]."""
    error = signed * scale
    size = error.abs()
    beta = options.beta * options.kappa**iteration
    kept = torch.relu(size - size.pow(options.lp_norm - 1) / beta)
    return (torch.sign(error) * kept).mean(1, keepdim=True) / scale
