"""The state behind a notebook: model, recipe, selection, results. One method per user action; no widget.

Whoever shows the session listens to its events. Everything that takes longer than a blink runs on a worker thread:
previews on a latest-wins lane, measurements and exports one at a time on another.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from workbench.config import Int4WeightOnlyConfig, ResolvedConfig
from workbench.coverage.coverage import Coverage, needs_calibration
from workbench.coverage.preflight import preflight_source
from workbench.errors import Cancelled, ConfigError, ModelError, WeightError
from workbench.exporting import ExportResult
from workbench.jobs import Job, Lane, progress_since
from workbench.kinds import QUANTIZABLE_KINDS
from workbench.known_layers import open_known
from workbench.layers import is_int4, model_device
from workbench.machine import present_devices
from workbench.measure.error_map import METRICS as METRICS
from workbench.measure.error_map import Metric
from workbench.measure.roofline import Roofline
from workbench.measure.speed import DEFAULT_BATCH_SIZES as DEFAULT_BATCH_SIZES
from workbench.measure.speed import LinearBench
from workbench.measure.timing import BUDGET_S
from workbench.options import SolverName
from workbench.recipe.edit import LayerNames, changed_choice, with_change, with_change_everywhere, with_choice
from workbench.recipe.nodes import rules_said, with_dense, with_int4
from workbench.recipe.recipe import Choice, Recipe
from workbench.records.layers import CoverageRow, Decision
from workbench.records.progress import Progress
from workbench.records.speed import SpeedPoint
from workbench.session.ahead import SessionAhead
from workbench.session.calibration import SessionCalibration
from workbench.session.compare import SessionCompare
from workbench.session.details import SessionDetails
from workbench.session.events import Event as Event
from workbench.session.events import EventKind, Listeners
from workbench.session.export import SessionExport
from workbench.session.improve import SessionImprove
from workbench.session.quality import SessionQuality
from workbench.session.recipe import SessionRecipe
from workbench.session.report import SessionReport
from workbench.session.rooms import Means
from workbench.session.script import DEFAULT_DIRECTORY, command_of, python_of
from workbench.session.sweep import Solved, Sweep
from workbench.session.verdict import SessionVerdict
from workbench.session.words import facts_html, session_facts
from workbench.session.zoom import SessionZoom
from workbench.sources import ModelSource, Source
from workbench.targets import NATIVE
from workbench.views.cache import NO_INPUTS, UPSTREAM, Inputs, ViewCache, same_values
from workbench.views.groups import Block, GroupView, iter_group_views
from workbench.views.views import PAUSE_S, LayerView, iter_layer_views, unhurried

T = TypeVar("T")
Scope = Literal["layer", "selection", "all"]
SCOPES: tuple[Scope, ...] = ("layer", "selection", "all")


@dataclass
class Session:
    """Model, recipe, selection and results; made by `open_session`.

    Attributes:
        source: Where the weights come from.
        tokenizer: Saved beside an exported checkpoint of a live model, or None.
        device: Device that will run the layers.
        device_reason: Why it is that one, or "".
        recipe: What the user wants; change it with `configure`, `set_recipe` or `keep_dense`.
        coverage: What becomes of every weight under `recipe`.
        selection: Names of the selected layers, in the order of the model.
        current: Name of the layer on show, or "" when the model has no linear layer.
        scope: What `configure` applies to: the current layer, the selection, or all layers.
        metric: What the heatmap shows.
        reduce: How the heatmap is reduced to screen size: "max" or "mean".
        speed: Measured points of one layer shape, newest run of each dtype; replaced, never changed in place.
        speed_notes: What a person must know of the newest run.
        rooflines: Device → what it can do at best, as the newest run measured it.
        errors: Layer name → its latest exact view under the recipe; replaced, never changed in place.
        group: (row, group) of the current layer under the microscope, or None until one is found.
        looked: What the microscope shows, or None.
        calibration: The calibration text, and what becomes of it.
        quality: The model under the recipe beside the original, on a text and on a prompt.
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

    source: Source
    tokenizer: Any = field(default=None, repr=False)
    device: str = "cpu"
    device_reason: str = ""
    recipe: Recipe = field(default_factory=lambda: Recipe(Choice(Int4WeightOnlyConfig(group_size=64))))
    coverage: Coverage = field(init=False)
    selection: list[str] = field(default_factory=list)
    current: str = ""
    scope: Scope = "all"
    metric: Metric = "rmse"
    reduce: Literal["max", "mean"] = "max"
    speed: list[SpeedPoint] = field(default_factory=list)
    speed_notes: list[str] = field(default_factory=list)
    rooflines: dict[str, Roofline] = field(default_factory=dict)
    errors: dict[str, LayerView] = field(default_factory=dict)
    group: tuple[int, int] | None = None
    looked: GroupView | None = None

    def __post_init__(self) -> None:
        self._listeners = Listeners()
        self._wish: tuple[tuple[int, int] | None, tuple[int, int] | None] | None = None  # a worst group not found yet
        self._cache = ViewCache()
        self._swept: dict[str, Solved] = {}  # what a sweep that is begun again need not solve
        self._state = threading.Lock()  # held while recipe, coverage and errors change together
        self._quiet = threading.Lock()  # held while a timing runs, so that previews do not disturb it
        self._loud = threading.Lock()  # held while a timing runs, or a step of what runs behind the previews
        self.previews = Lane("preview", latest_wins=True)
        self.looks = Lane("microscope", latest_wins=True)
        self.work = Lane("work", latest_wins=False)
        self.calibration = SessionCalibration(
            self.source,
            self.tokenizer,
            in_turn=self._in_turn,
            on_state=partial(self._emit, "calibration"),
            on_job=self._on_collect,
        )
        self.quality = SessionQuality(
            self.calibration,
            self._cache,
            coverage=lambda: self.coverage,
            in_turn=partial(self._in_turn, lock=self._loud),
            views=self.previews,
            on_state=partial(self._emit, "quality"),
            on_answers=partial(self._emit, "answers"),
            on_job=self._on_job,
            device=self.device,
        )
        means = Means(self._cache, self._in_turn, self._emit, self.calibration.inputs)
        self.details, self.compare = SessionDetails(self, means), SessionCompare(self, means)
        self.zoom = SessionZoom(self, means)
        behind = replace(means, in_turn=partial(self._in_turn, lock=self._loud))
        self.ahead = SessionAhead(self, behind, lambda: self.lanes)
        self.verdict = SessionVerdict(self, self._alone, self._emit)
        self.improving = SessionImprove(self, self._emit, self._on_job)
        self.reporting = SessionReport(
            self, sweep=self._sweep, on_swept=self._on_sweep, emit=self._emit, on_job=self._on_job
        )
        self.exports = SessionExport(self, self._cache, self._emit, self._on_job)
        # Views come first: one waits for inputs, and starts a look when it is there.
        self.lanes: tuple[Lane, ...] = (
            *(self.previews, self.looks, self.calibration.lane, self.work),
            *(self.quality.lane, self.quality.prompt.lane, self.verdict.lane),
            *(self.details.lane, self.compare.lane, self.zoom.lane, self.exports.lane),
        )
        self.coverage = self._preflight(self.recipe)
        self.recipes: SessionRecipe = SessionRecipe(self, self._preflight, lambda: self._emit("recipe", self.recipes))
        self._index()
        rows = self.layer_rows()
        self._layers = LayerNames([row.name for row in rows])
        if rows and not self.current:
            self.current = next((row.name for row in rows if row.decision == "int4"), rows[0].name)
            self.selection = [self.current]

    def __repr__(self) -> str:
        """Name the model and the coverage."""
        return f"Session({self.source.name!r}, {self.coverage.verdict()})"

    def _repr_html_(self) -> str:
        """What is known so far as a plain table, where no widget need run."""
        return facts_html("Int4 Workbench", session_facts(self))

    def listen(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call `listener` with every event, on the thread where it happens; returns a function that stops it."""
        return self._listeners.add(listener)

    def layer_rows(self) -> list[CoverageRow]:
        """Rows of the linear layers, int4 or not."""
        return [row for row in self.coverage.rows if row.kind in QUANTIZABLE_KINDS]

    def row(self, name: str) -> CoverageRow:
        """Return the coverage row of a weight.

        Raises:
            ConfigError: when there is none of that name.
        """
        row = self._rows.get(name)
        if row is None:
            raise ConfigError(f"There is no weight {name!r}.", mend="take a name from the layer table")
        return row

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
        self.current = show
        if changed:
            self.group = self.looked = self._wish = None
        self._emit("selection", self)
        if changed:
            self.refresh()

    def choice(self) -> Choice:
        """The settings on show: those of the current layer, else the recipe's default."""
        decided = self.recipe.decide(self.current)[0] if self.current else None
        return decided or self.recipe.default or Choice()

    def resolved(self) -> ResolvedConfig:
        """Everything resolved for the settings on show."""
        choice = self.choice()
        return choice.resolved(self.device)

    def targets(self, scope: Scope | None = None) -> list[str]:
        """Names of the linear layers that a change of the given scope touches."""
        linear = [row.name for row in self.layer_rows()]
        scope = self._scope(scope)
        if scope == "all":
            return linear
        wanted = set(self.selection) if scope == "selection" else {self.current}
        return [name for name in linear if name in wanted]

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
        change = partial(
            changed_choice,
            group_size=group_size,
            domain=domain,
            solver=solver,
            preserve_zero=preserve_zero,
            inner_k_tiles=inner_k_tiles,
            options=options,
            options_of=solver or self.resolved().solver,
        )
        if options is not None:
            change(self.choice())  # refuses unknown options, also where no layer of the scope has that solver
        names = self._linear(scope)
        int4 = [name for name in names if name in self.coverage.configs]
        if self._scope(scope) == "all" and int4:
            self.set_recipe(with_change_everywhere(self.recipe, change))
        else:
            self.set_recipe(with_change(self.recipe, self._layers, int4 or names, change))

    def change_layers(self, changes: Sequence[tuple[Sequence[str], Mapping[str, Any]]]) -> None:
        """Change settings of int4 layers by name, as `configure` takes them; one step that can be undone.

        Raises:
            ConfigError: for settings that cannot work together; nothing is changed then.
        """
        edited = self.recipe
        for names, settings in changes:
            edited = with_change(edited, self._layers, names, partial(changed_choice, **settings))
        self.set_recipe(edited)

    def keep_dense(self, scope: Scope | None = None) -> None:
        """Leave the layers of the scope in full precision."""
        self.set_recipe(with_choice(self.recipe, self._layers, self._linear(scope), None))

    def make_int4(self, scope: Scope | None = None) -> None:
        """Make the layers of the scope int4 with the settings on show; the output head only when it is selected."""
        names = self._linear(scope)
        if self._scope(scope) == "all":
            names = [name for name in names if self.row(name).kind != "output_head"] or names
        self.set_recipe(with_choice(self.recipe, self._layers, names, self.choice()))

    def choose(self, names: Sequence[str], decision: Decision, *, group_size: int | None = None, glob: str = "") -> str:
        """Make weights int4 or leave them dense; those that a glob names share one rule, and its settings.

        Args:
            names: Weights; those of them that are no linear layers stay as they are.
            decision: "int4" (output heads only where the glob names nothing else) or "dense".
            group_size: 256, 128, 64 or 32; None keeps what the layers, or the default, have.
            glob: The glob of the part of the model that the names are, or "": each layer keeps its other settings.

        Returns:
            Which rules changed, and what stays dense all the same, in a line.

        Raises:
            ConfigError: for an unknown name or decision, or when none of the weights is a linear layer.
        """
        if decision not in ("int4", "dense"):
            raise ConfigError(f"decision={decision!r}.", allowed="'int4' or 'dense'")
        rows = [row for row in map(self.row, names) if row.kind in QUANTIZABLE_KINDS]
        if decision == "int4" and glob:
            rows = [row for row in rows if row.kind != "output_head"] or rows
        if not rows:
            raise ConfigError("None of these weights is a linear layer.", mend="choose a linear layer")
        wanted, before = [row.name for row in rows], self.recipe
        if decision == "dense":
            self.set_recipe(with_dense(before, self._layers, wanted, glob))
        elif group_size is not None or any(name not in self.coverage.configs for name in wanted):
            held = self.coverage.configs
            self.set_recipe(with_int4(before, self._layers, wanted, held, group_size=group_size, glob=glob))
        dense = [row for row in map(self.row, wanted) if row.decision != "int4"]
        left = f"; {len(dense)} stay dense: {dense[0].reason}" if decision == "int4" and dense else ""
        return rules_said(before, self.recipe) + left

    def set_recipe(self, recipe: Recipe) -> None:
        """Take a recipe as a whole; it can be undone.

        Raises:
            PatternError: for a pattern that matches nothing; the recipe stays as it was.
        """
        if recipe == self.recipe:
            return
        coverage = self._preflight(recipe)
        self.recipes.history.add(recipe)
        self._take(recipe, coverage)

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
        return self.can_undo and self.go_to(self.recipes.history.place - 1)

    def redo(self) -> bool:
        """Take back the last undo; False when there is none."""
        return self.can_redo and self.go_to(self.recipes.history.place + 1)

    def go_to(self, place: int) -> bool:
        """Take the recipe at a place of the history, 0 for the first; False when it holds already.

        Raises:
            ConfigError: when there is no such place.
        """
        history = self.recipes.history
        if not 0 <= place < len(history.recipes):
            raise ConfigError(f"There is no recipe {place} in the history.", allowed=f"0 to {len(history.recipes) - 1}")
        if place == history.place:
            return False
        recipe = history.recipes[place]
        coverage = self._preflight(recipe)
        history.place = place
        self._take(recipe, coverage)
        return True

    # --- seeing -------------------------------------------------------------------------------------------------

    def show(self, *, metric: Metric | None = None, reduce: Literal["max", "mean"] | None = None) -> None:
        """Change what the heatmap shows.

        Raises:
            ConfigError: for an unknown metric or reduction.
        """
        if metric is not None and metric not in METRICS:
            raise ConfigError(f"metric={metric!r}.", allowed=", ".join(METRICS))
        if reduce is not None and reduce not in ("max", "mean"):
            raise ConfigError(f"reduce={reduce!r}.", allowed="'max' or 'mean'")
        self.metric = metric or self.metric
        self.reduce = reduce or self.reduce
        self.refresh()

    def refresh(self) -> Job | None:
        """Compute the view of the current layer anew; what an older request still computes is dropped."""
        self.looks.cancel()  # it follows the new view
        if not self.current or self.row(self.current).kind not in QUANTIZABLE_KINDS:
            self.previews.cancel()
            return None
        name, config, metric, reduce = self.current, self.resolved(), self.metric, self.reduce
        if needs_calibration(self.coverage):
            self.calibration.look_once()

        def found(inputs: Inputs, cancel: threading.Event) -> Iterator[LayerView]:
            show = partial(iter_layer_views, metric=metric, reduce=reduce, cache=self._cache)
            steps = show(self.source, name, config, cancel=cancel, inputs=inputs)
            return unhurried(self._in_turn(steps, cancel), cancel)

        def views(cancel: threading.Event) -> Iterator[LayerView]:
            self._check_readable(name)
            if config.solver != "calibrated":
                return found(NO_INPUTS, cancel)
            return self.calibration.views(name, needs_calibration(self.coverage), partial(found, cancel=cancel), cancel)

        return self.previews.submit(Job(f"Errors of {name}", views, self._on_view, self._on_job, quiet=True))

    def look_at(self, row: int, group: int) -> Job:
        """Put a group of the current layer under the microscope.

        Raises:
            ConfigError: when the layer on show is not linear, or has no such row or group.
        """
        return self._look_at((row, group))

    def look_at_worst(self, rows: tuple[int, int] | None = None, groups: tuple[int, int] | None = None) -> Job:
        """Put the worst group of the current layer under the microscope, by the metric on show.

        Args:
            rows: First row to look in and one past the last; None looks in all.
            groups: First group to look in and one past the last; None looks in all.

        Raises:
            ConfigError: when the layer on show is not linear, or has no such rows or groups.
        """
        return self._look_at_worst(rows, groups)

    @property
    def calibration_text(self) -> str:
        """The text from which the calibrated solver learns the inputs of its layers, or ""."""
        return self.calibration.text

    def set_calibration_text(self, text: str) -> None:
        """Take another calibration text; what was solved with the one before is solved anew.

        Raises:
            ConfigError: when the text cannot be written as UTF-8. One that is too short is told as an event.
        """
        self.calibration.set_text(text)
        self._recalibrate()

    def load_calibration_file(self, path: Path | str) -> None:
        """Take the text of a file.

        Raises:
            ConfigError: when there is no such file, it is too large, or it is not in UTF-8.
        """
        self.calibration.load_file(path)
        self._recalibrate()

    def use_demo_text(self) -> None:
        """Go back to the text that comes with the demo model.

        Raises:
            ConfigError: for any other model.
        """
        self.calibration.use_demo_text()
        self._recalibrate()

    def sweep_errors(self) -> Job:
        """Solve every int4 layer under the recipe and record its errors; a layer with NaN is a problem, not the end.

        Raises:
            ConfigError: when other work is running, or a layer is to be calibrated and there is no text.
        """
        if needs_calibration(self.coverage):
            self.calibration.check()
        run, again = self._sweep().run, self.sweep_errors
        return self.work.submit(Job("Errors of all layers", run, self._on_sweep, self._on_job, again=again))

    def improve(self) -> Job:
        """Look for a recipe with less error at no more bytes, and take it: one change, which can be undone.

        Raises:
            ConfigError: when no layer becomes int4, or other work is running.
        """
        return self.improving.start()

    # --- measuring ----------------------------------------------------------------------------------------------

    def measure_speed(
        self,
        *,
        batch_sizes: Sequence[int] = DEFAULT_BATCH_SIZES,
        dtypes: Sequence[str] = ("bfloat16",),
        paths: Sequence[str] | None = None,
        compiled: bool = False,
        budget_s: float = BUDGET_S,
    ) -> Job:
        """Measure the current layer's shape, int4 and dense, at each batch size, on every device present.

        Args:
            batch_sizes: Rows of the activation.
            dtypes: dtypes of the activations: "bfloat16", "float16", "float32".
            paths: What takes turns, as `bench_linear` takes it; None is all that the machine has.
            compiled: Whether int4 and dense are measured compiled by torch.compile too.
            budget_s: Seconds of timed calls for each point.

        Raises:
            ConfigError: when the layer on show is not linear, or other work is running.
        """
        row = self.row(self.current) if self.current else None
        if row is None or row.kind not in QUANTIZABLE_KINDS:
            what = "No layer is on show" if row is None else f"{row.name} is no linear layer ({row.kind})"
            raise ConfigError(f"{what}: there is no speed to measure.", mend="select a linear layer in the table")
        n, k = row.shape[-2:]
        config = replace(self.choice().config, use_hqq=False)  # the solver changes values, never speed
        devices = present_devices()
        wanted = {"dtypes": tuple(dtypes), "paths": paths, "compiled": compiled, "budget_s": budget_s}
        sizes = tuple(batch_sizes)

        def measure(cancel: threading.Event) -> Iterator[tuple[Progress, SpeedPoint, LinearBench]]:
            start, seen = time.monotonic(), set[tuple[str, str, int]]()
            for device in devices:
                bench = LinearBench(n, k, config, sizes, device=device, **wanted)  # type: ignore[arg-type]
                for point in self._alone(bench.run(cancel), cancel):
                    seen.add((device, point.dtype, point.batch))
                    label = f"{device}, {point.dtype}, batch {point.batch}"
                    yield progress_since(start, len(seen), len(devices) * bench.steps, label), point, bench

        started = partial(self._on_speed_job, [n, k, config.group_size], tuple(dtypes))
        return self.work.submit(Job(f"Speed of {n}x{k}", measure, self._on_speed, started))

    # --- exporting ----------------------------------------------------------------------------------------------

    def export(
        self, directory: Path | str, *, format: str = NATIVE, overwrite: bool = False, verify: bool = True
    ) -> Job:
        """Quantize under the recipe and write a checkpoint, then check what was written.

        Args:
            directory: The folder to make.
            format: "native", or a format that `exports.targets()` lists.
            overwrite: Replace a folder that exists; old or new is there at any moment, never a mixture.
            verify: Check every hash of what was written; a native checkpoint is loaded again and generates too.

        Raises:
            CheckpointError: when the format cannot hold the recipe, the directory is blank, holds the model or the
                working folder, or replacing it would delete files that are no checkpoint.
            ModelError: when a live model is on the meta device or has int4 layers already.
            ConfigError: when no layer becomes int4, one is to be calibrated without a text, or other work is running.
        """
        return self.exports.start(directory, target=format, overwrite=overwrite, verify=verify)

    @property
    def exported(self) -> ExportResult | None:
        """The latest finished export, or None."""
        return self.exports.latest

    def report(self, path: Path | str = "report.html") -> Job:
        """Write one HTML file with all figures, for people without a kernel; layers not solved yet are solved first.

        Raises:
            ConfigError: when the file cannot be written, a layer is to be calibrated and there is no text, or other
                work is running.
        """
        return self.reporting.start(path)

    def cancel(self) -> None:
        """Stop what runs; acknowledged at once, done at the next block."""
        for lane in (self.ahead.lane, *reversed(self.lanes)):  # who asks for something before who gives it
            lane.cancel()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until nothing runs; False when `timeout_s` seconds passed first."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        return all(lane.wait(None if end is None else max(0.0, end - time.monotonic())) for lane in self.lanes)

    def as_python(self, directory: Path | str = DEFAULT_DIRECTORY, format: str = NATIVE) -> str:
        """Return a cell that, run alone, quantizes the same model under the same recipe and saves it.

        A calibration text that is in no file is written beside the directory, for the cell to read.

        Raises:
            ConfigError: when a layer is to be calibrated without a text, or its file cannot be written.
        """
        text = self.calibration.as_python(directory) if needs_calibration(self.coverage) else None
        return python_of(self.source, self.recipe, directory, text, format)

    def as_command(self, directory: Path | str = DEFAULT_DIRECTORY, format: str = NATIVE) -> str:
        """Return a command line that quantizes the same model under the same recipe and saves it.

        A calibration text that is in no file is written beside the directory, for the command to read.

        Raises:
            ConfigError: for a model in memory, or a layer to be calibrated without a text that can be written.
        """
        text = self.calibration.as_file(directory) if needs_calibration(self.coverage) else None
        return command_of(self.source, self.recipe, directory, text, self.recipes.file, format)

    # --- inside -------------------------------------------------------------------------------------------------

    def _sweep(self) -> Sweep:
        return Sweep(
            self.source,
            self.calibration,
            self._cache,
            coverage=lambda: self.coverage,
            recorded=lambda name: name in self.errors,
            check=self._check_readable,
            done=self._swept,
        )

    def _preflight(self, recipe: Recipe) -> Coverage:
        coverage = preflight_source(self.source, recipe, device=self.device)
        if not self.device_reason:
            return coverage
        return replace(coverage, notes=(*coverage.notes, f"device: {self.device}, {self.device_reason}"))

    def _index(self) -> None:
        self._rows = {row.name: row for row in self.coverage.rows}

    def _scope(self, scope: Scope | None) -> Scope:
        scope = scope or self.scope
        if scope not in SCOPES:
            raise ConfigError(f"scope={scope!r}.", allowed=", ".join(map(repr, SCOPES)))
        return scope

    def _linear(self, scope: Scope | None) -> list[str]:
        names = self.targets(scope)
        if not names:
            raise ConfigError(
                f"The {self._scope(scope)} scope holds no linear layer.", mend="select a linear layer in the table"
            )
        return names

    def _check_readable(self, name: str) -> None:
        """Refuse a layer of which there is nothing to show.

        Raises:
            ModelError: with the reason.
        """
        if isinstance(self.source, ModelSource) and is_int4(self.source.model, name):
            raise ModelError(f"{name} is int4 already.", mend="open the workbench on the original model")
        why_not = self.source.missing(name)
        if why_not:
            raise ModelError(f"{name} cannot be shown: {why_not}.")

    def _in_turn(self, steps: Iterator[T], cancel: threading.Event, lock: threading.Lock | None = None) -> Iterator[T]:
        """Take each step while no other lane works, so that a preview does not disturb a timing."""
        lock = lock or self._quiet
        while True:
            while not lock.acquire(timeout=0.05):
                if cancel.is_set():
                    raise Cancelled("Cancelled before its turn came.")
            try:
                step = next(steps, None)
            finally:
                lock.release()
            if step is None:
                return
            yield step

    def _alone(self, steps: Iterator[T], cancel: threading.Event) -> Iterator[T]:
        """Take each step while nothing else computes: it is a timing."""
        return self._in_turn(self._in_turn(steps, cancel, self._loud), cancel)

    def _recalibrate(self) -> None:
        """Drop what was measured with another text, and show the current layer anew."""
        with self._state:
            self.errors = {name: view for name, view in self.errors.items() if view.config.solver != "calibrated"}
        self.refresh()
        self.quality.recipe_changed()

    def _look_at(self, place: tuple[int, int], after_s: float = 0.0) -> Job:
        row, group = place
        look = self._looker((row, row + 1), (group, group + 1), after_s)
        self.group, self._wish = place, None
        return self.looks.submit(look)

    def _look_at_worst(self, rows: tuple[int, int] | None, groups: tuple[int, int] | None, after_s: float = 0.0) -> Job:
        look = self._looker(rows, groups, after_s)
        self._wish = (rows, groups)
        return self.looks.submit(look)

    def _looker(self, rows: tuple[int, int] | None, groups: tuple[int, int] | None, after_s: float) -> Job:
        name, config, metric = self.current, self.resolved(), self.metric
        record = self.row(name) if name else None
        if record is None or record.kind not in QUANTIZABLE_KINDS:
            what = f"{record.name} is no linear layer ({record.kind})" if record else "No layer is on show"
            raise ConfigError(f"{what}: it has no groups to look at.", mend="select a linear layer in the table")
        block = Block.of(record.matrix, config.group_size, rows, groups)

        def look(cancel: threading.Event) -> Iterator[GroupView]:
            cancel.wait(after_s)
            self._check_readable(name)
            inputs = self.calibration.inputs(name)
            views = iter_group_views(
                *(self.source, name, config, block),
                metric=metric,
                cache=self._cache,
                statistics=None if inputs is None else inputs.moments,
                cancel=cancel,
            )
            return self._in_turn(views, cancel)

        return Job(f"Microscope on {name}", look, self._on_group, self._on_look, quiet=True)

    def _follow(self, view: LayerView) -> None:
        """Look at the same place of a layer under its new settings, or at the worst group of one that just came.

        The view is on the screen before the look takes a core.
        """
        if (view.name, view.config) != (self.current, self.resolved()):
            return  # another view is under way
        if self._wish is not None or self.group is None:
            if view.exact:
                self._look_at_worst(*(self._wish or (None, None)), PAUSE_S)
        elif view.exact or self.looked is None or self.looked.config != view.config:
            self._look_at(self.group, PAUSE_S)

    def _take(self, recipe: Recipe, coverage: Coverage) -> None:
        size = self.resolved().group_size
        with self._state:
            self.recipe, self.coverage = recipe, coverage
            self._index()
            self._regroup(size, self.resolved().group_size)
            held = ((name, view, coverage.configs.get(name)) for name, view in self.errors.items())
            kept = {
                name: replace(view, config=config)
                for name, view, config in held
                if config is not None and same_values(view.config, config)
            }
            if len(kept) < len(self.errors) or len(kept) < len(coverage.configs):  # other layers may see other inputs
                kept = {name: view for name, view in kept.items() if view.inputs != UPSTREAM.badge}
            self.errors = kept
        self.refresh()  # first: the new view is computed while all else that follows from the recipe is told
        self._emit("coverage", coverage)
        self.quality.recipe_changed()

    def _regroup(self, before: int, now: int) -> None:
        """Keep what the microscope is on, or is to be on, where it is while the size of its groups changes."""
        if self.group is not None:
            self.group = (self.group[0], self.group[1] * before // now)
        if self._wish is not None and self._wish[1] is not None:
            first, stop = self._wish[1]
            self._wish = (self._wish[0], (first * before // now, -(-stop * before // now)))

    def _record(self, view: LayerView) -> LayerView | None:
        """Keep and return an exact view if it is of the settings that hold now."""
        with self._state:
            config = self.coverage.configs.get(view.name)
            if not view.exact or config is None or not same_values(config, view.config):
                return None
            if config.solver == "calibrated" and not view.stamp.startswith(self.calibration.stamp):
                return None  # of another text, or only shown until the inputs are there
            held = self.errors.get(view.name)
            if held is not None and held.inputs == UPSTREAM.badge != view.inputs:
                return held  # what an export stores says more than what the dense model's inputs give
            kept = replace(view, config=config)
            self.errors = {**self.errors, view.name: kept}
            return kept

    def _emit(self, kind: EventKind, data: Any, job: Job | None = None) -> None:
        self._listeners.tell(Event(kind, data, job))

    def _on_view(self, job: Job, view: LayerView) -> None:
        self._record(view)
        self._emit("view", view, job)
        self._follow(view)

    def _on_group(self, job: Job, view: GroupView) -> None:
        with self._state:
            if (view.microscope.name, view.config) != (self.current, self.resolved()):
                return  # a refresh is under way, and another look follows it
            self.group, self.looked = (view.microscope.row, view.microscope.group), view
            self._wish = None
        self._emit("group", view, job)

    def _on_look(self, job: Job) -> None:
        self._emit("look", job, job)
        if job.error is not None:
            self._emit("problem", job.error, job)

    def _on_collect(self, job: Job) -> None:
        if not job.quiet:
            self._emit("job", job, job)
        if job.error is not None:
            self._emit("problem", job.error, job)

    def _on_sweep(self, job: Job, item: tuple[Progress, LayerView | WeightError | None]) -> None:
        job.progress, found = item
        if isinstance(found, WeightError):
            self._emit("problem", found, job)
        elif found is not None and (kept := self._record(found)) is not None:
            self._emit("error", kept, job)
        self._emit("job", job, job)

    def _on_speed(self, job: Job, item: tuple[Progress, SpeedPoint, LinearBench]) -> None:
        job.progress, point, bench = item
        self.speed, self.speed_notes = [*self.speed, point], list(bench.notes)
        if bench.roofline is not None:
            self.rooflines = {**self.rooflines, point.device: bench.roofline}
        self._emit("speed", point, job)
        self._emit("job", job, job)

    def _on_speed_job(self, shape: list[int], dtypes: tuple[str, ...], job: Job) -> None:
        if job.state == "running":
            self.speed = [p for p in self.speed if [p.n, p.k, p.group_size] == shape and p.dtype not in dtypes]
            self.speed_notes = []
        self._on_job(job)

    def _on_job(self, job: Job) -> None:
        self._emit("job", job, job)
        if job.error is not None:
            self._emit("problem", job.error, job)


def open_session(
    model: nn.Module | Source | str | Path,
    tokenizer: Any = None,
    *,
    device: torch.device | str | None = None,
    **settings: Any,
) -> Session:
    """Make a session over a live model, a source of weights, a model folder, a hub name, or "demo".

    Args:
        model: A live model is not changed, a folder is read by header and slice.
        tokenizer: Saved beside an exported checkpoint of a live model (a folder brings its own).
        device: Device that will run the layers; None is where a live model is, and for all else "cuda" when this
            machine has it, or the CPU.
        settings: Other attributes of `Session`.

    Raises:
        ModelError: when the model cannot be read, or is no model at all.
    """
    source: Any = ModelSource(model) if isinstance(model, nn.Module) else model
    if isinstance(source, str | Path):
        source = open_known(source) or _opened(source)
    if not isinstance(source, Source):
        raise ModelError(
            f"{type(model).__name__} is no model.", allowed="an nn.Module, a model folder, a hub name, or 'demo'"
        )
    reason = ""
    if device is None:
        device, reason = default_device(source)
    return Session(source, tokenizer, str(device), reason, **settings)


def _opened(path_or_name: str | Path) -> Source:
    from workbench.hf.skeleton import open_source  # which takes longer to import than a first view to show

    return open_source(path_or_name)


def default_device(source: Source) -> tuple[str, str]:
    """Return the device that a person expects, and why."""
    if isinstance(source, ModelSource):
        device = model_device(source.model)
        if device.type != "meta":
            return str(device), "where the model is"
    if torch.cuda.is_available():
        return "cuda", "which this machine has"
    return "cpu", "for this machine has no CUDA device"
