"""Exports of a session: which formats hold the model under the recipe, before anything runs, and writing one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from workbench.checkpoint.contents import Contents
from workbench.checkpoint.findings import Findings
from workbench.checkpoint.solved_contents import SolvedContents
from workbench.coverage.coverage import Coverage, needs_calibration
from workbench.errors import CheckpointError, ConfigError
from workbench.export_checks import check_exportable, export_target
from workbench.exporting import ExportResult, iter_export, iter_write
from workbench.jobs import Job, Lane
from workbench.recipe.recipe import Recipe
from workbench.records.progress import Progress
from workbench.session.calibration import SessionCalibration
from workbench.session.events import Event, EventKind
from workbench.session.given import Given
from workbench.session.layers import SessionLayers
from workbench.session.quality import SessionQuality
from workbench.session.quality_state import QualityState
from workbench.sources import Source
from workbench.targets import NATIVE
from workbench.targets.companions import Companions
from workbench.targets.run import TargetTable, fits_of
from workbench.views.cache import ViewCache
from workbench.views.solved_layers import SolvedLayers


class Exported(Protocol):
    """What an export needs of its session."""

    source: Source
    tokenizer: Any
    recipe: Recipe
    coverage: Coverage
    given: Given | None
    calibration: SessionCalibration
    quality: SessionQuality
    work: Lane
    layers: SessionLayers

    def listen(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call `listener` with every event."""
        ...


class SessionExport:
    """Says which formats fit, makes the recipe fit one, and writes.

    Args:
        owner: The session.
        cache: Layers that were solved to be looked at.
        emit: Tells an event.
        on_job: Called after each change of a job.

    Attributes:
        latest: The export that was written last, or None.
        lane: Where the formats are asked; it never waits for other work, and reads no value.
    """

    def __init__(
        self,
        owner: Exported,
        cache: ViewCache,
        emit: Callable[[EventKind, Any, Job | None], None],
        on_job: Callable[[Job], None],
    ) -> None:
        self._owner, self._cache, self._emit, self._on_job = owner, cache, emit, on_job
        self.latest: ExportResult | None = None
        self.lane = Lane("formats", latest_wins=True)
        self._known: tuple[Coverage, TargetTable] | None = None
        self._asking: Coverage | None = None  # what the formats were asked about last
        self._failed: Coverage | None = None  # what the formats could not be asked about: once is enough
        self._companions: Companions | None = None  # no recipe changes them: looked at once
        owner.listen(self._hear)

    @property
    def table(self) -> TargetTable | None:
        """Which formats hold the model under the recipe that holds now; None while that is not known."""
        known = self._known
        return known[1] if known is not None and known[0] is self._owner.coverage else None

    @property
    def some(self) -> bool:
        """Whether there is anything to write: a layer becomes int4, or is int4 already."""
        return self._owner.given is not None or bool(self._owner.coverage.configs)

    def targets(self) -> TargetTable:
        """Ask every format whether it can hold the model under the recipe; no value is read.

        Raises:
            CheckpointError: when weights of the model are missing, or a live model has no configuration.
            ModelError: when an int4 model has adapters of PEFT.
        """
        owner = self._owner
        if (known := self.table) is not None:
            return known
        coverage = owner.coverage
        contents = self._contents()
        outline = contents.outline()
        if any(form.experts for form in outline.int4.values()):  # only they are cut: transformers is slow to import
            from workbench.hf.reverse_names import reverse_names

            outline = replace(outline, stored_names=reverse_names(outline))
        self._companions = self._companions or Companions(contents.write_files)
        table = fits_of(outline, self._companions)
        table = table if owner.given is None else owner.given.unchanged(table)
        if coverage is owner.coverage:  # and not of a recipe that was changed while it was asked
            self._known = coverage, table
            self._emit("targets", table, None)
        return table

    def follow(self) -> Job | None:
        """Ask the formats once the views are done, unless their answer is known."""
        coverage = self._owner.coverage
        if self.table is not None or not self.some or coverage is self._failed:
            return None
        if self.lane.current is not None and self._owner.given is not None:
            return self.lane.current  # no recipe changes what is asked
        running = self.lane.current
        if running is not None and running.state != "cancelling" and self._asking is coverage:
            return running

        def ask(_cancel: threading.Event) -> Iterator[TargetTable]:
            yield self.targets()

        self._asking = coverage
        changed = partial(self._on_asked, coverage)
        return self.lane.submit(Job("Export formats", ask, lambda job, table: None, changed, True))

    def fit(self, target: str) -> None:
        """Change the settings of the layers that a format cannot hold into the nearest that it can; one undoable step.

        Raises:
            ConfigError: for an unknown format, or when no change of settings would make it fit.
        """
        fit = self.targets().fit(target)
        if not fit.misfits:
            return
        if not fit.change:
            stuck = next(misfit for misfit in fit.misfits if not misfit.change)
            raise ConfigError(f"{target} cannot hold {stuck.what}.", allowed=stuck.allowed, mend=stuck.mend)
        changes: dict[str, tuple[list[str], dict[str, Any]]] = {}
        for name, settings in fit.change.items():
            changes.setdefault(repr(sorted(settings.items())), ([], settings))[0].append(name)
        self._owner.layers.change(list(changes.values()))

    def start(
        self, directory: Path | str, *, target: str = NATIVE, overwrite: bool = False, verify: bool = True
    ) -> Job:
        """Quantize under the recipe, write, and check what was written, on the work lane; see `Session.export`.

        What is int4 already is written as it is.

        Raises:
            CheckpointError: for a folder that cannot be written to, or what the format cannot hold.
            ConfigError: for an unknown format, a recipe that leaves every layer dense, or a text that cannot be used.
            ModelError: for a model without weights.
        """
        owner = self._owner
        place = export_target(owner.source, directory, overwrite=overwrite)
        coverage, recipe, given = owner.coverage, owner.recipe, owner.given
        if given is None:
            check_exportable(owner.source, coverage)
        else:
            given.contents()  # says what no format can write
        if target != NATIVE:  # which holds everything
            self.targets().fit(target).check()
        found = quality_found(owner.quality.state)
        if needs_calibration(coverage):
            owner.calibration.check()
        how: dict[str, Any] = {"target": target, "overwrite": overwrite, "verify": verify}

        def write(cancel: threading.Event) -> Iterator[Progress | ExportResult]:
            if given is not None:
                return iter_write(given.contents(), place, **how, cancel=cancel)
            return self._quantized(coverage, recipe, place, found=found, cancel=cancel, **how)

        label = f"Export to {place}" if target == NATIVE else f"Export to {place} ({target})"
        again = partial(self.start, directory, **how)
        return owner.work.submit(Job(label, write, self._on_export, self._on_job, again=again))

    def _quantized(
        self, coverage: Coverage, recipe: Recipe, place: Path, *, cancel: threading.Event, **how: Any
    ) -> Iterator[Progress | ExportResult]:
        """Solve and write what the recipe makes of the model; what a try cut short has solved is taken as it is."""
        owner, text, model = self._owner, None, None
        solved = SolvedLayers(self._cache, stopped=owner.calibration.stopped)
        if needs_calibration(coverage):
            text = owner.calibration.prepared()
            yield from owner.calibration.load(cancel)
            model = owner.calibration.model
        given: dict[str, Any] = {"tokenizer": owner.tokenizer, "calibration": text, "model": model, "solved": solved}
        yield from iter_export(owner.source, coverage, recipe, place, **given, cancel=cancel, **how)
        solved.forget()

    def _contents(self) -> Contents:
        owner = self._owner
        if owner.given is not None:
            return owner.given.contents()
        return SolvedContents(owner.source, owner.coverage, owner.recipe, tokenizer=owner.tokenizer)

    def _hear(self, event: Event) -> None:
        if event.kind == "coverage" and self._asking is not self._owner.coverage:
            self.lane.cancel()  # but not what follows a view that came before its recipe was told
        elif event.kind == "job" and event.data.finished:
            self.follow()

    def _on_asked(self, coverage: Coverage, job: Job) -> None:
        if job.error is not None:
            self._failed = coverage  # first: who is told of a job's end asks again
        if job.error is not None and not isinstance(job.error, CheckpointError):
            self._on_job(job)  # what is missing of the model is said where it is read, and where it is exported

    def _on_export(self, job: Job, item: Progress | ExportResult) -> None:
        if isinstance(item, ExportResult):
            self.latest = item
            self._emit("export", item, job)
        else:
            if item.label == "verifying":
                job.again = None  # the checkpoint is whole: there is nothing to go on with
            job.progress = item
            self._on_job(job)


def quality_found(state: QualityState) -> Findings:
    """Return the quality that was measured under the recipe that holds now, for the model card."""
    measured = state.measured
    if measured is None:
        return Findings()
    text = state.origin if state.path is None else state.path.name
    fitted = " (which the calibrated layers were fitted to)" if state.calibrated_on else ""
    return Findings(quality=measured.comparison, text=text + fitted, notes=measured.notes)
