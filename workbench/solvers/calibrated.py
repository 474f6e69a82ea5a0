"""The calibrated solver: the smallest error of a layer's output on real inputs, not of its weights.

The squared output error of a row w is (w - w_r) H (w - w_r)^T with H = X^T X. With H^-1 = U^T U, rounding the columns
from first to last and moving the error of each onto those after it, w_j+1.. -= e_j U_j,j+1.. / U_jj, leaves the sum of
(e_j / U_jj)^2: Frantar et al., "GPTQ" (2023), which is Babai's nearest plane. Three things are added, all of them
judged by that sum or by H itself:

- when a group begins, `candidates` scales and zero points (those of the refined solver, weighted by 1 / U_jj^2) are
  each carried through the whole group with feedback, and each row keeps its best;
- afterwards, sweeps over the groups: each is solved again against the errors of all others, codes are moved one by one
  where that lowers the error, and scale and zero point are fitted to the codes by least squares;
- each row is compared with round-to-nearest on the moments as they were collected, and falls back where it loses.

Rows do not depend on each other, so threads take blocks of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from workbench.affine import QuantizedWeight
from workbench.config import ResolvedConfig
from workbench.options import CalibratedOptions
from workbench.records.errors import ErrorTrace
from workbench.solvers.data_free import solve_data_free
from workbench.solvers.feedback import RowBlock
from workbench.solvers.geometry import Geometry, GroupFactor, geometry
from workbench.solvers.moments import InputMoments
from workbench.solvers.panels import Look, product
from workbench.solvers.result import SolveResult
from workbench.solvers.row_blocks import iter_row_blocks, look

OBJECTIVE = "mean squared output error"
_ROWS = {"cpu": 512, "cuda": 1 << 13}  # of a block: the candidates of a group stay in cache, matrix products are large
_LEAST_ROWS = 64  # smaller blocks cost more in calls than they gain from a second thread
_LARGEST = 2.0**40  # rows with larger weights keep round-to-nearest: their squared errors would not be finite
_SMALLEST = 2.0**-40  # as do those of smaller ones: their squared errors would have few digits
_MARGIN = 1e-4  # relative gain of a row that counts as one
_ROUNDING = 2.0**-22  # of float32, a few roundings one after the other


def solve_calibrated(
    weight: Tensor,
    config: ResolvedConfig,
    statistics: InputMoments,
    *,
    name: str = "weight",
    cancel: threading.Event | None = None,
    progress: Callable[[float], None] | None = None,
) -> SolveResult:
    """Quantize one weight for the least output error on the inputs that the statistics are of.

    Args:
        weight: Any float dtype [N, K].
        config: Everything resolved.
        statistics: Moments that have no `problem`.
        name: What the weight is called in errors.
        cancel: Set it to stop between panels of columns, and between groups.
        progress: Called with the share of rows done, 0 to 1, after each block.

    Raises:
        WeightError: when the weight holds NaN or infinity (with its position).
        Cancelled: when `cancel` was set.
    """
    options = config.options if isinstance(config.options, CalibratedOptions) else CalibratedOptions()
    nearest = solve_data_free(weight, replace(config, solver="rtn", options=None), name=name, cancel=cancel).weight
    stop = partial(look, cancel, name)
    total = statistics.total.to(weight.device)
    space = geometry(total, config.group_size, options.damping, options.activation_order, stop)
    factors = [space.group_factor(span, stop) for span in space.spans] if options.sweeps else []
    n = weight.shape[0]
    size = max(_LEAST_ROWS, min(_ROWS.get(weight.device.type, 512), -(-n // 2)))

    def solve_rows(start: int) -> tuple[list[float], int]:
        rows = slice(start, start + size)
        block = weight.detach()[rows].float()
        return _solve_block(block, nearest.part(rows), space, factors, config, options, stop)

    sums, kept = [0.0] * (2 + options.sweeps), 0
    for errors, back in iter_row_blocks(solve_rows, n, size, weight.device, name, cancel, progress):
        sums = [total + error for total, error in zip(sums, errors, strict=True)]
        kept += back
    values = tuple(space.scale * total / (statistics.tokens * max(1, n)) for total in sums)
    groups = nearest.scale.numel()
    trace = ErrorTrace(OBJECTIVE, values, groups, groups - kept * nearest.scale.shape[1])
    weight_found = replace(nearest, solved_by=config.form)
    return SolveResult(weight_found, trace, "calibrated", _notes(space, options, kept, n))


def _solve_block(
    weights: Tensor,
    nearest: QuantizedWeight,
    space: Geometry,
    factors: list[GroupFactor],
    config: ResolvedConfig,
    options: CalibratedOptions,
    look: Look,
) -> tuple[list[float], int]:
    """Solve some rows and put the result over round-to-nearest's where it is better.

    Args:
        weights: float32 [n, K].
        nearest: Round-to-nearest of the same rows; changed in place.
        space: Moments, order and factors.
        factors: Of each group.
        config: Everything resolved.
        options: The solver's settings.
        look: Called before each group and each panel of columns; raises to stop.

    Returns:
        Sums over the rows of the scaled output error: round-to-nearest, after the feedback, after each sweep; and
        how many rows keep round-to-nearest.
    """
    judge = _Judge(weights, nearest, space, look)
    target = torch.where(judge.tame[:, None], weights, 0.0)[:, space.order]
    block = RowBlock(target, space, config, options.candidates)
    rest = target.clone()
    for span in space.spans:
        look()
        block.first_group(rest, span)
    del rest
    difference = target - block.values()
    errors, gradient = _row_errors(difference, space, look)
    sums = [judge.sum(), judge.sum(difference, errors)]
    for _ in range(options.sweeps):
        _sweep(block, difference, gradient, space, factors, look)
        difference = target - block.values()
        errors, gradient = _row_errors(difference, space, look)
        sums.append(judge.sum(difference, errors))
    better = judge.better(difference, errors)
    _put(nearest, block, space, better)
    return sums, int((~better).sum())


def _sweep(
    block: RowBlock, difference: Tensor, gradient: Tensor, space: Geometry, factors: list[GroupFactor], look: Look
) -> None:
    """Solve each group anew against the errors of all others; `gradient`, [n, K], follows what changes."""
    gradient.addcmul_(difference, space.extra)
    for number, (span, factor) in enumerate(zip(space.spans, factors, strict=True)):
        look()
        here = slice(span.start, span.stop)
        change = block.again(number, span, gradient[:, here], factor)
        gradient.addmm_(change, space.moments[here], alpha=-1)
        gradient[:, here].addcmul_(change, space.extra[here], value=-1)


def _row_errors(difference: Tensor, space: Geometry, look: Look) -> tuple[Tensor, Tensor]:
    """Return (w - w_r) H (w - w_r)^T of each row, [n], and (w - w_r) H, [n, K]."""
    gradient = product(difference, space.moments, look)
    return (gradient * difference).sum(1), gradient


class _Judge:
    """Says which rows are better than round-to-nearest for certain, whatever float32 did to the comparison.

    With |H| the Frobenius norm, the error d H d^T of a row is uncertain by some eps |d|^2 |H|, and its square root, for
    values that are each uncertain by eps |w|, by sqrt(K |H|) times that.

    Attributes:
        tame: bool [n], rows whose squared errors float32 can hold; the others keep round-to-nearest.
    """

    def __init__(self, weights: Tensor, nearest: QuantizedWeight, space: Geometry, look: Look) -> None:
        largest = weights.abs().amax(1)
        self.tame = (largest < _LARGEST) & (largest > _SMALLEST)
        difference = (weights - nearest.dequantize())[:, space.order]
        wild = difference[~self.tame].double()
        self._kept = float(((wild @ space.moments.double()) * wild).sum()) if len(wild) else 0.0
        difference = torch.where(self.tame[:, None], difference, 0.0)
        self._first = _row_errors(difference, space, look)[0]
        self._size = float(space.moments.norm())
        self._place = 2 * (weights.shape[1] * self._size) ** 0.5 * _ROUNDING * largest
        self._least = self._first * (1 - _MARGIN) - self._uncertain(difference)

    def _uncertain(self, difference: Tensor) -> Tensor:
        return difference.square().sum(1) * (_ROUNDING * self._size)

    def better(self, difference: Tensor, errors: Tensor) -> Tensor:
        """Say which rows are better: bool [n], from w - w_r, float32 [n, K], and the errors of the rows, [n]."""
        most: Tensor = (errors + self._uncertain(difference)).clamp(min=0).sqrt() + self._place
        return (most < self._least.clamp(min=0).sqrt()) & self.tame

    def sum(self, difference: Tensor | None = None, errors: Tensor | None = None) -> float:
        """Return the sum of the errors of all rows, those that are not better with round-to-nearest's."""
        rows = self._first
        if difference is not None and errors is not None:
            rows = torch.where(self.better(difference, errors), errors, rows)
        return self._kept + float(rows.double().sum())


def _put(nearest: QuantizedWeight, block: RowBlock, space: Geometry, better: Tensor) -> None:
    """Put solved rows over round-to-nearest's, in the stored order of columns and groups."""
    places = better[:, None]
    codes = torch.empty_like(block.target)
    codes[:, space.order] = block.codes.t()
    nearest.codes.copy_(torch.where(places, codes, nearest.codes.float()))
    for grid, span in zip(block.grids, space.spans, strict=True):
        scale = nearest.scale[:, span.group]
        scale.copy_(torch.where(better, grid.scale, scale.float()))
        if nearest.zero is not None:
            zero = nearest.zero[:, span.group]
            zero.copy_(torch.where(better, grid.stored_zero, zero.float()))


def _notes(space: Geometry, options: CalibratedOptions, kept: int, rows: int) -> tuple[str, ...]:
    notes = []
    if space.damping > options.damping:
        notes.append(f"the moments are singular: damping grew from {options.damping:g} to {space.damping:.3g}")
    if space.dead:
        notes.append(f"{space.dead} of {len(space.order)} input channels are always 0 on the calibration text")
    if kept:
        notes.append(f"{kept} of {rows} rows keep round-to-nearest, which is as good on the calibration text")
    return tuple(notes)
