"""Worker threads that run one job at a time, and waiting for several of them.

A latest-wins lane (previews) cancels what a new job supersedes; any other lane (export, measurements) refuses a second
job while one runs.
"""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from typing import TypeVar

from workbench.errors import Cancelled, ConfigError
from workbench.jobs.job import Job
from workbench.workers import own_thread_count

T = TypeVar("T")
_POLL_S = 0.05
_LEAVE_S = 10.0  # for a block that runs when the process ends


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
