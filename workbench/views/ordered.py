"""Views of all int4 layers solved in the order of the model, each on inputs that are quantized upstream already."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

from workbench.calibration import Calibration
from workbench.coverage.coverage import Coverage
from workbench.records.progress import Progress
from workbench.solvers import SolveResult
from workbench.solving import SolvedLayer, iter_quantize
from workbench.sources import Source
from workbench.stopped_run import StoppedRun
from workbench.views.cache import Inputs
from workbench.views.solved_layers import SolvedLayers
from workbench.views.views import LayerView, view_of


def iter_ordered_views(
    source: Source,
    coverage: Coverage,
    calibration: Calibration,
    model: Any,
    inputs: Inputs,
    *,
    max_side: int,
    cancel: threading.Event,
    stopped: StoppedRun | None = None,
    at_hand: Callable[[SolvedLayer], bool] = lambda _: False,
) -> Generator[tuple[Progress, LayerView | None], None, None]:
    """Yield the view of each layer as an export would store it, with where the work stands.

    Args:
        source: Where the weights come from.
        coverage: What becomes int4, and how.
        calibration: The text.
        model: The model to run it through.
        inputs: What the views say of them.
        max_side: Most rows and columns of a picture.
        cancel: Set it to stop between blocks.
        stopped: What a run before held when it was stopped; None for nothing.
        at_hand: Says of a solved layer that its view is there already: None is yielded in its place.

    Raises:
        ConfigError: when memory cannot hold the moments of a layer.
        ModelError: when the model cannot be run on the text.
        WeightError: when a weight holds NaN or infinity: no layer after it has inputs.
        Cancelled: when `cancel` was set.
    """
    given: dict[str, Any] = {"calibration": calibration, "model": model, "solved": SolvedLayers(stopped=stopped)}
    how: dict[str, Any] = {"max_side": max_side, "cancel": cancel}
    for step in iter_quantize(source, coverage, cancel=cancel, **given):
        progress, name, solver = replace(step.progress, label=step.label), step.result.name, step.result.solver
        if at_hand(step):
            yield progress, None
            continue
        found = SolveResult(step.weight, step.trace, solver, step.result.notes)  # type: ignore[arg-type]
        view = view_of(name, source.weight(name), coverage.configs[name], found, inputs, **how)
        yield progress, view
