"""Neighbours of the settings on show, solved into the cache while nobody wants anything, so that they come at once."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from workbench.config import DOMAINS, GROUP_SIZES, ResolvedConfig
from workbench.errors import Cancelled, WorkbenchError
from workbench.jobs import Job, Lane
from workbench.recipe.edit import changed_choice
from workbench.recipe.recipe import Choice
from workbench.session.events import Event
from workbench.session.rooms import Means, Room, Seen
from workbench.views.views import LayerView, iter_layer_views

_POLL_S = 0.05
_REST_S = 0.5  # for which nothing else may have worked
_SOLVERS = ("rtn", "hqq")


class SessionAhead(Room):
    """Solves the layer on show under neighbouring settings, in the session's idle time only.

    Whatever else begins interrupts it at the next block, and it goes on when that is over; a change of layer or
    settings ends it. It holds nothing that would push other results out of the cache.

    Args:
        seen: The session.
        means: What it lends.
        others: Returns the session's other lanes.

    Attributes:
        on: Whether it works at all; off until a view wants it.
        idle: Says whether the machine has time to spare.
    """

    def __init__(self, seen: Seen, means: Means, others: Callable[[], Sequence[Lane]]) -> None:
        super().__init__("ahead", seen, means)
        self.on = False
        self.idle = machine_is_idle
        self._others = others
        self._interrupt = threading.Event()

    def hear(self, event: Event) -> None:
        """Step aside for what begins, and follow the view of the layer on show."""
        if event.kind in ("coverage", "selection") or (event.kind in ("job", "look") and not event.data.finished):
            self._interrupt.set()
        elif event.kind == "view" and event.data.exact and self.on:
            self._follow(event.data)

    def take(self, job: Job, item: Any) -> None:
        """Nothing is told: what was solved waits in the cache."""

    def _follow(self, view: LayerView) -> None:
        wanted = neighbours(self.seen.choice(), self.seen.device)

        def work(cancel: threading.Event) -> Iterator[str]:
            return self._solved(view, wanted, cancel)

        self.begin("Neighbours", view, work)

    def _solved(self, view: LayerView, wanted: list[ResolvedConfig], cancel: threading.Event) -> Iterator[str]:
        room = view.total_rows * view.in_features * 5 // 4  # codes, scales and zero points, and a little more
        for config in wanted:
            done = self.means.cache.get(view.name, config) is not None
            while not done:
                yield from self._rest(cancel)
                if not self.means.cache.has_room(room):
                    return
                self._interrupt.clear()
                if self._others_work():  # begun since the rest, whose interruption is cleared
                    continue
                stop = _Either(cancel, self._interrupt)
                steps = iter_layer_views(
                    *(self.seen.source, view.name, config),
                    metric=self.seen.metric,
                    reduce=self.seen.reduce,
                    cache=self.means.cache,
                    cancel=stop,
                    sampled=False,
                )
                with contextlib.suppress(Cancelled):  # something else began; it is tried again afterwards
                    yield from (found.badge for found in self.means.in_turn(steps, stop))
                    done = True

    def _others_work(self) -> bool:
        return any(lane.busy for lane in self._others())

    def _rest(self, cancel: threading.Event) -> Iterator[str]:
        """Wait until nothing else has worked for a while."""
        since = time.monotonic()
        while time.monotonic() - since < _REST_S:
            if cancel.wait(_POLL_S):
                raise Cancelled("Something else is on show.")
            if self._others_work() or not self.idle():
                since = time.monotonic()
            yield "resting"


class _Either(threading.Event):
    """Set as soon as one of several events is."""

    def __init__(self, *events: threading.Event) -> None:
        super().__init__()
        self._events = events

    def is_set(self) -> bool:
        return any(event.is_set() for event in self._events)


def machine_is_idle() -> bool:
    """Say whether a core has been free of late; where the load is not known, none is taken to be."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("inf")
    return load < max(1, (os.cpu_count() or 1) - 1)


def neighbours(choice: Choice, device: str) -> list[ResolvedConfig]:
    """Return the settings that are one change away, the likeliest first; those that cannot be are left out."""
    size = choice.resolved(device).group_size
    at = GROUP_SIZES.index(size)
    beside = [GROUP_SIZES[place] for place in (at - 1, at + 1) if 0 <= place < len(GROUP_SIZES)]
    changes: list[dict[str, Any]] = [{"group_size": other} for other in beside]
    changes += [{"solver": solver} for solver in _SOLVERS] + [{"domain": domain} for domain in DOMAINS]
    found: list[ResolvedConfig] = []
    for change in changes:
        with contextlib.suppress(WorkbenchError):
            config = changed_choice(choice, **change).resolved(device)
            if config.solver != "calibrated":
                found.append(config)
    return found
