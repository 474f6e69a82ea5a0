"""Two ways of storing one weight side by side: pictures on one scale and one grid, and their difference."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from workbench.affine import QuantizedWeight
from workbench.measure.error_map import MAX_SIDE, Metric, map_values, picture_of
from workbench.records.errors import ErrorMap


@dataclass(frozen=True)
class PairOfMaps:
    """Pictures of A and B on one scale, and of B minus A.

    Attributes:
        a: Of the first.
        b: Of the second; the same rows, columns and scale.
        difference: B minus A, of the same rows and columns, on a scale even around zero.
        group_size: Weights of a column: the smaller of both group sizes; those of the weights themselves have none.
    """

    a: ErrorMap
    b: ErrorMap
    difference: ErrorMap
    group_size: int


def pair_of_maps(
    weight: Tensor,
    a: QuantizedWeight,
    b: QuantizedWeight,
    metric: Metric = "rmse",
    reduce: Literal["max", "mean"] = "max",
    max_side: int = MAX_SIDE,
) -> PairOfMaps:
    """Make the pictures of two ways of storing a weight; of unlike group sizes, in groups of the smaller one.

    Args:
        weight: float [N, K], the original.
        a: What the first stores for it.
        b: What the second stores.
        metric: What is shown.
        reduce: How blocks become cells; of the difference, "max" keeps what is farthest from zero.
        max_side: Most rows and columns of a picture.

    Raises:
        ConfigError: when the shapes differ.
        WeightError: when there are no weights, or one of them is NaN or infinite.
    """
    size = min(a.group_size, b.group_size)
    first, second = (map_values(weight, one, metric, size) for one in (a, b))
    own = [picture_of(values, metric, reduce, max_side, max_side) for values in (first, second)]
    limits = min(one.lo for one in own), max(one.hi for one in own)
    left, right = (picture_of(values, metric, reduce, max_side, max_side, limits) for values in (first, second))
    difference = picture_of(second - first, metric, reduce, max_side, max_side, difference=True)
    return PairOfMaps(left, right, replace(difference, unit=f"B − A: {difference.unit}"), size)
