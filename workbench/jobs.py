"""Long work off the notebook's thread: a generator run on a worker, with progress, cancel and latest-wins.

A lane runs one job at a time. A latest-wins lane (previews) cancels what a new job supersedes; any other lane
(export, measurements) refuses a second job while one runs.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from workbench.errors import Cancelled, ConfigError
from workbench.records.progress import Progress
from workbench.workers import own_thread_count

State = Literal["waiting", "running", "cancelling", "done", "cancelled", "failed"]
Work = Callable[[threading.Event], Iterator[Any]]

FINISHED: tuple[State, ...] = ("done", "cancelled", "failed")
T = TypeVar("T")
_POLL_S = 0.05
_LEAVE_S = 10.0  # for a block that runs when the process ends
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


def behind(lane: Lane, steps: Iterator[T], cancel: threading.Event) -> Iterator[T]:
    """Take each step while a lane is idle, whose work a person waits for.

    Raises:
        Cancelled: when `cancel` was set while the lane was busy.
    """
    while True:
        while not lane.wait(_POLL_S):
            if cancel.is_set():
                raise Cancelled("Cancelled before its turn came.")
        try:
            step = next(steps)
        except StopIteration:
            return
        yield step


def progress_since(start: float, done: int, total: int, label: str) -> Progress:
    """Progress of work in equal steps that began at `start` of the monotonic clock."""
    elapsed = time.monotonic() - start
    return Progress(done, total, label, elapsed, elapsed * (total - done) / done)


_LANES: weakref.WeakSet[Lane] = weakref.WeakSet()


@atexit.register
def stop_all() -> None:
    """Cancel what runs on any lane and wait for its block to end.

    Python kills a thread that is left when the process ends; inside PyTorch that aborts the whole process.
    """
    lanes = list(_LANES)
    for lane in lanes:
        lane.cancel()
    end = time.monotonic() + _LEAVE_S
    for lane in lanes:
        lane.wait(max(0.0, end - time.monotonic()))


class Lane:
    """A worker thread that runs one job at a time; the thread starts with the first job and ends when idle."""

    def __init__(self, name: str, *, latest_wins: bool) -> None:
        """Make a lane; with `latest_wins`, a new job cancels and replaces those before it."""
        self.name = name
        self.latest_wins = latest_wins
        self._changed = threading.Condition()
        self._current: Job | None = None
        self._next: Job | None = None
        self._latest: Job | None = None
        self._thread: threading.Thread | None = None
        _LANES.add(self)

    @property
    def current(self) -> Job | None:
        """The job that runs or waits, or None."""
        with self._changed:
            return next(iter(self._unfinished()), None)

    @property
    def latest(self) -> Job | None:
        """The job that came last, ended or not, or None; where the latest wins, what an older one says is stale."""
        return self._latest

    @property
    def busy(self) -> bool:
        """Whether a job runs or waits."""
        return self.current is not None

    def submit(self, job: Job) -> Job:
        """Run `job` on the lane's thread.

        Raises:
            ConfigError: when the lane is busy and not latest-wins.
        """
        with self._changed:
            superseded = self._unfinished()
            if superseded and not self.latest_wins:
                raise ConfigError(
                    f"{job.label} cannot start: {superseded[0].label} is running.",
                    mend="wait for it, or press Cancel",
                )
            dropped, self._next = self._next, job
            self._latest = job
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name=f"workbench-{self.name}", daemon=True)
                self._thread.start()
        for old in superseded:
            old.cancel()
        if dropped is not None:
            dropped.run()
        return job

    def cancel(self) -> None:
        """Cancel what runs and what waits."""
        with self._changed:
            jobs = self._unfinished()
        for job in jobs:
            job.cancel()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the lane is idle and has told so; False when `timeout_s` seconds passed first."""
        with self._changed:
            return self._changed.wait_for(lambda: self._current is None and self._next is None, timeout_s)

    def _unfinished(self) -> list[Job]:
        """The waiting job before the running one."""
        return [job for job in (self._next, self._current) if job is not None and not job.finished]

    def _loop(self) -> None:
        own_thread_count()
        while True:
            with self._changed:
                self._current, self._next = self._next, None
                job = self._current
                if job is None:
                    self._thread = None
                    self._changed.notify_all()
                    return
            job.run()


def wait_for_all(lanes: Sequence[Lane], timeout_s: float | None = None) -> bool:
    """Wait until every lane is idle at once, what one's work began on another too; False when the time passed first.

    Args:
        lanes: The lanes, in any order.
        timeout_s: Seconds to wait at most; None waits without end.
    """
    end = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        before = [lane.latest for lane in lanes]
        if not all(lane.wait(None if end is None else max(0.0, end - time.monotonic())) for lane in lanes):
            return False
        if all(lane.latest is job for lane, job in zip(lanes, before, strict=True)):
            return True  # none took a job since before the first of them was idle
