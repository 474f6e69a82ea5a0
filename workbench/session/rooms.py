"""What the rooms of a session share: what they see of it, and how they work beside it without ever being late."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from workbench.config import ResolvedConfig
from workbench.errors import ConfigError, ModelError
from workbench.int4_source import ORIGINAL
from workbench.jobs import Job, Lane
from workbench.kinds import INT4, QUANTIZABLE_KINDS
from workbench.layers import is_int4
from workbench.measure.error_map import Metric
from workbench.recipe.recipe import Choice
from workbench.records.layers import CoverageRow
from workbench.session.events import Event, EventKind
from workbench.sources import ModelSource, Source
from workbench.views.cache import Inputs, ViewCache
from workbench.views.views import LayerView


class Seen(Protocol):
    """What a room sees of its session."""

    source: Source
    device: str
    current: str
    metric: Metric
    reduce: Literal["max", "mean"]

    def resolved(self) -> ResolvedConfig:
        """Everything resolved for the settings on show."""
        ...

    def choice(self) -> Choice:
        """The settings on show."""
        ...

    def row(self, name: str) -> CoverageRow:
        """Return the coverage row of a weight."""
        ...

    def listen(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call `listener` with every event."""
        ...


@dataclass(frozen=True)
class Means:
    """What a session lends to its rooms.

    Attributes:
        cache: Solved layers of before.
        in_turn: Takes each step of work while nothing is timed.
        emit: Tells an event.
        on_job: Tells that a job changed.
        inputs: Returns what is known of a layer's inputs, or None.
    """

    cache: ViewCache
    in_turn: Callable[[Iterator[Any], threading.Event], Iterator[Any]]
    emit: Callable[[EventKind, Any, Job | None], None]
    on_job: Callable[[Job], None]
    inputs: Callable[[str], Inputs | None]


class Room:
    """Work that follows the layer on show, on a lane of its own; what is of another or of other settings is dropped.

    Args:
        name: Of the lane.
        seen: The session.
        means: What it lends.
    """

    def __init__(self, name: str, seen: Seen, means: Means) -> None:
        self.seen, self.means = seen, means
        self.lane = Lane(name, latest_wins=True)
        self._of: tuple[str, ResolvedConfig] | None = None  # what the newest work is of
        seen.listen(self._hear)

    def holds(self, name: str, config: ResolvedConfig) -> bool:
        """Say whether this layer is on show under these settings."""
        return (name, config) == (self.seen.current, self.seen.resolved())

    def submit(self, what: str, view: LayerView, work: Callable[[threading.Event], Iterator[Any]]) -> Job:
        """Run work on a view's layer, step by step while nothing is timed; each item goes to `take`."""

        def steps(cancel: threading.Event) -> Iterator[Any]:
            return self.means.in_turn(work(cancel), cancel)

        return self.begin(what, view, steps)

    def begin(self, what: str, view: LayerView, steps: Callable[[threading.Event], Iterator[Any]]) -> Job:
        """Run work that waits for its turns itself."""
        self._of = view.name, view.config
        return self.lane.submit(Job(f"{what} of {view.name}", steps, self.take, self._changed, quiet=True))

    def take(self, job: Job, item: Any) -> None:
        """Keep and tell what the work found (worker's thread)."""
        raise NotImplementedError

    def hear(self, event: Event) -> None:
        """Follow what the session tells (any thread)."""
        raise NotImplementedError

    def _hear(self, event: Event) -> None:
        if event.kind in ("coverage", "selection") and not (self._of and self.holds(*self._of)):
            self.lane.cancel()  # but not what follows a view that came before its recipe was told
        self.hear(event)

    def _changed(self, job: Job) -> None:
        if job.error is not None:
            self.means.emit("problem", job.error, job)


def linear_row(seen: Seen, lack: str, *, int4: bool = False) -> CoverageRow:
    """Return the row of the layer on show; where it is not linear, say what it lacks.

    Args:
        seen: The session.
        lack: What it lacks.
        int4: Whether it may be int4 already.

    Raises:
        ConfigError: when no layer is on show, or one that is not linear, or is int4 already.
    """
    row = seen.row(seen.current) if seen.current else None
    if row is not None and row.kind == INT4:
        if int4:
            return row
        raise ConfigError(f"{row.name} is int4 already: {lack}.", mend=ORIGINAL)
    if row is None or row.kind not in QUANTIZABLE_KINDS:
        what = "No layer is on show" if row is None else f"{row.name} is no linear layer ({row.kind})"
        raise ConfigError(f"{what}: {lack}.", mend="select a linear layer in the table")
    return row


def check_readable(source: Source, name: str) -> None:
    """Refuse a layer of which there is nothing to show.

    Raises:
        ModelError: with the reason.
    """
    if isinstance(source, ModelSource) and is_int4(source.model, name):
        raise ModelError(f"{name} is int4 already.", mend=ORIGINAL)
    why_not = source.missing(name)
    if why_not:
        raise ModelError(f"{name} cannot be shown: {why_not}.")
