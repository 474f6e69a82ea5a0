"""The microscope of a session: a group of the layer on show, weight by weight, which follows layer and settings."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from workbench.jobs import Job, Lane
from workbench.session.rooms import Means, Seen, check_readable, linear_row
from workbench.views.groups import Block, GroupView, iter_group_views
from workbench.views.views import PAUSE_S, LayerView

Span = tuple[int, int]


class SessionMicroscope:
    """Looks at one group on a lane of its own; the newest wish wins, and a new view is followed.

    Args:
        seen: The session.
        means: What it lends.
        state: Held while the recipe changes, and where the microscope is with it.

    Attributes:
        group: (row, group) of the layer on show, or None until one is found.
        latest: What it shows, or None.
        lane: Where groups are solved.
    """

    def __init__(self, seen: Seen, means: Means, state: threading.Lock) -> None:
        self._seen, self._means, self._state = seen, means, state
        self.group: tuple[int, int] | None = None
        self.latest: GroupView | None = None
        self._wish: tuple[Span | None, Span | None] | None = None  # rows and groups whose worst is not found yet
        self.lane = Lane("microscope", latest_wins=True)

    def look_at(self, row: int, group: int) -> Job:
        """Look at a group of the layer on show.

        Raises:
            ConfigError: when the layer on show is not linear, or has no such row or group.
        """
        return self._look_at((row, group))

    def look_at_worst(self, rows: Span | None = None, groups: Span | None = None) -> Job:
        """Look at the worst group of the layer on show, by the metric on show.

        Args:
            rows: First row to look in and one past the last; None looks in all.
            groups: First group to look in and one past the last; None looks in all.

        Raises:
            ConfigError: when the layer on show is not linear, or has no such rows or groups.
        """
        return self._look_at_worst(rows, groups)

    def follow(self, view: LayerView) -> None:
        """Look at the same place of a layer under its new settings, or at the worst group of one that just came.

        The view is on the screen before the look takes a core.
        """
        if (view.name, view.config) != (self._seen.current, self._seen.resolved()):
            return  # another view is under way
        if self._wish is not None or self.group is None:
            if view.exact:
                self._look_at_worst(*(self._wish or (None, None)), PAUSE_S)
        elif view.exact or self.latest is None or self.latest.config != view.config:
            self._look_at(self.group, PAUSE_S)

    def leave(self) -> None:
        """Forget where it is: another layer is on show."""
        self.group = self.latest = self._wish = None

    def regroup(self, before: int, now: int) -> None:
        """Keep what it is on, or is to be on, where it is while the group size changes; the caller holds `state`."""
        if self.group is not None:
            self.group = (self.group[0], self.group[1] * before // now)
        if self._wish is not None and self._wish[1] is not None:
            first, stop = self._wish[1]
            self._wish = (self._wish[0], (first * before // now, -(-stop * before // now)))

    def _look_at(self, place: tuple[int, int], after_s: float = 0.0) -> Job:
        row, group = place
        look = self._looker((row, row + 1), (group, group + 1), after_s)
        self.group, self._wish = place, None
        return self.lane.submit(look)

    def _look_at_worst(self, rows: Span | None, groups: Span | None, after_s: float = 0.0) -> Job:
        look = self._looker(rows, groups, after_s)
        self._wish = (rows, groups)
        return self.lane.submit(look)

    def _looker(self, rows: Span | None, groups: Span | None, after_s: float) -> Job:
        seen, means = self._seen, self._means
        config, metric = seen.resolved(), seen.metric
        row = linear_row(seen, "it has no groups to look at")
        block = Block.of(row.matrix, config.group_size, rows, groups)

        def look(cancel: threading.Event) -> Iterator[GroupView]:
            cancel.wait(after_s)
            check_readable(seen.source, row.name)
            inputs = means.inputs(row.name)
            views = iter_group_views(
                *(seen.source, row.name, config, block),
                metric=metric,
                cache=means.cache,
                statistics=None if inputs is None else inputs.moments,
                cancel=cancel,
            )
            return means.in_turn(views, cancel)

        return Job(f"Microscope on {row.name}", look, self._on_group, self._on_look, quiet=True)

    def _on_group(self, job: Job, view: GroupView) -> None:
        with self._state:
            if (view.microscope.name, view.config) != (self._seen.current, self._seen.resolved()):
                return  # a refresh is under way, and another look follows it
            self.group, self.latest = (view.microscope.row, view.microscope.group), view
            self._wish = None
        self._means.emit("group", view, job)

    def _on_look(self, job: Job) -> None:
        self._means.emit("look", job, job)
        if job.error is not None:
            self._means.emit("problem", job.error, job)
