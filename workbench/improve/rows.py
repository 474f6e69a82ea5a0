"""Rows of a weight that Improve tries first, and that they are finite."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from workbench.solvers import not_finite

_SAMPLED_WEIGHTS = 1 << 16
_LEAST_ROWS = 16


def rows_tried(n: int, k: int) -> int:
    """Return how many rows of a weight [n, k] are tried first."""
    return min(n, max(_LEAST_ROWS, _SAMPLED_WEIGHTS // max(1, k)))


def finite(name: str, weight: Tensor, rows: Sequence[int]) -> Tensor:
    """Return rows of a weight, float [R, K], which are those at `rows` of the whole.

    Raises:
        WeightError: when one of them is not finite, with its place in the whole.
    """
    low, high = torch.aminmax(weight.detach())  # NaN comes through; no copy is made
    if not bool(torch.isfinite(torch.stack((low, high)).float()).all()):
        row, column = torch.nonzero(~torch.isfinite(weight.float()))[0].tolist()
        raise not_finite(name, rows[row], column, weight[row, column], "leave the layer dense with an exclude pattern")
    return weight
