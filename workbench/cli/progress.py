"""A line of progress for long work, and a Ctrl-C that ends it between two blocks."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from workbench.errors import Cancelled

if TYPE_CHECKING:
    from workbench.jobs import Job
    from workbench.records.progress import Progress


@contextlib.contextmanager
def stopping() -> Iterator[threading.Event]:
    """Turn a Ctrl-C into an event that long work looks at between its blocks; a second one stops wherever it is.

    Raised in the middle of an operation, a KeyboardInterrupt can come out of it as another error, or not at all.
    """
    cancel = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield cancel
        return
    before = signal.getsignal(signal.SIGINT) or signal.default_int_handler

    def stop(_signal: int, _frame: object) -> None:
        cancel.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, stop)
    try:
        yield cancel
    finally:
        signal.signal(signal.SIGINT, before)


def finish(job: Job, shown: ProgressLine, cancel: threading.Event) -> None:
    """Wait for a job of a session with a line of progress; a Ctrl-C cancels it.

    Raises:
        Cancelled: when it was cancelled.
        WorkbenchError: whatever else ended it.
    """
    seen: object = None
    while not job.wait(0.05):
        if job.progress is not None and job.progress is not seen:
            seen = job.progress
            shown.show(job.progress)
        if cancel.is_set():
            job.cancel()
    if job.state == "cancelled":
        raise Cancelled(f"{job.label} was cancelled.")
    if job.error is not None:
        raise job.error


class ProgressLine:
    """One line that is written over on a terminal; elsewhere, every tenth step."""

    def __init__(self) -> None:
        self._count = 0
        self._live = sys.stderr.isatty()
        self._width = 0

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live and self._count:
            print(file=sys.stderr)

    def show(self, progress: Progress) -> None:
        """Show where the work stands."""
        self._count += 1
        left = "" if progress.remaining_s is None else f", about {progress.remaining_s:.0f} s left"
        text = f"{progress.done / max(1, progress.total):>4.0%}  {progress.label}  {progress.elapsed_s:.1f} s{left}"
        if self._live:
            text = text[: shutil.get_terminal_size().columns - 1]  # a line that wraps could not be written over
            print(f"\r{text.ljust(self._width)}", end="", file=sys.stderr, flush=True)  # not every console knows ESC
            self._width = len(text)
        elif self._count % 10 == 0 or progress.done == progress.total:
            print(text, file=sys.stderr, flush=True)
