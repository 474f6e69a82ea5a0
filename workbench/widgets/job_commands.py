"""Cancel while something runs, and Resume where work stopped short of its end."""

from __future__ import annotations

import threading
from typing import Any

from workbench.jobs import Job
from workbench.widgets.commands import Command, Commands

_CANCEL = Command("cancel", "Cancel", "Stop what runs at its next block", kind="danger")


class JobCommands(Commands):
    """The buttons beside the running job: none while nothing runs and nothing was stopped.

    Args:
        traits: `on_error`, and initial values of traits.
    """

    def __init__(self, **traits: Any) -> None:
        self._follow_lock = threading.Lock()
        self._running: dict[int, Job] = {}
        self._stopped: Job | None = None
        super().__init__(**traits)

    def follow(self, job: Job) -> None:
        """Show what can be done now that a job has changed (any thread); quiet ones have no button."""
        with self._follow_lock:
            if job.again is not None:
                self._follow_stopped(job)
            if not job.quiet:
                self._running[job.number] = job
            self._running = {number: each for number, each in self._running.items() if not each.finished}
            resume = [Command("resume", "Resume", f"Go on with {self._stopped.label}")] if self._stopped else []
            self.set_buttons([*resume, *([_CANCEL] if self._running else [])])

    def resume(self) -> str:
        """Go on with what was stopped; say what came of it."""
        again = self._stopped and self._stopped.again
        return "going on" if again and again() is not None else "nothing to go on with"

    def _follow_stopped(self, job: Job) -> None:
        if job.state in ("cancelled", "failed"):
            self._stopped = None if job.quiet else job
        elif self._stopped is not None and self._stopped.label == job.label:
            self._stopped = None
