"""The exact errors of layers under the recipe that holds: kept as they come, dropped with a change, swept over all."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from workbench.coverage.coverage import Coverage, needs_calibration
from workbench.errors import WeightError
from workbench.jobs import Job, Lane
from workbench.records.progress import Progress
from workbench.session.calibration import SessionCalibration
from workbench.session.events import EventKind
from workbench.session.rooms import check_readable
from workbench.session.sweep import Solved, Sweep
from workbench.sources import Source
from workbench.views.cache import UPSTREAM, ViewCache, same_values
from workbench.views.views import LayerView


class Owner(Protocol):
    """What the errors are of."""

    source: Source
    coverage: Coverage
    calibration: SessionCalibration
    work: Lane


class SessionErrors:
    """Keeps the newest exact view of each layer, and finds those of all layers.

    Args:
        owner: The session.
        cache: Solved layers of before.
        state: Held while recipe, coverage and errors change together.
        emit: Tells an event.
        on_job: Called after each change of a job.

    Attributes:
        views: Layer name → its latest exact view under the recipe; replaced, never changed in place.
        broken: Layer name → why it can have no error: where its weight holds NaN or infinity, as far as it was read.
    """

    def __init__(
        self,
        owner: Owner,
        cache: ViewCache,
        state: threading.Lock,
        emit: Callable[[EventKind, Any, Job | None], None],
        on_job: Callable[[Job], None],
    ) -> None:
        self._owner, self._cache, self._state, self._emit, self._on_job = owner, cache, state, emit, on_job
        self.views: dict[str, LayerView] = {}
        self.broken: dict[str, str] = {}
        self._swept: dict[str, Solved] = {}  # what a sweep that is begun again need not solve

    def record(self, view: LayerView) -> LayerView | None:
        """Keep and return an exact view if it is of the settings that hold now."""
        with self._state:
            config = self._owner.coverage.configs.get(view.name)
            if not view.exact or config is None or not same_values(config, view.config):
                return None
            if config.solver == "calibrated" and not view.stamp.startswith(self._owner.calibration.stamp):
                return None  # of another text, or only shown until the inputs are there
            held = self.views.get(view.name)
            if held is not None and held.inputs == UPSTREAM.badge != view.inputs:
                return held  # what an export stores says more than what the dense model's inputs give
            kept = replace(view, config=config)
            self.views = {**self.views, view.name: kept}
            self.broken = {name: why for name, why in self.broken.items() if name != view.name}
            return kept

    def note(self, error: WeightError) -> None:
        """Remember which layer it is that holds NaN or infinity, as its error says first."""
        name = error.what.partition("[")[0]
        with self._state:
            if name in self._owner.coverage.configs:
                self.broken = {**self.broken, name: error.what}

    def recipe_changed(self) -> None:
        """Keep what the recipe leaves as it was; the caller holds `state`."""
        configs = self._owner.coverage.configs
        held = ((name, view, configs.get(name)) for name, view in self.views.items())
        kept = {
            name: replace(view, config=config)
            for name, view, config in held
            if config is not None and same_values(view.config, config)
        }
        if len(kept) < len(self.views) or len(kept) < len(configs):  # other layers may see other inputs
            kept = {name: view for name, view in kept.items() if view.inputs != UPSTREAM.badge}
            self._owner.calibration.stopped.drop()
        self.views = kept

    def text_changed(self) -> None:
        """Drop what was calibrated on another text."""
        with self._state:
            self.views = {name: view for name, view in self.views.items() if view.config.solver != "calibrated"}

    def start(self) -> Job:
        """Solve every int4 layer under the recipe, and record its errors; a layer with NaN is a problem, not the end.

        Raises:
            ConfigError: when other work is running, or a layer is to be calibrated and there is no text.
        """
        if needs_calibration(self._owner.coverage):
            self._owner.calibration.check()
        run, label = self.sweep().run, "Errors of all layers"
        return self._owner.work.submit(Job(label, run, self.take, self._on_job, again=self.start))

    def sweep(self) -> Sweep:
        """Return the work of solving what has no error yet."""
        source = self._owner.source
        return Sweep(
            source,
            self._owner.calibration,
            self._cache,
            coverage=lambda: self._owner.coverage,
            recorded=lambda name: self.views.get(name),
            check=lambda name: check_readable(source, name),
            done=self._swept,
        )

    def take(self, job: Job, item: tuple[Progress, LayerView | WeightError | None]) -> None:
        """Keep and tell what a sweep found (worker's thread)."""
        job.progress, found = item
        if isinstance(found, WeightError):
            self.note(found)
            self._emit("problem", found, job)
        elif found is not None and (kept := self.record(found)) is not None:
            self._emit("error", kept, job)
        self._emit("job", job, job)
