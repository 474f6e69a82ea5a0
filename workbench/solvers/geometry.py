"""The moments of a layer's input, made ready for error feedback: order, damping, factors of the whole and of groups."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.errors import WeightError
from workbench.solvers.panels import Look, cholesky_, go_on, lower_inverse

_MOST_DAMPING = 1e6  # shares of the mean diagonal; far beyond, columns are independent of each other


@dataclass(frozen=True)
class Span:
    """One group of columns: where it stands in the order of solving, and in the stored layout.

    Attributes:
        start: First column, in the order of solving.
        stop: One past the last.
        group: Its number in the stored layout.
    """

    start: int
    stop: int
    group: int


@dataclass(frozen=True, eq=False)
class GroupFactor:
    """What solving one group against all others needs.

    Attributes:
        moments: float32 [L, L], the group's own damped moments.
        upper: float32 [L, L], upper triangular U with (H_gg + damping)^-1 = U^T U.
        inverse: float32 [L, L], that inverse.
        weights: float32 [1, L], what an error of each column costs, on average 1: 1 / diag(U)^2.
    """

    moments: Tensor
    upper: Tensor
    inverse: Tensor
    weights: Tensor


@dataclass(frozen=True, eq=False)
class Geometry:
    """Moments H in the order of solving, scaled to a mean diagonal of 1, and their damping D, a diagonal.

    Attributes:
        order: int64 [K]: column of the stored layout at each place of the order.
        spans: The groups in the order of solving.
        moments: float32 [K, K], H.
        extra: float32 [K], D: the damping, and 1 more for columns whose input is always 0.
        upper: float32 [K, K], upper triangular U with (H + D)^-1 = U^T U.
        damping: The damping, as a share of the mean diagonal.
        scale: The mean diagonal that was divided by.
        dead: Columns whose input is always 0.
    """

    order: Tensor
    spans: tuple[Span, ...]
    moments: Tensor
    extra: Tensor
    upper: Tensor
    damping: float
    scale: float
    dead: int

    def weights(self, span: Span) -> Tensor:
        """Return what an error of each column of a group costs, on average 1: float32 [1, L]."""
        return _column_costs(self.upper.diagonal()[span.start : span.stop])

    def group_factor(self, span: Span, look: Look = go_on) -> GroupFactor:
        """Return the factors of one group's own moments; `look` is called before, and raises to stop."""
        here = slice(span.start, span.stop)
        own = self.moments[here, here].clone()
        own.diagonal().add_(self.extra[here])
        upper = _inverse_upper(own, look)
        if upper is None:  # damped already: only rounding can bring this about
            upper = torch.diag(own.diagonal().rsqrt())
        return GroupFactor(own, upper, upper.t() @ upper, _column_costs(upper.diagonal()))


def geometry(total: Tensor, group_size: int, damping: float, activation_order: bool, look: Look = go_on) -> Geometry:
    """Order, damp and factorize moments.

    Args:
        total: float32 [K, K], sum of x x^T; finite, with a diagonal that is not all 0.
        group_size: Columns of a group; the last one can be short.
        damping: First damping, as a share of the mean diagonal; it grows tenfold until the factorization succeeds.
        activation_order: Take groups, and columns in a group, of largest input first.
        look: Called before each panel of columns; raises to stop.

    Raises:
        WeightError: when no damping makes them positive definite.
    """
    diagonal = total.diagonal()
    scale = float(diagonal.double().mean())
    order, spans = _order(diagonal, group_size, activation_order)
    moments = (total / scale)[order][:, order]
    dead = diagonal[order] <= 0
    while damping <= _MOST_DAMPING:
        damped = moments.clone()
        extra = torch.where(dead, damping + 1, damping)  # nothing depends on the dead: they keep their nearest codes
        damped.diagonal().add_(extra)
        upper = _inverse_upper(damped, look)
        if upper is not None:
            return Geometry(order, spans, moments, extra, upper, damping, scale, int(dead.sum()))
        damping *= 10
    raise WeightError("The moments of the inputs cannot be factorized.", mend="collect them anew from finite inputs")


def _order(diagonal: Tensor, group_size: int, activation_order: bool) -> tuple[Tensor, tuple[Span, ...]]:
    k = len(diagonal)
    groups = [
        (number, slice(start, min(k, start + group_size))) for number, start in enumerate(range(0, k, group_size))
    ]
    columns = torch.arange(k, device=diagonal.device)
    if activation_order:
        groups.sort(key=lambda group: -float(diagonal[group[1]].double().mean()))
    spans, parts, start = [], [], 0
    for number, where in groups:
        own = columns[where]
        if activation_order:
            own = own[diagonal[where].argsort(descending=True, stable=True)]
        parts.append(own)
        spans.append(Span(start, start + len(own), number))
        start += len(own)
    return torch.cat(parts), tuple(spans)


def _inverse_upper(matrix: Tensor, look: Look = go_on) -> Tensor | None:
    """Return the upper triangular U with matrix^-1 = U^T U; None when the matrix is not positive definite.

    With P the reversal of all rows, P matrix P = L L^T gives U = P L^-1 P: one factorization, one triangular inverse.
    """
    lower = cholesky_(matrix.flip(0, 1), look)
    if lower is None:
        return None
    look()
    upper = lower_inverse(lower, look).flip(0, 1)
    return upper if bool(torch.isfinite(upper).all()) else None


def _column_costs(diagonal: Tensor) -> Tensor:
    costs = diagonal.pow(-2)
    return (costs / costs.mean())[None]
