"""Rows of a weight, rounded column by column with the errors fed back, then solved again group by group."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.affine import MID_POINT, QUANT_MAX
from workbench.config import ResolvedConfig
from workbench.solvers.geometry import Geometry, GroupFactor, Span
from workbench.solvers.refined import candidates
from workbench.solvers.rtn import GroupParams, nearest_params, stored_scale, stored_zero


@dataclass(frozen=True, eq=False)
class Grid:
    """The grids of one group of each row.

    Attributes:
        scale: float32 [..., n], as stored.
        zero: float32 [..., n], the value of code 8 in weight units.
        stored_zero: float32 [..., n], as `GroupParams.zero` (the value of code 8 again in the symmetric domain).
    """

    scale: Tensor
    zero: Tensor
    stored_zero: Tensor

    @classmethod
    def of(cls, params: GroupParams, config: ResolvedConfig) -> Grid:
        """Return the grids of parameters float32 [n, 1]; of the configuration, the domain is read."""
        scale = params.scale[:, 0]
        if params.zero is None:
            return cls(scale, torch.zeros_like(scale), torch.zeros_like(scale))
        kept = params.zero[:, 0]
        return cls(scale, (MID_POINT - kept) * scale if config.domain == "int" else kept, kept)

    def values(self, codes: Tensor) -> Tensor:
        """Return the values of codes, both float32 [L, ..., n], in weight units."""
        return (codes - MID_POINT) * self.scale + self.zero

    def chosen(self, place: Tensor) -> Grid:
        """Return row by row the grid at `place`, int64 [1, n], of a stack [M, n]."""
        return Grid(*(part.gather(0, place)[0] for part in (self.scale, self.zero, self.stored_zero)))

    def where(self, mask: Tensor, other: Grid) -> Grid:
        """Return row by row this grid where `mask`, bool [n], is true, else the other."""
        return Grid(
            torch.where(mask, self.scale, other.scale),
            torch.where(mask, self.zero, other.zero),
            torch.where(mask, self.stored_zero, other.stored_zero),
        )


class RowBlock:
    """Rows of a weight on their way to int4, columns in the order of solving.

    Attributes:
        target: float32 [n, K], the weights.
        codes: float32 [K, n], whole numbers 0..15.
        grids: The grid of each group, in the order of solving.
    """

    def __init__(self, target: Tensor, space: Geometry, config: ResolvedConfig, count: int) -> None:
        """Solve `target` with `count` candidates for each group."""
        self.target, self._space, self._config, self._count = target, space, config, count
        self.codes = torch.empty(target.shape[1], target.shape[0], device=target.device)
        self.grids: list[Grid] = []

    def values(self) -> Tensor:
        """Return what the codes stand for: float32 [n, K]."""
        parts = [
            grid.values(self.codes[span.start : span.stop])
            for grid, span in zip(self.grids, self._space.spans, strict=True)
        ]
        return torch.cat(parts).t()

    def first_group(self, rest: Tensor, span: Span) -> None:
        """Choose grid and codes of the next group, and feed its errors back.

        Args:
            rest: float32 [n, K], the weights with the errors of the groups before added; changed in place.
            span: The group.
        """
        block, upper = rest[:, span.start : span.stop], self._space.upper
        own = upper[span.start : span.stop, span.start : span.stop]
        tried = self._candidates(block, self._space.weights(span))
        grid, codes, errors = _best(block, tried, own)
        self.codes[span.start : span.stop] = codes
        self.grids.append(grid)
        rest[:, span.stop :].addmm_(errors.t(), upper[span.start : span.stop, span.stop :], alpha=-1)

    def again(self, number: int, span: Span, gradient: Tensor, factor: GroupFactor) -> Tensor:
        """Solve a group against the errors of all others, for each row where that lowers the error.

        Args:
            number: Place of the group in the order of solving.
            span: The group.
            gradient: float32 [n, L]: (w - w_r) (H + D), the columns of the group.
            factor: Of the group.

        Returns:
            How the values of the group changed, float32 [n, L].
        """
        grid, codes = self.grids[number], self.codes[span.start : span.stop]
        before = grid.values(codes).t()
        wanted = before + gradient @ factor.inverse
        tried = [grid, *self._candidates(wanted, factor.weights)]
        other, other_codes, _ = _best(wanted, tried, factor.upper)
        change = other.values(other_codes).t() - before
        gain = 2 * (change * gradient).sum(1) - ((change @ factor.moments) * change).sum(1)
        better = gain > 0
        grid, codes = other.where(better, grid), torch.where(better, other_codes, codes)
        left = gradient - (grid.values(codes).t() - before) @ factor.moments
        for _ in range(2):
            grid, left = self._fit(grid, codes, left, factor.moments)
            codes, left = _move_codes(grid, codes, left, factor.moments)
        self.grids[number] = grid
        self.codes[span.start : span.stop] = codes
        return grid.values(codes).t() - before

    def _candidates(self, block: Tensor, weights: Tensor) -> list[Grid]:
        block = block.contiguous()
        low, high = block.amin(1, keepdim=True), block.amax(1, keepdim=True)
        config = self._config
        params = nearest_params(low, high, config.domain, config.preserve_zero, config.scale_dtype)
        found = candidates(block, params, low, high, config, weights, self._count)
        return [Grid.of(one, config) for one in found]

    def _fit(self, grid: Grid, codes: Tensor, gradient: Tensor, moments: Tensor) -> tuple[Grid, Tensor]:
        """Fit scale and zero point to the codes by least squares, as stored, where that lowers the error.

        With d = q - 8 (or q - zp) and 1 the directions in which scale and zero move the values, the best steps solve
        two linear equations in d H d, d H 1, 1 H 1, d g and 1 g for the gradient g.
        """
        offset = grid.stored_zero if self._config.domain == "int" else MID_POINT
        along = (codes - offset).t()
        along_h = along @ moments
        aa, ag = (along_h * along).sum(1), (along * gradient).sum(1)
        if self._config.domain == "float":
            ones_h = moments.sum(1)
            ab, bb, bg = along_h.sum(1), ones_h.sum(), gradient.sum(1)
            step = (ag * bb - ab * bg) / (aa * bb - ab * ab)
        else:
            step = ag / aa
        scale = stored_scale(grid.scale + step, grid.scale, self._config.scale_dtype)
        step = scale - grid.scale
        if self._config.domain == "float":
            wanted = grid.zero + (bg - ab * step) / bb
            zero = stored_zero(wanted, scale, self._config.preserve_zero, self._config.scale_dtype)
            fitted = Grid(scale, zero, zero)
            shift = zero - grid.zero
            gain = 2 * (step * ag + shift * bg) - (step * step * aa + 2 * step * shift * ab + shift * shift * bb)
            change_h = step[:, None] * along_h + shift[:, None] * ones_h
        else:
            zero = (MID_POINT - grid.stored_zero) * scale if self._config.domain == "int" else grid.zero
            fitted = Grid(scale, zero, grid.stored_zero)
            gain = 2 * step * ag - step * step * aa
            change_h = step[:, None] * along_h
        better = gain > 0
        return fitted.where(better, grid), torch.where(better[:, None], gradient - change_h, gradient)


def _best(block: Tensor, tried: list[Grid], upper: Tensor) -> tuple[Grid, Tensor, Tensor]:
    """Round a group under each grid with feedback inside it, and keep each row's best.

    Args:
        block: float32 [n, L], what is to be rounded.
        tried: M grids of each row.
        upper: float32 [L, L], U of the group.

    Returns:
        Grid, codes float32 [L, n] and errors e_j / U_jj, float32 [L, n].
    """
    stack = Grid(
        *(torch.stack(parts) for parts in zip(*((g.scale, g.zero, g.stored_zero) for g in tried), strict=True))
    )
    base, inverse = stack.zero - MID_POINT * stack.scale, 1 / stack.scale
    left = torch.empty(block.shape[1], *base.shape, device=block.device)
    torch.sub(block.t().contiguous()[:, None], base, out=left)  # [L, M, n], measured from code 0
    codes, errors = torch.empty_like(left), torch.empty_like(left)
    flat, flat_errors = left.view(len(left), -1), errors.view(len(left), -1)
    for j, pivot in enumerate(upper.diagonal().tolist()):
        code = torch.mul(left[j], inverse, out=codes[j]).round_().clamp_(0, QUANT_MAX)
        torch.addcmul(left[j], code, stack.scale, value=-1, out=errors[j]).div_(pivot)
        if j + 1 < len(left):
            flat[j + 1 :].addr_(upper[j, j + 1 :], flat_errors[j], alpha=-1)
    cost = (errors * errors).sum(0)
    place = cost.argmin(0, keepdim=True)
    where = place.expand(len(left), 1, -1)
    return stack.chosen(place), codes.gather(1, where)[:, 0], errors.gather(1, where)[:, 0]


def _move_codes(grid: Grid, codes: Tensor, gradient: Tensor, moments: Tensor) -> tuple[Tensor, Tensor]:
    """Move each code of a group in turn to where the error is least while all others stay; return codes and gradient.

    Args:
        grid: Of the group.
        codes: float32 [L, n].
        gradient: float32 [n, L].
        moments: float32 [L, L], damped.
    """
    codes, left = codes.clone(), gradient.t().contiguous()
    inverse = 1 / grid.scale
    for j, own in enumerate(moments.diagonal().tolist()):
        moved = torch.addcmul(codes[j], left[j], inverse, value=1 / own).round_().clamp_(0, QUANT_MAX)
        change = (moved - codes[j]).mul_(grid.scale)
        codes[j] = moved
        left.addr_(moments[j], change, alpha=-1)
    return codes, left.t()
