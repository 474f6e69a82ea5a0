"""What runs now and how far it is, and what went wrong, under the view."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

import traitlets

from workbench.errors import (
    Cancelled,
    CheckpointError,
    ConfigError,
    EnvironmentProblem,
    KernelError,
    ModelError,
    PatternError,
    WeightError,
    WorkbenchError,
)
from workbench.jobs import FINISHED, Job
from workbench.widgets.component import Component, bundle

HEADINGS: dict[type[BaseException], str] = {
    ConfigError: "Not possible",
    WeightError: "A weight that cannot be used",
    KernelError: "Input that the int4 kernels refuse",
    PatternError: "A layer pattern that cannot work",
    ModelError: "A model that cannot be used",
    CheckpointError: "A checkpoint that cannot be read or written",
    EnvironmentProblem: "Missing on this machine",
    Cancelled: "Stopped",
}
MAX_PROBLEMS = 20
MAX_LOG = 60
MIN_INTERVAL_S = 0.1  # progress is sent at most ten times a second


class Status(Component):
    """A line for the running job and a list of problems.

    Traits:
        job: The job on show as a dictionary: label, state, fraction (0 to 1, or None), text; {} for none.
        problems: What went wrong, newest first: title, text, details.
        log: What has ended and what went wrong, newest first: at (hh:mm:ss), label, kind ("done", "cancelled"
            or "problem"), text, details, and how many times it came in a row. Dismissing a problem keeps its line.
    """

    _esm = bundle("shared.js", "status.js")
    _css = bundle("theme.css", "status.css")
    job = traitlets.Dict().tag(sync=True)
    problems = traitlets.List(traitlets.Dict()).tag(sync=True)
    log = traitlets.List(traitlets.Dict()).tag(sync=True)

    def __init__(self, **traits: Any) -> None:
        self._lock = threading.Lock()
        self._sent_at = 0.0
        self._sent: tuple[int, str] = (0, "")
        self._begun: deque[int] = deque(maxlen=MAX_LOG)  # numbers of jobs that were shown before their end
        self._ended: deque[int] = deque(maxlen=MAX_LOG)  # numbers of jobs whose end stands in the log
        super().__init__(**traits)

    def show_job(self, job: Job) -> None:
        """Show where a job stands (any thread), at most ten times a second but for changes of state.

        What was wrong with one of its label before is done with when it begins.
        """
        with self._lock:
            shown, now = describe(job), time.monotonic()
            if (job.number, shown["state"]) == self._sent and now - self._sent_at < MIN_INTERVAL_S:
                return
            self._sent_at, self._sent = now, (job.number, shown["state"])
            ended = shown["state"] in ("done", "cancelled") and job.number not in self._ended
            if ended:
                self._ended.append(job.number)
            if job.number not in self._begun and shown["state"] not in FINISHED:
                self._begun.append(job.number)
                self._forget_problems(job.label)
        self.job = shown
        if ended:  # once, though who hears late of a cancel sees the end too; a failure comes as a problem, in words
            self._note(job.label, shown["state"], shown["text"])

    def show_problem(self, error: BaseException, title: str = "", details: str = "") -> None:
        """Put an error in front of the others; it takes the place of the same again.

        Without a title, one for users is headed by its kind in words, and takes the place of one of that kind: a person
        who tries again is done with what was wrong before.
        """
        known = isinstance(error, WorkbenchError)
        problem = {
            "title": title or HEADINGS.get(type(error), type(error).__name__),
            "text": f"{type(error).__name__}: {error}" if title and not known else str(error),
            "details": "" if known else details,
        }
        with self._lock:
            told = ("title",) if known and not title else ("title", "text")
            kept = [one for one in self.problems if any(one[part] != problem[part] for part in told)]
            self.problems = [problem, *kept][:MAX_PROBLEMS]
        self._note(problem["title"], "problem", problem["text"], problem["details"])

    def clear_problems(self) -> None:
        """Forget what went wrong."""
        self.problems = []

    def _forget_problems(self, label: str) -> None:
        kept = [
            one
            for one in self.problems
            if one["title"] != label and not one["text"].startswith(f"{label} cannot start")
        ]
        if len(kept) < len(self.problems):
            self.problems = kept

    def _note(self, label: str, kind: str, text: str, details: str = "") -> None:
        """Write a line of the log; the same again, but for its times, only counts."""
        line: dict[str, Any] = {
            "at": time.strftime("%H:%M:%S"),
            "label": label,
            "kind": kind,
            "text": text,
            "details": details,
        }
        with self._lock:
            last = self.log[0] if self.log else {}
            again = (last.get("label"), last.get("kind")) == (label, kind) and kind == "cancelled"
            line["times"] = last["times"] + 1 if again else 1
            self.log = [line, *self.log[again:]][:MAX_LOG]

    def _receive(self, content: Any, buffers: Any) -> None:
        if isinstance(content, dict) and content.get("type") == "dismiss":
            self.clear_problems()

    def _summary(self) -> str:
        return f"{self.job.get('label', 'idle')} {self.job.get('state', '')}, {len(self.problems)} problems"


def describe(job: Job) -> dict[str, Any]:
    """Say where a job stands: label, state, fraction and a line of text."""
    progress, state = job.progress, job.state  # which may change while it is described
    fraction = None
    parts: list[str] = ["cancelling: stops after this step" if state == "cancelling" else state]
    if progress is not None:
        if progress.total:
            fraction = min(1.0, progress.done / progress.total)
            parts.append(f"{fraction:.0%}")
        parts.append(progress.label)
        parts.append(f"{progress.elapsed_s:.1f} s")
        if progress.remaining_s is not None and state not in FINISHED:
            parts.append(f"about {progress.remaining_s:.0f} s left")
    if state == "done":
        fraction = 1.0
    return {"label": job.label, "state": state, "fraction": fraction, "text": " · ".join(parts)}
