"""What int4 does to one layer, at once and then exactly: sampled rows first, the whole weight after."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from workbench.affine import QuantizedWeight
from workbench.config import ResolvedConfig
from workbench.errors import WeightError
from workbench.measure.error_map import MAX_SIDE, Metric
from workbench.measure.errors import error_summary
from workbench.measure.sampling import sampled_rows
from workbench.options import SolverName
from workbench.records.errors import ErrorMap, ErrorSummary, ErrorTrace
from workbench.solvers import SolveResult, solve
from workbench.sources import ModelSource, Source
from workbench.views.cache import NO_INPUTS, WAITING, Inputs, MeasuredLayer, Reduction, ViewCache, solve_and_measure

SAMPLED_ROWS = 256
# Weights that are solved before a person sees a delay, some 30 ms on two cores; HQQ takes twenty passes over them.
_AT_ONCE_WEIGHTS = {"rtn": 1 << 20, "hqq": 1 << 18, "refined": 1 << 18, "calibrated": 1 << 18}
PAUSE_S = 0.03  # from a preview's end to its pixels: a kernel's message, a server, a page


@dataclass(frozen=True)
class LayerView:
    """The errors of one layer under one configuration.

    Attributes:
        name: Module path.
        config: Everything resolved.
        map: The picture.
        summary: Errors of what would be stored.
        rtn: Errors of round-to-nearest under the same settings, as it would be stored.
        trace: How the solver came to its result, in its own objective.
        rows: Rows that were solved.
        total_rows: Rows of the weight.
        group_size: Weights per group.
        in_features: K.
        solver: The solver that found the codes: the one asked for, or what it fell back to.
        notes: What a person must know: which inputs the solver had, a fall-back and its reason.
        inputs: The inputs in a few words, or "" for a solver that needs none.
        stamp: Stands for the inputs, or "" for a solver that needs none.
    """

    name: str
    config: ResolvedConfig
    map: ErrorMap
    summary: ErrorSummary
    rtn: ErrorSummary
    trace: ErrorTrace
    rows: int
    total_rows: int
    group_size: int
    in_features: int
    solver: SolverName
    notes: tuple[str, ...] = ()
    inputs: str = ""
    stamp: str = ""

    @property
    def exact(self) -> bool:
        """Whether the whole weight was solved."""
        return self.rows == self.total_rows

    @property
    def badge(self) -> str:
        """Say how exact the view is: "exact", the share of rows, or what else keeps it from what is exported."""
        if not self.exact:
            return f"sampled 1/{max(2, round(self.total_rows / self.rows))}"
        if self.solver != self.config.solver:
            return f"{self.solver} {'for now' if self.inputs == WAITING.badge else 'instead'}"
        return self.inputs or "exact"


def iter_layer_views(
    source: Source,
    name: str,
    config: ResolvedConfig,
    *,
    metric: Metric = "rmse",
    reduce: Reduction = "max",
    cache: ViewCache | None = None,
    cancel: threading.Event | None = None,
    sampled: bool = True,
    max_side: int = MAX_SIDE,
    inputs: Inputs = NO_INPUTS,
) -> Iterator[LayerView]:
    """Yield a view from sampled rows (for a large weight), then the exact one.

    Args:
        source: Where the weight comes from.
        name: Module path.
        config: Everything resolved.
        metric: What the picture shows.
        reduce: How it is reduced to screen size.
        cache: Solved layers of before.
        cancel: Set it to stop between blocks.
        sampled: Whether a first answer from sampled rows is wanted.
        max_side: Most rows and columns of the picture.
        inputs: For the calibrated solver; no other looks at them.

    Raises:
        Cancelled: when `cancel` was set.
        ModelError: when the weight cannot be read.
        WeightError: when the weight holds NaN or infinity, naming layer and position.
    """
    cache = cache if cache is not None else ViewCache(0)
    live = isinstance(source, ModelSource)  # whose weights cost nothing to look at, and may be trained meanwhile
    weight = None if live else cache.weight(name)
    weight = source.weight(name) if weight is None else weight
    solved = cache.get(name, config)
    if solved is None or (live and not solved.is_of(weight)) or not _same_inputs(solved, config, inputs):
        rows = _first_rows(weight, config) if sampled else None
        if rows is not None:
            with contextlib.suppress(WeightError):  # the whole weight is refused below, with the true position
                part = solve_and_measure(weight[rows], name, config, cancel, inputs=inputs)
                yield _view(part, name, config, metric, reduce, weight.shape[0], max_side)
        solved = solve_and_measure(weight, name, config, cancel, cache.nearest(name, config, weight), inputs)
        cache.put(name, config, solved)
    yield _view(solved, name, config, metric, reduce, solved.weight.shape[0], max_side)


def unhurried(views: Iterator[LayerView], cancel: threading.Event) -> Iterator[LayerView]:
    """Pass views on, with a pause after one from sampled rows: it is on the screen before all cores are taken again.

    A change that comes meanwhile is answered at once: nothing has begun that it would have to wait for.

    Args:
        views: As `iter_layer_views` yields them.
        cancel: Set it to end the pause.
    """
    for view in views:
        yield view
        if not view.exact:
            cancel.wait(PAUSE_S)


def view_of(
    name: str,
    weight: Tensor,
    config: ResolvedConfig,
    found: SolveResult,
    inputs: Inputs,
    *,
    max_side: int = MAX_SIDE,
    cancel: threading.Event | None = None,
) -> LayerView:
    """Return the view of a layer that was solved elsewhere, on `inputs` if it is calibrated.

    Args:
        name: Module path.
        weight: Any float dtype [N, K].
        config: Everything resolved.
        found: What came out.
        inputs: What the calibrated solver was given.
        max_side: Most rows and columns of the picture.
        cancel: Set it to stop between blocks.

    Raises:
        Cancelled: when `cancel` was set.
    """
    plain = replace(config, solver="rtn", options=None)
    rtn = error_summary(weight, solve(weight, plain, name=name, cancel=cancel).weight, cancel)
    calibrated = config.solver == "calibrated"
    notes = (inputs.note, *found.notes) if calibrated and found.solver == "calibrated" else found.notes
    summary = error_summary(weight, found.weight, cancel)
    solved = MeasuredLayer(weight, found.weight, summary, rtn, found.trace, 0, found.solver, notes, inputs)
    return _view(solved, name, config, "rmse", "max", weight.shape[0], max_side)


def held_layer(
    source: Source, name: str, config: ResolvedConfig, cache: ViewCache
) -> tuple[Tensor, QuantizedWeight] | None:
    """Return a layer's weight and what is stored for it, or None where the cache does not hold what is so now."""
    solved = cache.get(name, config)
    if solved is None or (isinstance(source, ModelSource) and not solved.is_of(source.weight(name))):
        return None
    return solved.weight, solved.quantized


def _first_rows(weight: Tensor, config: ResolvedConfig) -> Tensor | None:
    """Return the rows to begin with so that the first answer comes at once, or None when all of them do."""
    if weight.ndim != 2 or weight.numel() <= _AT_ONCE_WEIGHTS[config.solver]:
        return None
    count = min(SAMPLED_ROWS, max(1, _AT_ONCE_WEIGHTS[config.solver] // weight.shape[1]))
    return sampled_rows(weight.shape[0], count).to(weight.device) if count < weight.shape[0] else None


def _same_inputs(solved: MeasuredLayer, config: ResolvedConfig, inputs: Inputs) -> bool:
    """Say whether what was solved had these inputs, or a solver that looks at none."""
    return config.solver != "calibrated" or solved.inputs == inputs


def _view(
    solved: MeasuredLayer,
    name: str,
    config: ResolvedConfig,
    metric: Metric,
    reduce: Reduction,
    total_rows: int,
    max_side: int,
) -> LayerView:
    picture = solved.picture(metric, reduce, max_side)
    rows, in_features = solved.weight.shape
    return LayerView(
        name,
        config,
        picture,
        solved.summary,
        solved.rtn,
        solved.trace,
        rows,
        total_rows,
        config.group_size,
        in_features,
        solved.solver,
        solved.notes,
        *((solved.inputs.badge, solved.inputs.stamp) if config.solver == "calibrated" else ()),
    )
