"""One piece of long work: a generator with progress, which can be cancelled, and which keeps what went wrong."""

from __future__ import annotations

import itertools
import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from workbench.errors import Cancelled
from workbench.records.progress import Progress

State = Literal["waiting", "running", "cancelling", "done", "cancelled", "failed"]
Work = Callable[[threading.Event], Iterator[Any]]

FINISHED: tuple[State, ...] = ("done", "cancelled", "failed")
_NUMBERS = itertools.count(1)
_LOG = logging.getLogger(__name__)


@dataclass(eq=False)
class Job:
    """One piece of long work and where it stands.

    Attributes:
        label: What a person calls it.
        work: Called with the event that asks it to stop; yields items, on the worker thread.
        on_item: Called as (job, item) for each item, unless the job was cancelled.
        on_change: Called as (job) after each change of `state`.
        quiet: Whether it is too short to be worth a progress bar.
        again: Begins the same work anew, which goes on where this stopped; None where it would start from nothing.
        number: Grows with every job of this process: a later job has a higher number.
        state: "waiting", "running", "cancelling", "done", "cancelled" or "failed".
        progress: Where the work stands, when it says so.
        error: What went wrong, when the state is "failed".
        details: The traceback of `error`.
    """

    label: str
    work: Work = field(repr=False)
    on_item: Callable[[Job, Any], None] = field(repr=False)
    on_change: Callable[[Job], None] = field(repr=False)
    quiet: bool = False
    again: Callable[[], Any] | None = field(default=None, repr=False)
    number: int = field(default_factory=_NUMBERS.__next__)
    state: State = "waiting"
    progress: Progress | None = None
    error: BaseException | None = None
    details: str = field(default="", repr=False)
    _cancel: threading.Event = field(default_factory=threading.Event, repr=False)
    _finished: threading.Event = field(default_factory=threading.Event, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def finished(self) -> bool:
        """Whether the job has ended, one way or another."""
        return self.state in FINISHED

    def cancel(self) -> None:
        """Ask the job to stop at its next block; acknowledged at once."""
        self._cancel.set()
        self._enter("cancelling")

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the job has ended; False when `timeout_s` seconds passed first."""
        return self._finished.wait(timeout_s)

    def run(self) -> None:
        """Run to the end on the calling thread; what goes wrong is kept in `error`."""
        outcome: State = "done"
        try:
            self._work()
        except Cancelled:
            outcome = "cancelled"
        except BaseException as error:  # whatever it is, it must reach the person and leave the lane usable
            self.details = traceback.format_exc()
            self.error = error.with_traceback(None)  # which would hold on to the weights of its frames
            outcome = "failed"
        self._enter(outcome)
        self._finished.set()

    def _work(self) -> None:
        if self._cancel.is_set():
            raise Cancelled(f"{self.label} was superseded before it began.")
        self._enter("running")
        steps = self.work(self._cancel)
        try:
            for item in steps:
                if self._cancel.is_set():
                    raise Cancelled(f"{self.label} was cancelled.")
                self.on_item(self, item)
        finally:  # whatever the work holds open is closed before the job's end is told
            close = getattr(steps, "close", None)
            if close is not None:
                close()

    def _enter(self, state: State) -> None:
        """Change the state, unless the job has ended or an ending is under way already, and tell it."""
        with self._lock:
            if self.finished or (self.state == "cancelling" and state not in FINISHED):
                return
            self.state = state
        try:
            self.on_change(self)
        except Exception:  # who listens badly must not break the work
            _LOG.exception("Showing that %s is %s failed", self.label, state)


def progress_since(start: float, done: int, total: int, label: str) -> Progress:
    """Return the progress of work in equal steps.

    Args:
        start: When it began, in seconds of the monotonic clock.
        done: Steps that are done, at least 1.
        total: Steps of the whole work.
        label: What is being done.
    """
    elapsed = time.monotonic() - start
    return Progress(done, total, label, elapsed, elapsed * (total - done) / done)
