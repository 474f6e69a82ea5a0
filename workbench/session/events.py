"""What a session tells: events, and the listeners that none of them can break."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from workbench.jobs import Job

EventKind = Literal[
    "coverage",
    "selection",
    "calibration",
    "recipe",
    "view",
    "group",
    "look",
    "details",
    "compare",
    "zoom",
    "job",
    "speed",
    "error",
    "export",
    "targets",
    "quality",
    "answers",
    "perplexity",
    "stored",
    "improved",
    "report",
    "verdict",
    "problem",
]
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Event:
    """Something that a view may want to show.

    Attributes:
        kind: "coverage" (Coverage), "selection" (Session), "view" (LayerView), "group" (GroupView),
            "look" (Job of the microscope), "details" (LayerDetails), "compare" (Comparison, or None; on any thread),
            "zoom" (ZoomedBlock), "job" (Job), "speed" (SpeedPoint),
            "error" (LayerView of one layer in a sweep), "export" (ExportResult), "problem" (Exception), "targets"
            (TargetTable),
            "calibration" (CalibrationState), "recipe" (SessionRecipe: pinned, loaded or saved), "quality"
            (QualityState), "answers" (Answers, or None), "perplexity" (Perplexity), "stored" (StoredView),
            "improved" (Improvement, SoFar
            while it is looked for, or None once it is let go of),
            "report" (ReportFile), "verdict" (SessionVerdict: its speed is measured, or cannot be). "coverage",
            "selection" and "recipe" come on the thread of the person's action ("coverage" on a worker's where Improve
            changes the recipe), "calibration", "quality", "answers" and "targets" on either, all others on a
            worker's.
        data: What the kind says.
        job: The job that it comes from, or None.
    """

    kind: EventKind
    data: Any
    job: Job | None = None


class Listeners:
    """Functions that hear every event; one that raises breaks neither the others nor the work."""

    def __init__(self) -> None:
        self._listeners: tuple[Callable[[Event], None], ...] = ()
        self._lock = threading.Lock()

    def add(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Let a function hear every event; returns one that stops it."""
        with self._lock:
            self._listeners = (*self._listeners, listener)

        def forget() -> None:
            with self._lock:
                self._listeners = tuple(one for one in self._listeners if one is not listener)

        return forget

    def tell(self, event: Event) -> None:
        """Call every listener on this thread; what one of them raises is logged, and a problem that all hear of."""
        faults: list[Exception] = []
        for listener in self._listeners:
            try:
                listener(event)
            except Exception as error:
                _LOG.exception("A listener failed on %r", event.kind)
                faults.append(error)
        if event.kind != "problem":
            for fault in faults:
                self.tell(Event("problem", fault, event.job))

    def emit(self, kind: EventKind, data: Any, job: Job | None = None) -> None:
        """Tell what happened, and the job that it comes from."""
        self.tell(Event(kind, data, job))

    def on_job(self, job: Job) -> None:
        """Tell that a job changed, and what went wrong in it."""
        self.emit("job", job, job)
        if job.error is not None:
            self.emit("problem", job.error, job)

    def on_long_job(self, job: Job) -> None:
        """Tell that a job changed, unless it is too short to be shown, and what went wrong in it."""
        if not job.quiet:
            self.emit("job", job, job)
        if job.error is not None:
            self.emit("problem", job.error, job)
