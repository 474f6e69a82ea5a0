"""The refined solver: least squares on scale and zero point in turn, group by group, from the best of many ranges.

Where `least_squares` starts decides where it ends: the errors of some hundred ranges are read from a table (`tables`),
and the best are taken. Every result is judged as stored, and round-to-nearest stays where it is better.
"""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.affine import MID_POINT, QUANT_MAX
from workbench.config import ResolvedConfig
from workbench.options import RefinedOptions
from workbench.solvers.least_squares import Grid, Groups, Space
from workbench.solvers.rtn import GroupParams, Improved
from workbench.solvers.tables import starts

_TINY, _HUGE = 2.0**-60, 2.0**60  # ranges beyond keep round-to-nearest: squares of their quotients would not be finite
_MARGIN = 1e-4  # relative gain that counts as one, above the rounding noise of the comparison
_NOISE = 2.0**-21  # of the largest |w| of a group: how far rounding moves the place of a weight on the grid


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
        self.space = Space(center, self.unit, domain, config.preserve_zero, config.scale_dtype)
        x = groups / self.unit if domain != "float" else (groups - center).div_(self.unit)
        self.groups = Groups(x, weights, self.options.norm)
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

    def next_grid(self, steps: int) -> Grid:
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
