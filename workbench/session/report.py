"""The report of a session: what is not solved yet is solved first, then one HTML file is written."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from workbench.calibration_text import text_as_python
from workbench.coverage.coverage import Coverage, needs_calibration
from workbench.errors import WeightError
from workbench.jobs import Job, Lane
from workbench.machine import present_devices
from workbench.measure.timing import environment
from workbench.recipe.recipe import Recipe
from workbench.records.progress import Progress
from workbench.report.contents import Contents, versions
from workbench.report.page import report_html
from workbench.report.write import check_target, write_whole
from workbench.session.calibration import SessionCalibration
from workbench.session.events import EventKind
from workbench.session.exact import SessionErrors
from workbench.session.given import Given
from workbench.session.improve import SessionImprove
from workbench.session.quality import SessionQuality
from workbench.session.script import DEFAULT_DIRECTORY, convert_python, python_of
from workbench.session.speed import SessionSpeed
from workbench.session.sweep import Sweep
from workbench.session.tokenized_text import DEMO_ORIGIN
from workbench.session.verdict import SessionVerdict
from workbench.sources import Source
from workbench.views.views import LayerView

JOB_LABEL = "Report"
TYPED_TEXT = Path("calibration.txt")  # where the cell of a report reads a text from that is in no file


class Reported(Protocol):
    """What a report tells of its session."""

    source: Source
    device: str
    recipe: Recipe
    coverage: Coverage
    given: Given | None
    exact: SessionErrors
    speed: SessionSpeed
    calibration: SessionCalibration
    quality: SessionQuality
    verdict: SessionVerdict
    improving: SessionImprove
    work: Lane


@dataclass(frozen=True)
class ReportFile:
    """A report that was written.

    Attributes:
        path: The file.
        size_bytes: Its bytes.
        missing: int4 layers that it has no error of: their weights could not be solved.
    """

    path: Path
    size_bytes: int
    missing: tuple[str, ...] = ()


class SessionReport:
    """Writes what a session knows.

    Args:
        owner: The session.
        sweep: Makes a sweep over the layers that are not solved yet.
        on_swept: Keeps and tells what a sweep found.
        emit: Tells an event.
        on_job: Called after each change of the job.

    Attributes:
        latest: The report that was written last, or None.
    """

    def __init__(
        self,
        owner: Reported,
        *,
        sweep: Callable[[], Sweep],
        on_swept: Callable[[Job, tuple[Progress, LayerView | WeightError | None]], None],
        emit: Callable[[EventKind, Any, Job | None], None],
        on_job: Callable[[Job], None],
    ) -> None:
        self._owner, self._sweep, self._on_swept = owner, sweep, on_swept
        self._emit, self._on_job = emit, on_job
        self.latest: ReportFile | None = None

    def start(self, path: Path | str) -> Job:
        """Solve the int4 layers that are not solved yet, and write the report, on the work lane.

        Raises:
            ConfigError: when the file cannot be written, a layer is to be calibrated and there is no text, or other
                work is running.
        """
        target = check_target(path)
        if needs_calibration(self._owner.coverage):
            self._owner.calibration.check()

        def steps(cancel: threading.Event) -> Iterator[Any]:
            owner = self._owner
            if any(name not in owner.exact.views for name in owner.coverage.configs):
                yield from self._sweep().run(cancel)
            contents = self.contents()
            write_whole(target, report_html(contents))
            missing = tuple(name for name in contents.coverage.configs if name not in contents.errors)
            yield ReportFile(target, target.stat().st_size, missing)

        again = partial(self.start, path)
        return self._owner.work.submit(Job(f"{JOB_LABEL} to {target}", steps, self._take, self._on_job, again=again))

    def contents(self) -> Contents:
        """Return what is known now."""
        owner = self._owner
        measured, improving = owner.quality.state.measured, owner.improving
        return Contents(
            coverage=owner.coverage,
            recipe=owner.recipe,
            python=self._python(),
            verdict=owner.verdict.line(),
            errors=owner.exact.views,
            machine=machine_of(owner.device),
            made=time.strftime("%Y-%m-%d %H:%M %z"),
            decode=owner.verdict.speed,
            speed=owner.speed.points,
            rooflines=owner.speed.rooflines,
            speed_notes=owner.speed.notes,
            quality=None if measured is None else measured.comparison,
            quality_text=owner.quality.state.origin,
            improvement=improving.latest if improving.applied else None,
        )

    def _python(self) -> str:
        owner = self._owner
        if owner.given is not None:
            return convert_python(owner.source)
        return python_of(owner.source, owner.recipe, DEFAULT_DIRECTORY, self._calibration())

    def _calibration(self) -> str | None:
        """Return an expression for the calibration text; one that is in no file is to be saved beside the script."""
        owner = self._owner
        if not needs_calibration(owner.coverage):
            return None
        state = owner.calibration.state
        return "wb.demo_calibration_text()" if state.origin == DEMO_ORIGIN else text_as_python(state.path or TYPED_TEXT)

    def _take(self, job: Job, item: Any) -> None:
        if isinstance(item, ReportFile):
            self.latest = item
            self._emit("report", item, job)
        else:
            self._on_swept(job, item)


def machine_of(device: str) -> Mapping[str, str]:
    """Return what the numbers of a report depend on: the device, its threads, and versions."""
    kind = torch.device(device).type
    place = environment(kind if kind in present_devices() else "cpu")
    runs = f"{device}: {place.device_name}, {place.capability}" if kind in present_devices() else f"{device}, not here"
    return {"Device": runs, "Threads": str(place.threads), **versions()}
