"""The refined solver: least squares on scale and zero point in turn, group by group, from the best of many ranges.

For codes q, the scale s and the value b of code 0 that minimize sum h (w - s q - b)^2 solve two linear equations in
the sums of h q, h q^2 and h q w; for a scale and base, the best codes are the nearest ones. Each half-step lowers the
error, so the two are done in turn (Lloyd's algorithm on an evenly spaced grid). Scale and zero point are rounded to
what is stored within each step, and every result is judged as stored. Where it starts decides where it ends: the errors
of some hundred ranges are read from a table (`tables`), and the best are taken. Round-to-nearest stays where it is
better.

Another norm than 2 is reached by weighting each error with |error|^(norm - 2) (iteratively reweighted least squares).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.affine import MID_POINT, QUANT_MAX
from workbench.config import Domain, ResolvedConfig
from workbench.options import RefinedOptions
from workbench.solvers.rtn import GroupParams, Improved, stored_scale, stored_zero
from workbench.solvers.tables import starts

_TINY, _HUGE = 2.0**-60, 2.0**60  # ranges beyond keep round-to-nearest: squares of their quotients would not be finite
_LEAST_ERROR = 1e-3  # codes; below it the weights of another norm than 2 grow no further
_MARGIN = 1e-4  # relative gain that counts as one, above the rounding noise of the comparison
_NOISE = 2.0**-21  # of the largest |w| of a group: how far rounding moves the place of a weight on the grid


@dataclass(frozen=True, eq=False)
class _Grid:
    """Candidate grids of groups: what is stored, and the same in group coordinates.

    Attributes:
        stored_scale: float32 [C, 1], weight units per code.
        stored_zero: float32 [C, 1], as `GroupParams.zero`; None in the symmetric domain.
        scale: float32 [C, 1], group coordinates per code.
        base: float32 [C, 1], group coordinate of code 0.
    """

    stored_scale: Tensor
    stored_zero: Tensor | None
    scale: Tensor
    base: Tensor

    def where(self, mask: Tensor, other: _Grid) -> _Grid:
        zero = None
        if self.stored_zero is not None and other.stored_zero is not None:
            zero = torch.where(mask, self.stored_zero, other.stored_zero)
        pairs = ((self.stored_scale, other.stored_scale), (self.scale, other.scale), (self.base, other.base))
        scale, inner, base = (torch.where(mask, one, two) for one, two in pairs)
        return _Grid(scale, zero, inner, base)


@dataclass(frozen=True, eq=False)
class _Space:
    """Group coordinates, x = (w - center) / unit, and what can be stored in them."""

    center: Tensor
    unit: Tensor
    domain: Domain
    preserve_zero: bool
    dtype: torch.dtype

    def storable(self, scale: Tensor, before: _Grid) -> Tensor:
        """Return what is stored for a wanted scale, in weight units; one that is none leaves the scale before."""
        return stored_scale(scale * self.unit, before.stored_scale, self.dtype)

    def grid(self, kept: Tensor, base: Tensor, zero_code: Tensor) -> _Grid:
        """Return the storable grid nearest to a wanted one, whose stored scale is given."""
        scale = kept / self.unit
        if self.domain != "float":
            zero = zero_code if self.domain == "int" else None
            return _Grid(kept, zero, scale, -zero_code * scale)
        wanted = (base + MID_POINT * scale) * self.unit + self.center
        zero = stored_zero(wanted, kept, self.preserve_zero, self.dtype)
        return _Grid(kept, zero, scale, (zero - self.center) / self.unit - MID_POINT * scale)

    def of(self, params: GroupParams) -> _Grid:
        """Return round-to-nearest's grid in group coordinates."""
        scale = params.scale / self.unit
        if self.domain == "float" and params.zero is not None:
            base = (params.zero - self.center) / self.unit - MID_POINT * scale
            return _Grid(params.scale, params.zero, scale, base)
        code = torch.full_like(scale, MID_POINT) if params.zero is None else params.zero
        return _Grid(params.scale, params.zero, scale, -code * scale)


class _Groups:
    """The weights of groups in group coordinates, and the sums that every step needs; buffers are made once."""

    def __init__(self, x: Tensor, weights: Tensor | None, norm: float) -> None:
        self.x, self.weights, self.norm = x, weights, norm
        self._codes, self._work = torch.empty_like(x), torch.empty_like(x)
        self._sum = x.sum(1, keepdim=True)

    def assign(self, grid: _Grid) -> Tensor:
        """Return the nearest codes, float32 [C, L], valid until the next call; `_work` holds the unrounded ones."""
        inverse = 1 / grid.scale
        torch.mul(self.x, inverse, out=self._work).sub_(grid.base * inverse)
        return torch.round(self._work, out=self._codes).clamp_(0, QUANT_MAX)

    def error(self, grid: _Grid) -> Tensor:
        """Return sum h |x - x_r|^norm of each group, [C, 1]."""
        codes = self.assign(grid)
        error = self._work.sub_(codes)
        if self.norm == 2:
            powers = error.mul_(error)
        else:
            powers = error.abs_() if self.norm == 1 else error.abs_().pow_(self.norm)
        if self.weights is not None:
            powers = powers.mul_(self.weights)
        return powers.sum(1, keepdim=True) * (grid.scale if self.norm == 1 else grid.scale.pow(self.norm))

    def step(self, grid: _Grid, space: _Space, zero_code: Tensor) -> _Grid:
        """Return the grid of least squares for the codes that are nearest under `grid`."""
        codes = self.assign(grid)
        h = self._step_weights(codes)
        if h is None:
            n, sum_x = torch.full_like(grid.base, self.x.shape[1]), self._sum
            hq = codes
        else:
            n, sum_x = h.sum(1, keepdim=True), torch.mul(h, self.x).sum(1, keepdim=True)
            hq = torch.mul(codes, h)
        q = hq.sum(1, keepdim=True)
        qx = torch.mul(hq, self.x, out=self._work).sum(1, keepdim=True)
        qq = torch.mul(hq, codes, out=self._work).sum(1, keepdim=True)
        if space.domain == "float":
            scale = (n * qx - q * sum_x) / (n * qq - q * q)
            kept = space.storable(scale, grid)
            return space.grid(kept, (sum_x - kept / space.unit * q) / n, zero_code)
        scale = (qx - zero_code * sum_x) / (qq - 2 * zero_code * q + zero_code * zero_code * n)
        return space.grid(space.storable(scale, grid), scale, zero_code)

    def _step_weights(self, codes: Tensor) -> Tensor | None:
        """Return what each weight counts in a step, broadcastable to [C, L]; None for all alike."""
        if self.norm == 2:
            return self.weights
        size = self._work.sub_(codes).abs_().clamp_(min=_LEAST_ERROR)
        factor = size.pow(self.norm - 2)
        return factor if self.weights is None else factor.mul_(self.weights)


class _Search:
    """Groups in their own coordinates, round-to-nearest's grid, and the errors of all starts."""

    def __init__(
        self,
        groups: Tensor,
        low: Tensor,
        high: Tensor,
        params: GroupParams,
        config: ResolvedConfig,
        weights: Tensor | None,
    ) -> None:
        self.options = config.options if isinstance(config.options, RefinedOptions) else RefinedOptions()
        domain, largest = config.domain, torch.maximum(-low, high)
        span = high - low if domain == "float" else largest
        self.movable = (span > _TINY) & (largest < _HUGE) & (span * 2.0**20 > largest)
        self.unit = torch.where(self.movable, span / (QUANT_MAX if domain == "float" else MID_POINT), 1.0)
        center = torch.where(self.movable, low / 2 + high / 2, 0.0) if domain == "float" else torch.zeros_like(low)
        self.space = _Space(center, self.unit, domain, config.preserve_zero, config.scale_dtype)
        x = groups / self.unit if domain != "float" else (groups - center).div_(self.unit)
        self.groups = _Groups(x, weights, self.options.norm)
        self.nearest = self.space.of(params)
        self._table = starts(domain, self.options.norm, self.options.ranges, groups.device)
        self._errors = self._table.group_errors(x, weights)

    def noise(self, largest: Tensor) -> Tensor:
        """Return the most by which rounding moves the difference of two errors to the power of min(1, 1 / norm).

        Each |x - x_r| is uncertain by some d. The 1/norm power of a sum of h |x - x_r|^norm is a norm, which moves by
        no more than (sum of h)^(1/norm) d; below 1, the sum itself moves by no more than (sum of h) d^norm.
        """
        norm, weights, x = self.options.norm, self.groups.weights, self.groups.x
        power, place = min(1.0, 1 / norm), _NOISE * largest / self.unit
        count = float(x.shape[1]) if weights is None else weights.expand(x.shape).sum(1, keepdim=True)
        return 2 * count**power * place.pow(norm * power)

    def next_grid(self, steps: int) -> _Grid:
        """Return the grid that least squares reaches from the best start that was not taken yet."""
        place = self._errors.min(1, keepdim=True).indices
        self._errors.scatter_(1, place, float("inf"))
        zero_code = self._table.zero[place]
        kept = self.space.storable(self._table.scale[place], self.nearest)
        grid = self.space.grid(kept, self._table.base[place], zero_code)
        for _ in range(steps):
            grid = self.groups.step(grid, self.space, zero_code)
        return grid


def refine(
    groups: Tensor,
    low: Tensor,
    high: Tensor,
    params: GroupParams,
    config: ResolvedConfig,
    weights: Tensor | None = None,
) -> Improved:
    """Find better scales and zero points than round-to-nearest's, group by group.

    Args:
        groups: float32 [C, L], finite.
        low: Smallest weight of each group, float32 [C, 1].
        high: Largest weight of each group, float32 [C, 1].
        params: Round-to-nearest's scale and zero point.
        config: Domain, storage dtype, preserve_zero, and the options (those of another solver: the defaults).
        weights: float32, broadcastable to [C, L]: how much each error counts; None counts all alike.

    Returns:
        Scales and zero points, and after each start the sum of h |error|^norm in weight units.
    """
    search = _Search(groups, low, high, params, config, weights)
    first = search.groups.error(search.nearest)
    best, best_error = search.nearest, first
    factor = search.unit.double().pow(search.options.norm)
    base = float(torch.where(search.movable, first.double() * factor, 0.0).sum())
    if not bool(search.movable.all()):
        base += _kept_error(groups, params, config, weights, search)
    history = [base]
    noise = search.noise(torch.maximum(-low, high))
    power = min(1.0, 1 / search.options.norm)
    for _ in range(search.options.starts):
        grid = search.next_grid(search.options.iters)
        error = search.groups.error(grid)
        better = search.movable & (error.pow(power) + noise < (best_error * (1 - _MARGIN)).pow(power))
        best, best_error = grid.where(better, best), torch.where(better, error, best_error)
        gain = torch.where(search.movable, first - best_error, 0.0)
        history.append(base - float((gain.double() * factor).sum()))
    result = GroupParams(best.stored_scale, best.stored_zero)
    return Improved(result, int((best_error < first).sum()), history)


def _kept_error(
    groups: Tensor, params: GroupParams, config: ResolvedConfig, weights: Tensor | None, search: _Search
) -> float:
    """Return the sum of h |error|^norm over the groups that keep round-to-nearest, in float64: any size is finite."""
    kept = ~search.movable[:, 0]
    scale = params.scale[kept].double()
    zero = torch.full_like(scale, MID_POINT) if params.zero is None else params.zero[kept].double()
    offset, shift = (MID_POINT, zero) if config.domain == "float" else (zero, 0.0)
    w = groups[kept].double()
    codes = ((w - shift) / scale + offset).round_().clamp_(0, QUANT_MAX)
    powers = (w - (codes - offset) * scale - shift).abs_().pow_(search.options.norm)
    return float((powers if weights is None else powers * weights.expand(groups.shape)[kept]).sum())


def candidates(
    groups: Tensor, params: GroupParams, low: Tensor, high: Tensor, config: ResolvedConfig, weights: Tensor, count: int
) -> list[GroupParams]:
    """Return round-to-nearest's parameters and those that least squares reaches from the best `count` starts.

    Args:
        groups: float32 [C, L], finite.
        params: Round-to-nearest's scale and zero point.
        low: Smallest weight of each group, float32 [C, 1].
        high: Largest weight of each group, float32 [C, 1].
        config: Domain, storage dtype and preserve_zero.
        weights: float32, broadcastable to [C, L]: how much each squared error counts.
        count: Number of starts.
    """
    search = _Search(groups, low, high, params, config, weights)
    found = [params]
    for _ in range(count):
        grid = search.next_grid(search.options.iters).where(search.movable, search.nearest)
        found.append(GroupParams(grid.stored_scale, grid.stored_zero))
    return found
