"""One group of a layer under the microscope: which one, and what every variant makes of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.affine import QuantizedWeight, group_count
from workbench.config import ResolvedConfig
from workbench.errors import ConfigError
from workbench.measure.error_map import LOW_IS_WORSE, Metric
from workbench.measure.group_errors import GroupMetric, group_errors
from workbench.measure.microscope import microscope
from workbench.records.microscope import Microscope
from workbench.solvers import InputMoments, not_finite, solve
from workbench.sources import Source, read_rows
from workbench.views.cache import ViewCache
from workbench.views.views import held_layer

_ERRORS: dict[Metric, tuple[GroupMetric, str]] = {
    "rmse": ("rmse", "RMS error"),
    "mse": ("mse", "MSE"),
    "max": ("max", "largest |error|"),
    "mean_abs": ("mean_abs", "mean |error|"),
    "relative": ("relative", "relative error"),
    "relative_max": ("relative_max", "largest relative error"),
    "sqnr": ("sqnr", "SQNR"),
}


@dataclass(frozen=True)
class Block:
    """Rows and groups of a layer; a single group, when there is one of each.

    Attributes:
        rows: First row and one past the last.
        groups: First group and one past the last.
        total_rows: Rows of the layer.
        total_groups: Groups in a row.

    Raises:
        ConfigError: for rows or groups that the layer does not have.
    """

    rows: tuple[int, int]
    groups: tuple[int, int]
    total_rows: int
    total_groups: int

    def __post_init__(self) -> None:
        spans = (("row", self.rows, self.total_rows), ("group", self.groups, self.total_groups))
        for what, (first, stop), total in spans:
            if not 0 <= first < stop <= total:
                shown = str(first) if stop == first + 1 else f"{first} to {stop - 1}"
                raise ConfigError(f"The layer has no {what} {shown}.", allowed=f"0 to {total - 1}")

    @classmethod
    def of(
        cls,
        shape: tuple[int, ...],
        group_size: int,
        rows: tuple[int, int] | None = None,
        groups: tuple[int, int] | None = None,
    ) -> Block:
        """Return a block of a weight [N, K]; None takes all rows, or all groups."""
        n, k = shape
        count = group_count(k, group_size)
        return cls(rows or (0, n), groups or (0, count), n, count)

    @property
    def count(self) -> int:
        """Number of groups in the block."""
        return (self.rows[1] - self.rows[0]) * (self.groups[1] - self.groups[0])

    def chosen(self, metric: Metric) -> str:
        """Say which of its groups is taken; "" for a single one."""
        if self.count == 1:
            return ""
        whole = self.count == self.total_rows * self.total_groups
        where = "the layer" if whole else f"{self.count:,} groups"
        if metric not in _ERRORS:
            return f"first group of {where}"
        return f"{'worst group of' if whole else 'worst of'} {where} by {_ERRORS[metric][1]}"


@dataclass(frozen=True)
class GroupView:
    """A group of a layer under the microscope.

    Attributes:
        config: Everything resolved for the layer.
        microscope: The group's weights and the levels of every variant.
        chosen: How the group was chosen, for instance "worst group of the layer by RMS error"; "" by a person.
        total_rows: Rows of the layer.
        total_groups: Groups in a row.
        complete: Whether all variants are in; a first view comes without the calibrated ones, which take longer.
    """

    config: ResolvedConfig
    microscope: Microscope
    chosen: str
    total_rows: int
    total_groups: int
    complete: bool = True


def iter_group_views(
    source: Source,
    name: str,
    config: ResolvedConfig,
    block: Block,
    *,
    metric: Metric = "rmse",
    cache: ViewCache | None = None,
    statistics: InputMoments | None = None,
    cancel: threading.Event | None = None,
) -> Iterator[GroupView]:
    """Yield a block's worst group, with the data-free variants first and then, with statistics, all of them.

    Args:
        source: Where the weight comes from; only the row is read where it can be, unless the worst group is sought.
        name: Module path.
        config: Everything resolved.
        block: Where to look; of more than one group, the worst is taken.
        metric: What makes a group the worst; for one that is no error, the first group is taken.
        cache: Solved layers of before.
        statistics: Moments of the layer's inputs, for the calibrated solver.
        cancel: Set it to stop between variants and blocks.

    Raises:
        Cancelled: when `cancel` was set.
        ModelError: when the weight cannot be read.
        WeightError: when what is looked at holds NaN or infinity, naming layer and position.
    """
    row, group = block.rows[0], block.groups[0]
    if block.count > 1 and metric in _ERRORS:
        weight, solved = _solved_rows(source, name, config, block.rows, cache, statistics, cancel)
        row, group = _worst(weight, solved, block, metric)
    rows = read_rows(source, name, row, row + 1)
    for known in (None, statistics) if statistics is not None else (None,):
        found = microscope(rows, row, group, config, first_row=row, statistics=known, name=name, cancel=cancel)
        complete = known is statistics
        yield GroupView(config, found, block.chosen(metric), block.total_rows, block.total_groups, complete)


def _solved_rows(
    source: Source,
    name: str,
    config: ResolvedConfig,
    rows: tuple[int, int],
    cache: ViewCache | None,
    statistics: InputMoments | None,
    cancel: threading.Event | None,
) -> tuple[Tensor, QuantizedWeight]:
    """Return rows of a layer and what is stored for them: out of the cache, or solved alone, which is the same."""
    first, stop = rows
    held = held_layer(source, name, config, cache) if cache is not None else None
    if held is not None:
        weight, whole = held
        return weight[first:stop], whole.part(slice(first, stop))
    weight = read_rows(source, name, first, stop)
    broken = torch.nonzero(~torch.isfinite(weight))
    if len(broken):
        row, column = broken[0].tolist()
        raise not_finite(name, first + row, column, weight[row, column], "look at another group")
    moments = statistics if config.solver == "calibrated" else None
    return weight, solve(weight, config, statistics=moments, name=name, cancel=cancel).weight


@torch.no_grad()
def _worst(weight: Tensor, solved: QuantizedWeight, block: Block, metric: Metric) -> tuple[int, int]:
    """Return the place in the layer of the worst group of a block, whose rows are given."""
    first, stop = block.groups
    errors = group_errors(weight, solved, _ERRORS[metric][0])[:, first:stop]
    worst = errors.argmin() if metric in LOW_IS_WORSE else errors.argmax()
    row, group = divmod(int(worst), errors.shape[1])
    return block.rows[0] + row, first + group
