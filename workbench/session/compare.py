"""Settings that a session holds fast as "A", and the layer on show under them beside what it is now, as "B"."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from workbench.config import ResolvedConfig
from workbench.jobs import Job
from workbench.measure.difference import PairOfMaps, pair_of_maps
from workbench.measure.error_map import Metric
from workbench.recipe.recipe import Choice
from workbench.records.errors import ErrorSummary
from workbench.session.events import Event
from workbench.session.rooms import Means, Room, Seen
from workbench.views.cache import NO_INPUTS
from workbench.views.views import LayerView, held_layer, iter_layer_views


@dataclass(frozen=True)
class Side:
    """One of the two ways.

    Attributes:
        config: Everything resolved.
        solver: The solver that found the codes.
        summary: Errors of what would be stored.
        notes: What a person must know.
    """

    config: ResolvedConfig
    solver: str
    summary: ErrorSummary
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Name the settings in a few words."""
        config = self.config
        kept = " · 0 kept" if config.domain == "float" and config.preserve_zero else ""
        return f"{self.solver} · {config.domain} · group size {config.group_size}{kept}"


@dataclass(frozen=True)
class Comparison:
    """The layer on show under two settings.

    Attributes:
        name: Module path.
        a: Under the settings that are held fast.
        b: Under those of now.
        metric: What the pictures show.
        maps: The pictures.
        in_features: K.
    """

    name: str
    a: Side
    b: Side
    metric: Metric
    maps: PairOfMaps
    in_features: int

    @property
    def better(self) -> str:
        """Return "A" or "B", the one with the smaller mean squared error; "" for a draw."""
        a, b = self.a.summary.mse, self.b.summary.mse
        return "" if a == b else ("A" if a < b else "B")


class SessionCompare(Room):
    """Holds settings as "A"; each exact view is then shown beside the same layer under them.

    Attributes:
        pinned: The settings that are held fast, or None.
        latest: What was compared last, or None.
    """

    def __init__(self, seen: Seen, means: Means) -> None:
        super().__init__("compare", seen, means)
        self.pinned: Choice | None = None
        self.latest: Comparison | None = None
        self._view: LayerView | None = None

    def pin(self) -> None:
        """Hold the settings on show fast as "A"."""
        self.pinned, self.latest = self.seen.choice(), None
        self.means.emit("compare", None, None)
        if self._view is not None and self.holds(self._view.name, self._view.config):
            self._follow(self._view)

    def unpin(self) -> None:
        """Let "A" go."""
        self.lane.cancel()
        self.pinned = self.latest = None
        self.means.emit("compare", None, None)

    def hear(self, event: Event) -> None:
        """Follow the view of the layer on show; another layer leaves nothing of the one before."""
        if event.kind == "selection" and self.latest is not None and self.latest.name != self.seen.current:
            self.latest = None
            self.means.emit("compare", None, None)
        elif event.kind == "view" and event.data.exact:
            self._view = event.data
            self._follow(event.data)

    def take(self, job: Job, item: Any) -> None:
        """Keep what is of the settings that hold now, and tell it."""
        pinned = self.pinned  # which a person may let go of meanwhile
        if not isinstance(item, Comparison) or pinned is None or not self.holds(item.name, item.b.config):
            return
        if item.a.config == pinned.resolved(self.seen.device):  # and not what was pinned before
            self.latest = item
            self.means.emit("compare", item, job)

    def _follow(self, view: LayerView) -> None:
        pinned = self.pinned
        if pinned is None:
            return
        config = pinned.resolved(self.seen.device)

        def work(cancel: threading.Event) -> Iterator[LayerView | Comparison]:
            return self._compared(view, config, cancel)

        self.submit("Comparison", view, work)

    def _compared(
        self, view: LayerView, config: ResolvedConfig, cancel: threading.Event
    ) -> Iterator[LayerView | Comparison]:
        """Solve the layer as A, where it is not held, and compare."""
        source, cache, name = self.seen.source, self.means.cache, view.name
        inputs = self.means.inputs(name) or NO_INPUTS
        now = held_layer(source, name, view.config, cache)  # before A's takes its place in a small cache
        first = None
        for first in iter_layer_views(source, name, config, cache=cache, cancel=cancel, sampled=False, inputs=inputs):
            yield first
        before = held_layer(source, name, config, cache)
        if first is None or now is None or before is None:
            return
        metric, reduce = self.seen.metric, self.seen.reduce
        maps = pair_of_maps(now[0], before[1], now[1], metric, reduce)
        a, b = (Side(one.config, one.solver, one.summary, one.notes) for one in (first, view))
        yield Comparison(name, a, b, metric, maps, view.in_features)
