"""The state behind a notebook: model, recipe, selection, results. One method per user action; no widget.

Whoever shows the session listens to its events. Everything that takes longer than a blink runs on a worker thread:
previews on a latest-wins lane, measurements and exports one at a time on another.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from workbench.coverage.coverage import Coverage, needs_calibration
from workbench.exporting import ExportResult
from workbench.jobs import Job, Lane, wait_for_all
from workbench.measure.error_map import Metric
from workbench.options import SolverName
from workbench.recipe.recipe import Recipe
from workbench.session.ahead import SessionAhead
from workbench.session.calibration import SessionCalibration
from workbench.session.compare import SessionCompare
from workbench.session.details import SessionDetails
from workbench.session.events import Event, Listeners
from workbench.session.exact import SessionErrors
from workbench.session.export import SessionExport
from workbench.session.history import SessionHistory
from workbench.session.improve import SessionImprove
from workbench.session.layers import Scope, SessionLayers
from workbench.session.microscope import SessionMicroscope
from workbench.session.perplexity import SessionPerplexity
from workbench.session.quality import SessionQuality
from workbench.session.recipe import SessionRecipe
from workbench.session.report import SessionReport
from workbench.session.rooms import Means
from workbench.session.script import DEFAULT_DIRECTORY, command_of, convert_command, convert_python, python_of
from workbench.session.speed import SessionSpeed
from workbench.session.state import SessionState
from workbench.session.stored import SessionStored
from workbench.session.turns import Turns
from workbench.session.verdict import SessionVerdict
from workbench.session.views import SessionViews
from workbench.session.words import facts_html, session_facts
from workbench.session.zoom import SessionZoom
from workbench.targets import NATIVE
from workbench.views.cache import ViewCache
from workbench.views.views import LayerView

_NOTHING_TO_COMPARE = "there is no original beside it to compare with; session.perplexity measures it alone"


class Session(SessionState):
    """Model, recipe, selection and results; made by `open_session`.

    Attributes:
        layers: Settings layer by layer.
        history: The way back to the recipes before, and forth again.
        views: The picture of the layer on show.
        microscope: A group of the layer on show, weight by weight.
        speed: The measured speed of a layer shape.
        exact: The exact errors under the recipe that holds.
        calibration: The calibration text, and what becomes of it.
        quality: The model under the recipe beside the original, on a text and on a prompt.
        stored: What is stored of the layer on show, where it came int4.
        perplexity: How well a model that came int4 predicts a text, alone.
        recipes: The recipe's rules, text and files, and the recipes before it.
        details: Histograms and output error of the layer on show.
        compare: Settings that are held fast, and the layer on show under both.
        zoom: Parts of the heatmap at full size.
        ahead: Neighbouring settings, solved while nothing else runs, where `ahead.on` is set.
        verdict: Size, error and speed in a line.
        improving: What the latest search for a better recipe found.
        reporting: The report that was written last.
        exports: Which formats hold the model, and what was written last.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._listeners, self._cache, turns = Listeners(), ViewCache(), Turns()
        self._state = threading.Lock()  # held while recipe, coverage and errors change together
        self.work = Lane("work", latest_wins=False)
        emit, on_job = self._listeners.emit, self._listeners.on_job
        self.calibration = SessionCalibration(
            *(self.source, self.tokenizer),
            in_turn=turns.in_turn,
            on_state=partial(emit, "calibration"),
            on_job=self._listeners.on_long_job,
            again=self.refresh,
            on_text=self._recalibrate,
        )
        means = Means(self._cache, turns.in_turn, emit, on_job, self.calibration.inputs)
        self.exact = SessionErrors(self, self._cache, self._state, emit, on_job)
        self.microscope = SessionMicroscope(self, means, self._state)
        self.views = SessionViews(self, means, self.exact, self.microscope)
        self.speed = SessionSpeed(self, turns.alone, emit, on_job)
        self.quality = SessionQuality(
            self.calibration,
            self._cache,
            coverage=lambda: self.coverage,
            in_turn=turns.behind,
            views=self.views.lane,
            on_state=partial(emit, "quality"),
            on_answers=partial(emit, "answers"),
            on_job=on_job,
            device=self.device,
            refused=None if self.given is None else self.given.refusal(_NOTHING_TO_COMPARE),
        )
        self.stored = SessionStored(self, turns.in_turn, emit, on_job)
        self.perplexity = SessionPerplexity(self, turns.behind, emit, on_job)
        self.details, self.compare = SessionDetails(self, means), SessionCompare(self, means)
        self.zoom = SessionZoom(self, means)
        self.ahead = SessionAhead(self, replace(means, in_turn=turns.behind), lambda: self.lanes)
        self.verdict = SessionVerdict(self, turns.alone, emit)
        self.improving = SessionImprove(self, emit, on_job)
        self.reporting = SessionReport(self, sweep=self.exact.sweep, on_swept=self.exact.take, emit=emit, on_job=on_job)
        self.exports = SessionExport(self, self._cache, emit, on_job)
        # Views come first: one waits for inputs, and starts a look when it is there.
        self.lanes: tuple[Lane, ...] = (
            *(self.views.lane, self.microscope.lane, self.calibration.lane, self.work),
            *(self.quality.lane, self.quality.prompt.lane, self.verdict.lane),
            *(self.details.lane, self.compare.lane, self.zoom.lane, self.exports.lane),
            *(self.perplexity.lane, self.stored.lane),
        )
        self.recipes: SessionRecipe = SessionRecipe(self, self.preflight, lambda: emit("recipe", self.recipes))
        self.history = SessionHistory(self.recipes.history, self.preflight, self._take)
        self.layers = SessionLayers(self)

    def __repr__(self) -> str:
        """Name the model and the coverage."""
        return f"Session({self.source.name!r}, {self.coverage.verdict()})"

    def _repr_html_(self) -> str:
        """What is known so far as a plain table, where no widget need run."""
        return facts_html("Int4 Workbench", session_facts(self))

    def listen(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call `listener` with every event, on the thread where it happens; returns a function that stops it."""
        return self._listeners.add(listener)

    # --- choosing -----------------------------------------------------------------------------------------------

    def select(self, names: Sequence[str], current: str | None = None) -> None:
        """Select layers; `current` (default: the last of them) is put on show.

        Raises:
            ConfigError: for a name that the model does not have; nothing is changed then.
        """
        for name in (*names, *([current] if current else [])):
            self.row(name)
        wanted = set(names)
        self.selection = [row.name for row in self.coverage.rows if row.name in wanted]
        show = current or (names[-1] if names else self.current)
        changed = show != self.current
        with self._state:  # or a group that is found meanwhile, of the layer before, would stay
            self.current = show
            if changed:
                self.microscope.leave()
        self._listeners.emit("selection", self)
        if changed:
            self.refresh()

    def targets(self, scope: Scope | None = None) -> list[str]:
        """Names of the linear layers that a change of the given scope touches."""
        return self.layers.targets(scope)

    def configure(
        self,
        *,
        group_size: int | None = None,
        domain: str | None = None,
        solver: SolverName | None = None,
        preserve_zero: bool | Literal["auto"] | None = None,
        inner_k_tiles: int | None = None,
        options: Mapping[str, Any] | None = None,
        scope: Scope | None = None,
    ) -> None:
        """Change settings of the scope's int4 layers; what is not given stays as it is, layer by layer.

        Dense layers of the scope stay dense, unless all of them are: then they become int4.

        Args:
            group_size: 256, 128, 64 or 32.
            domain: "auto", "float", "int" or "symmetric".
            solver: "rtn", "hqq", "refined" or "calibrated"; the options of another solver are dropped.
            preserve_zero: True, False, or "auto" (the domain's own default).
            inner_k_tiles: 2, 4 or 8.
            options: Settings of the solver (of the one on show, when none is given) by name; layers of another solver
                keep theirs.
            scope: "layer", "selection" or "all"; None follows `self.scope`.

        Raises:
            ConfigError: for settings that cannot work together; nothing is changed then.
        """
        self.layers.configure(
            scope,
            group_size=group_size,
            domain=domain,
            solver=solver,
            preserve_zero=preserve_zero,
            inner_k_tiles=inner_k_tiles,
            options=options,
        )

    def keep_dense(self, scope: Scope | None = None) -> None:
        """Leave the layers of the scope in full precision."""
        self.layers.keep_dense(scope)

    def make_int4(self, scope: Scope | None = None) -> None:
        """Make the layers of the scope int4 with the settings on show; the output head only when it is selected."""
        self.layers.make_int4(scope)

    def set_recipe(self, recipe: Recipe) -> None:
        """Take a recipe as a whole; it can be undone.

        Raises:
            PatternError: for a pattern that matches nothing; the recipe stays as it was.
            ConfigError: for a model that was opened int4 already.
        """
        if recipe != self.recipe:
            self._choosable("no recipe applies to it")
            self.history.add(recipe)

    @property
    def can_undo(self) -> bool:
        """Whether there is a recipe to go back to."""
        return self.recipes.history.can_undo

    @property
    def can_redo(self) -> bool:
        """Whether there is an undo to take back."""
        return self.recipes.history.can_redo

    def undo(self) -> bool:
        """Go back to the recipe before the last change; False when there is none."""
        return self.history.undo()

    def redo(self) -> bool:
        """Take back the last undo; False when there is none."""
        return self.history.redo()

    def go_to(self, place: int) -> bool:
        """Take the recipe at a place of the history, 0 for the first; see `SessionHistory.go_to`."""
        return self.history.go_to(place)

    # --- seeing -------------------------------------------------------------------------------------------------

    def show(self, *, metric: Metric | None = None, reduce: Literal["max", "mean"] | None = None) -> None:
        """Change what the heatmap shows; see `SessionViews.show`."""
        self.views.show(metric, reduce)

    def refresh(self) -> Job | None:
        """Compute the view of the current layer anew; what an older request still computes is dropped."""
        if self.given is not None:  # there is no view to come before these
            self.stored.refresh()
            self.exports.follow()
            self.verdict.follow()
        return self.views.refresh()

    @property
    def errors(self) -> dict[str, LayerView]:
        """Layer name → its latest exact view under the recipe; replaced, never changed in place."""
        return self.exact.views

    def sweep_errors(self) -> Job:
        """Solve every int4 layer under the recipe and record its errors; see `SessionErrors.start`."""
        self._choosable("its errors are measured against the original")
        return self.exact.start()

    def improve(self) -> Job:
        """Look for a recipe with less error at no more bytes, and take it; see `SessionImprove.start`."""
        self._choosable("no recipe applies to it")
        return self.improving.start()

    # --- exporting ----------------------------------------------------------------------------------------------

    def export(
        self, directory: Path | str, *, format: str = NATIVE, overwrite: bool = False, verify: bool = True
    ) -> Job:
        """Quantize under the recipe and write a checkpoint, then check what was written.

        A model that was opened int4 already is converted: its codes stay as they are.

        Args:
            directory: The folder to make.
            format: "native", or a format that `exports.targets()` lists.
            overwrite: Replace a folder that exists; old or new is there at any moment, never a mixture.
            verify: Check every hash of what was written; a native checkpoint is loaded again and generates too.

        Raises:
            CheckpointError: when the format cannot hold the recipe, the directory is blank, holds the model or the
                working folder, or replacing it would delete files that are no checkpoint.
            ModelError: when a live model is on the meta device, or has int4 layers and was opened with a recipe.
            ConfigError: when no layer becomes int4, one is to be calibrated without a text, or other work is running.
        """
        return self.exports.start(directory, target=format, overwrite=overwrite, verify=verify)

    @property
    def exported(self) -> ExportResult | None:
        """The latest finished export, or None."""
        return self.exports.latest

    def report(self, path: Path | str = "report.html") -> Job:
        """Write one HTML file with all figures, for people without a kernel; see `SessionReport.start`."""
        return self.reporting.start(path)

    def cancel(self) -> None:
        """Stop what runs; acknowledged at once, done at the next block."""
        for lane in (self.ahead.lane, *reversed(self.lanes)):  # who asks for something before who gives it
            lane.cancel()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until nothing runs; False when `timeout_s` seconds passed first."""
        return wait_for_all(self.lanes, timeout_s)

    def as_python(self, directory: Path | str = DEFAULT_DIRECTORY, format: str = NATIVE) -> str:
        """Return a cell that, run alone, quantizes the same model under the same recipe and saves it.

        A calibration text that is in no file is written beside the directory, for the cell to read.

        Raises:
            ConfigError: when a layer is to be calibrated without a text, or its file cannot be written.
        """
        if self.given is not None:
            return convert_python(self.source, directory, format)
        text = self.calibration.as_python(directory) if needs_calibration(self.coverage) else None
        return python_of(self.source, self.recipe, directory, text, format)

    def as_command(self, directory: Path | str = DEFAULT_DIRECTORY, format: str = NATIVE) -> str:
        """Return a command line that quantizes the same model under the same recipe and saves it.

        A calibration text that is in no file is written beside the directory, for the command to read.

        Raises:
            ConfigError: for a model in memory, or a layer to be calibrated without a text that can be written.
        """
        if self.given is not None:
            return convert_command(self.source, directory, format)
        text = self.calibration.as_file(directory) if needs_calibration(self.coverage) else None
        return command_of(self.source, self.recipe, directory, text, self.recipes.file, format)

    # --- inside -------------------------------------------------------------------------------------------------

    def _choosable(self, why: str) -> None:
        if self.given is not None:
            raise self.given.refusal(why)

    def _recalibrate(self) -> None:
        """Drop what was measured with another text, and show the current layer anew."""
        self.exact.text_changed()
        self.refresh()
        self.quality.recipe_changed()

    def _take(self, recipe: Recipe, coverage: Coverage, step: Callable[[], bool]) -> bool:
        with self._state:
            if not step():
                return False
            size = self.resolved().group_size
            self.hold(recipe, coverage)
            self.microscope.regroup(size, self.resolved().group_size)
            self.exact.recipe_changed()
        self.refresh()  # first: the new view is computed while all else that follows from the recipe is told
        self._listeners.emit("coverage", coverage)
        self.quality.recipe_changed()
        return True
