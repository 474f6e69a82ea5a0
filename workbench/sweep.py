"""The errors of all int4 layers, one after the other, while a person goes on changing recipe and calibration text."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace

from workbench.config import ResolvedConfig
from workbench.coverage import Coverage
from workbench.errors import WeightError
from workbench.jobs import progress_since
from workbench.ordered_views import iter_ordered_views
from workbench.quantize import needs_calibration
from workbench.records import Progress
from workbench.session_calibration import SessionCalibration
from workbench.sources import Source
from workbench.view_cache import NO_INPUTS, UPSTREAM, Inputs, ViewCache, same_values
from workbench.views import LayerView, iter_layer_views

_THUMBNAIL = 64  # sides of a picture: a sweep keeps thousands of them


class Sweep:
    """Solves what the recipe makes int4; what a change touches meanwhile is solved again.

    Args:
        source: Where the weights come from.
        calibration: The text, for layers that are to be calibrated.
        cache: Solved layers of before.
        coverage: Returns what becomes of every weight now.
        recorded: Says whether the view of a layer that was yielded is held.
        check: Raises for a layer of which there is nothing to show.
    """

    def __init__(
        self,
        source: Source,
        calibration: SessionCalibration,
        cache: ViewCache,
        *,
        coverage: Callable[[], Coverage],
        recorded: Callable[[str], bool],
        check: Callable[[str], None],
    ) -> None:
        self.source, self.calibration, self.cache = source, calibration, cache
        self._coverage, self._recorded, self._check = coverage, recorded, check

    def run(self, cancel: threading.Event) -> Iterator[tuple[Progress, LayerView | WeightError | None]]:
        """Yield where the work stands, with the view of a layer, or the reason why there is none.

        Raises:
            Cancelled: when `cancel` was set.
            ConfigError: when the calibration text cannot be used.
            ModelError: when a layer cannot be read, or the model cannot be run on the text.
        """
        start = time.monotonic()
        done: dict[str, ResolvedConfig] = {}
        broken: set[str] = set()
        coverage, stamp = None, ""
        while coverage is None or not self._holds(coverage, stamp):
            coverage, stamp = self._coverage(), self.calibration.stamp
            inputs = NO_INPUTS
            if needs_calibration(coverage):
                done = {}  # what comes before a layer decides what it sees
                inputs = yield from self._in_order(coverage, stamp, done, cancel)
            for place, row in enumerate(coverage.int4_rows, start=1):
                if not self._holds(coverage, stamp):
                    break
                config = coverage.configs[row.name]
                known = self._recorded(row.name) or row.name in broken
                if known and row.name in done and same_values(done[row.name], config):
                    continue
                found = self._alone(row.name, config, inputs, cancel)
                done[row.name] = config
                if isinstance(found, WeightError):
                    broken.add(row.name)
                yield progress_since(start, place, len(coverage.int4_rows), f"{row.name}, {config.solver}"), found

    def _holds(self, coverage: Coverage, stamp: str) -> bool:
        """Say whether recipe and text are what they were."""
        return coverage is self._coverage() and stamp == self.calibration.stamp

    def _in_order(
        self, coverage: Coverage, stamp: str, done: dict[str, ResolvedConfig], cancel: threading.Event
    ) -> Generator[tuple[Progress, LayerView | None], None, Inputs]:
        """Solve layers as an export does, as far as weights are finite; return why those left have no inputs."""
        for name in coverage.configs:
            self._check(name)
        for loading in self.calibration.load():
            yield loading, None
        text, inputs = self.calibration.prepared(), replace(UPSTREAM, stamp=stamp)
        steps = iter_ordered_views(
            self.source, coverage, text, self.calibration.model, inputs, max_side=_THUMBNAIL, cancel=cancel
        )
        try:
            with contextlib.closing(steps):
                for progress, view in steps:
                    if not self._holds(coverage, stamp):
                        return NO_INPUTS
                    done[view.name] = view.config
                    yield progress, view
        except WeightError as error:
            return Inputs(None, f"the model cannot be run so far: {error.what}", "no inputs", stamp)
        return NO_INPUTS

    def _alone(
        self, name: str, config: ResolvedConfig, inputs: Inputs, cancel: threading.Event
    ) -> LayerView | WeightError:
        self._check(name)
        try:
            return next(
                iter_layer_views(
                    *(self.source, name, config),
                    cache=self.cache,
                    cancel=cancel,
                    sampled=False,
                    max_side=_THUMBNAIL,
                    inputs=inputs,
                )
            )
        except WeightError as error:
            return error
