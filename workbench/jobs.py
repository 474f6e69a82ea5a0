"""Long work off the notebook's thread: a generator run on a worker, with progress, cancel and latest-wins.

A lane runs one job at a time. A latest-wins lane (previews) cancels what a new job supersedes; any other lane
(export, measurements) refuses a second job while one runs.
"""

from __future__ import annotations

import itertools
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from workbench.errors import Cancelled, ConfigError
from workbench.records import Progress

State = Literal["waiting", "running", "cancelling", "done", "cancelled", "failed"]
Work = Callable[[threading.Event], Iterator[Any]]

FINISHED: tuple[State, ...] = ("done", "cancelled", "failed")
_NUMBERS = itertools.count(1)


@dataclass(eq=False)
class Job:
    """One piece of long work and where it stands.

    Attributes:
        label: What a person calls it.
        quiet: Whether it is too short to be worth a progress bar.
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
    number: int = field(default_factory=_NUMBERS.__next__)
    state: State = "waiting"
    progress: Progress | None = None
    error: BaseException | None = None
    details: str = ""
    _cancel: threading.Event = field(default_factory=threading.Event, repr=False)
    _finished: threading.Event = field(default_factory=threading.Event, repr=False)

    @property
    def finished(self) -> bool:
        """Whether the job has ended, one way or another."""
        return self.state in FINISHED

    def cancel(self) -> None:
        """Ask the job to stop at its next block; acknowledged at once."""
        self._cancel.set()
        if self.state in ("waiting", "running"):
            self._enter("cancelling")

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the job has ended; False when `timeout_s` seconds passed first."""
        return self._finished.wait(timeout_s)

    def run(self) -> None:
        """Run to the end on the calling thread; what goes wrong is kept in `error`."""
        try:
            if self._cancel.is_set():
                raise Cancelled(f"{self.label} was superseded before it began.")
            self._enter("running")
            for item in self.work(self._cancel):
                if self._cancel.is_set():
                    raise Cancelled(f"{self.label} was cancelled.")
                self.on_item(self, item)
            self._end("done")
        except Cancelled:
            self._end("cancelled")
        except Exception as error:  # whatever it is, it must reach the person and leave the lane usable
            self.error, self.details = error, traceback.format_exc()
            self._end("failed")

    def _enter(self, state: State) -> None:
        self.state = state
        self.on_change(self)

    def _end(self, state: State) -> None:
        self.state = state
        try:
            self.on_change(self)
        finally:
            self._finished.set()


class Lane:
    """A worker thread that runs one job at a time; the thread starts with the first job and ends when idle."""

    def __init__(self, name: str, *, latest_wins: bool) -> None:
        """Make a lane; with `latest_wins`, a new job cancels and replaces those before it."""
        self.name = name
        self.latest_wins = latest_wins
        self._lock = threading.Lock()
        self._current: Job | None = None
        self._next: Job | None = None
        self._thread: threading.Thread | None = None

    @property
    def current(self) -> Job | None:
        """The job that runs or waits, or None."""
        with self._lock:
            return self._next or self._current

    @property
    def busy(self) -> bool:
        """Whether a job runs or waits."""
        return self.current is not None

    def submit(self, job: Job) -> Job:
        """Run `job` on the lane's thread.

        Raises:
            ConfigError: when the lane is busy and not latest-wins.
        """
        with self._lock:
            superseded = [old for old in (self._current, self._next) if old is not None]
            if superseded and not self.latest_wins:
                raise ConfigError(
                    f"{job.label} cannot start: {superseded[0].label} is running.",
                    mend="wait for it, or press Cancel",
                )
            dropped, self._next = self._next, job
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
        with self._lock:
            jobs = [job for job in (self._current, self._next) if job is not None]
        for job in jobs:
            job.cancel()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the lane is idle; False when `timeout_s` seconds passed first."""
        while (job := self.current) is not None:
            if not job.wait(timeout_s):
                return False
        return True

    def _loop(self) -> None:
        while True:
            with self._lock:
                self._current, self._next = self._next, None
                job = self._current
                if job is None:
                    self._thread = None
                    return
            try:
                job.run()
            finally:
                with self._lock:
                    self._current = None
