"""What a session shows of its layer: the picture of its errors, sampled first and then exact, under what holds now."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from typing import Literal, Protocol

from workbench.coverage.coverage import Coverage, needs_calibration
from workbench.errors import ConfigError, WeightError
from workbench.jobs import Job, Lane
from workbench.kinds import QUANTIZABLE_KINDS
from workbench.measure.error_map import METRICS, Metric
from workbench.session.calibration import SessionCalibration
from workbench.session.exact import SessionErrors
from workbench.session.given import Given
from workbench.session.microscope import SessionMicroscope
from workbench.session.rooms import Means, Seen, check_readable
from workbench.views.cache import NO_INPUTS, Inputs
from workbench.views.views import LayerView, iter_layer_views, unhurried


class Shown(Seen, Protocol):
    """What the views see of their session."""

    coverage: Coverage
    calibration: SessionCalibration
    given: Given | None


class SessionViews:
    """Computes the view of the layer on show; the newest request wins.

    Args:
        seen: The session.
        means: What it lends.
        exact: Keeps what is exact.
        microscope: Follows each view.

    Attributes:
        lane: Where layers are solved to be looked at.
    """

    def __init__(self, seen: Shown, means: Means, exact: SessionErrors, microscope: SessionMicroscope) -> None:
        self._seen, self._means, self._exact, self._microscope = seen, means, exact, microscope
        self.lane = Lane("preview", latest_wins=True)

    def show(self, metric: Metric | None, reduce: Literal["max", "mean"] | None) -> None:
        """Change what the heatmap shows; None keeps it.

        Raises:
            ConfigError: for an unknown metric or reduction.
        """
        if metric is not None and metric not in METRICS:
            raise ConfigError(f"metric={metric!r}.", allowed=", ".join(METRICS))
        if reduce is not None and reduce not in ("max", "mean"):
            raise ConfigError(f"reduce={reduce!r}.", allowed="'max' or 'mean'")
        self._seen.metric = metric or self._seen.metric
        self._seen.reduce = reduce or self._seen.reduce
        self.refresh()

    def refresh(self) -> Job | None:
        """Compute the view anew, or none where the layer on show has no error to show; what is older is dropped."""
        seen, means = self._seen, self._means
        self._microscope.lane.cancel()  # it follows the new view
        if seen.given is not None or not seen.current or seen.row(seen.current).kind not in QUANTIZABLE_KINDS:
            self.lane.cancel()
            return None
        name, config, metric, reduce = seen.current, seen.resolved(), seen.metric, seen.reduce
        if needs_calibration(seen.coverage):
            seen.calibration.look_once()

        def found(inputs: Inputs, cancel: threading.Event) -> Iterator[LayerView]:
            show = partial(iter_layer_views, metric=metric, reduce=reduce, cache=means.cache)
            steps = show(seen.source, name, config, cancel=cancel, inputs=inputs)
            return self._noted(unhurried(means.in_turn(steps, cancel), cancel))

        def views(cancel: threading.Event) -> Iterator[LayerView]:
            check_readable(seen.source, name)
            if config.solver != "calibrated":
                return found(NO_INPUTS, cancel)
            return seen.calibration.views(name, needs_calibration(seen.coverage), partial(found, cancel=cancel), cancel)

        return self.lane.submit(Job(f"Errors of {name}", views, self._take, means.on_job, quiet=True))

    def _noted(self, steps: Iterator[LayerView]) -> Iterator[LayerView]:
        """Yield what `steps` yields; a weight that can have no error is remembered before it is told."""
        try:
            yield from steps
        except WeightError as error:
            self._exact.note(error)
            raise

    def _take(self, job: Job, view: LayerView) -> None:
        self._exact.record(view)
        self._means.emit("view", view, job)
        self._microscope.follow(view)
