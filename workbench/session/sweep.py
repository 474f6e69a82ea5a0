"""The errors of all int4 layers, one after the other, while a person goes on changing recipe and calibration text."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import Any

from workbench.config import ResolvedConfig
from workbench.coverage.coverage import Coverage, needs_calibration
from workbench.digests import digest_of
from workbench.errors import WeightError
from workbench.jobs import progress_since
from workbench.records.progress import Progress
from workbench.session.calibration import SessionCalibration
from workbench.solving import SolvedLayer
from workbench.sources import ModelSource, Source
from workbench.views.cache import NO_INPUTS, UPSTREAM, Inputs, ViewCache, same_values
from workbench.views.ordered import iter_ordered_views
from workbench.views.views import LayerView, iter_layer_views

Solved = tuple[ResolvedConfig, tuple[int, int], str]
_THUMBNAIL = 64  # sides of a picture: a sweep keeps thousands of them


class Sweep:
    """Solves what the recipe makes int4; what a change touches meanwhile is solved again.

    Args:
        source: Where the weights come from.
        calibration: The text, for layers that are to be calibrated.
        cache: Solved layers of before.
        coverage: Returns what becomes of every weight now.
        recorded: Returns the view of a layer that was yielded and is held, or None.
        check: Raises for a layer of which there is nothing to show.
        done: Name → settings and version of the weight that were solved, and what stands for the codes where they
            depend on the layers before ("" elsewhere): a sweep that was cut short goes on from them.
    """

    def __init__(
        self,
        source: Source,
        calibration: SessionCalibration,
        cache: ViewCache,
        *,
        coverage: Callable[[], Coverage],
        recorded: Callable[[str], LayerView | None],
        check: Callable[[str], None],
        done: dict[str, Solved] | None = None,
    ) -> None:
        self.source, self.calibration, self.cache = source, calibration, cache
        self._coverage, self._recorded, self._check = coverage, recorded, check
        self._done = {} if done is None else done

    def run(self, cancel: threading.Event) -> Iterator[tuple[Progress, LayerView | WeightError | None]]:
        """Yield where the work stands, with the view of a layer, or the reason why there is none.

        Raises:
            Cancelled: when `cancel` was set.
            ConfigError: when the calibration text cannot be used.
            ModelError: when a layer cannot be read, or the model cannot be run on the text.
        """
        start = time.monotonic()
        done = self._done
        broken: set[str] = set()
        coverage, stamp = None, ""
        while coverage is None or not self._holds(coverage, stamp):
            coverage, stamp = self._coverage(), self.calibration.stamp
            inputs = NO_INPUTS
            if needs_calibration(coverage):
                inputs = yield from self._in_order(coverage, stamp, cancel)
            for place, row in enumerate(coverage.int4_rows, start=1):
                if not self._holds(coverage, stamp):
                    break
                config = coverage.configs[row.name]
                known = self._recorded(row.name) is not None or row.name in broken
                if known and self._holds_for(row.name, config):
                    continue
                found = self._alone(row.name, config, inputs, cancel)
                version = self._version(row.name)
                if isinstance(found, WeightError):
                    broken.add(row.name)
                yield progress_since(start, place, len(coverage.int4_rows), f"{row.name}, {config.solver}"), found
                done[row.name] = config, version, ""  # not before it is taken: what is cancelled now is not

    def _holds(self, coverage: Coverage, stamp: str) -> bool:
        """Say whether recipe and text are what they were."""
        return coverage is self._coverage() and stamp == self.calibration.stamp

    def _holds_for(self, name: str, config: ResolvedConfig) -> bool:
        """Say whether a layer was solved with these settings, and its weight is what it was."""
        before = self._done.get(name)
        return before is not None and same_values(before[0], config) and before[1] == self._version(name)

    def _version(self, name: str) -> tuple[int, int]:
        """Return numbers that differ when a weight of a live model was changed, in place or by another."""
        if not isinstance(self.source, ModelSource):
            return 0, 0
        weight = self.source.weight(name)
        return weight.data_ptr(), 0 if weight.is_inference() else weight._version

    def _in_order(
        self, coverage: Coverage, stamp: str, cancel: threading.Event
    ) -> Generator[tuple[Progress, LayerView | None], None, Inputs]:
        """Solve layers as an export does, as far as weights are finite; return why those left have no inputs."""
        for name in coverage.configs:
            self._check(name)
        for loading in self.calibration.load(cancel):
            yield loading, None
        text, inputs = self.calibration.prepared(), replace(UPSTREAM, stamp=stamp)
        reached: dict[str, Solved] = {}

        def at_hand(step: SolvedLayer) -> bool:
            name = step.result.name
            reached[name] = coverage.configs[name], self._version(name), digest_of(step.weight)
            held = self._recorded(name)
            return held is not None and _shows(held, inputs) and _same(self._done.get(name), reached[name])

        given: dict[str, Any] = {"max_side": _THUMBNAIL, "stopped": self.calibration.stopped, "at_hand": at_hand}
        steps = iter_ordered_views(self.source, coverage, text, self.calibration.model, inputs, **given, cancel=cancel)
        found = NO_INPUTS
        try:
            with contextlib.closing(steps):
                for step in steps:
                    if not self._holds(coverage, stamp):
                        break
                    yield step
                    self._done |= reached  # not before it is taken
        except WeightError as error:
            found = Inputs(None, f"the model cannot be run so far: {error.what}", "no inputs", stamp)
        for name in self._done.keys() - reached.keys():  # what comes before a layer decides what it sees
            del self._done[name]
        return found

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


def _same(one: Solved | None, other: Solved) -> bool:
    return one is not None and same_values(one[0], other[0]) and one[1:] == other[1:]


def _shows(view: LayerView, inputs: Inputs) -> bool:
    """Say whether a view is of a layer with these inputs, or of one that looks at none."""
    return view.config.solver != "calibrated" or (view.inputs, view.stamp) == (inputs.badge, inputs.stamp)
