"""The state behind a notebook: model, recipe, selection, results. One method per user action; no widget.

Whoever shows the session listens to its events. Everything that takes longer than a blink runs on a worker thread:
previews on a latest-wins lane, measurements and exports one at a time on another.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from workbench.config import DOMAINS, Int4WeightOnlyConfig, ResolvedConfig, TensorCoreTiledLayout, ZeroPointDomain
from workbench.coverage import Coverage, preflight_source
from workbench.errors import ConfigError, WorkbenchError
from workbench.exporting import ExportResult, iter_export
from workbench.jobs import Job, Lane
from workbench.layers import QUANTIZABLE_KINDS
from workbench.measure.speed import iter_bench_linear
from workbench.recipe import Choice, Recipe, matches
from workbench.records import CoverageRow, Progress, SpeedPoint
from workbench.sources import ModelSource, Source
from workbench.views import LayerView, ViewCache, iter_layer_views

T = TypeVar("T")
Scope = Literal["layer", "selection", "all"]
EventKind = Literal["coverage", "selection", "view", "job", "speed", "error", "export", "problem"]
SCOPES: tuple[Scope, ...] = ("layer", "selection", "all")
METRICS = ("rmse", "max", "mean_abs", "relative", "scale", "zero", "original", "dequantized")
DEFAULT_BATCH_SIZES = (1, 4, 16, 64, 256)


@dataclass(frozen=True)
class Event:
    """Something that a view may want to show.

    Attributes:
        kind: "coverage" (Coverage), "selection" (Session), "view" (LayerView), "job" (Job), "speed" (SpeedPoint),
            "error" (LayerView of one layer in a sweep), "export" (ExportResult), "problem" (Exception).
        data: What the kind says.
        job: The job that it comes from, or None.
    """

    kind: EventKind
    data: Any
    job: Job | None = None


@dataclass
class Session:
    """Model, recipe, selection and results; made by `open_session`.

    Attributes:
        source: Where the weights come from.
        device: Device that will run the layers.
        recipe: What the user wants; change it with `configure`, `set_recipe` or `keep_dense`.
        coverage: What becomes of every weight under `recipe`.
        selection: Names of the selected layers, in the order of the model.
        current: Name of the layer on show, or "" when the model has no linear layer.
        scope: What `configure` applies to: the current layer, the selection, or all layers.
        metric: What the heatmap shows.
        reduce: How the heatmap is reduced to screen size: "max" or "mean".
        speed: Measured points, newest run only.
        errors: Layer name → its latest exact view.
    """

    source: Source
    device: str = "cpu"
    recipe: Recipe = field(default_factory=lambda: Recipe(Choice(Int4WeightOnlyConfig(group_size=64))))
    coverage: Coverage = field(init=False)
    selection: list[str] = field(default_factory=list)
    current: str = ""
    scope: Scope = "all"
    metric: str = "rmse"
    reduce: Literal["max", "mean"] = "max"
    speed: list[SpeedPoint] = field(default_factory=list)
    errors: dict[str, LayerView] = field(default_factory=dict)
    exported: ExportResult | None = None

    def __post_init__(self) -> None:
        self._listeners: list[Callable[[Event], None]] = []
        self._undo: list[Recipe] = []
        self._redo: list[Recipe] = []
        self._cache = ViewCache()
        self._quiet = threading.Lock()  # held while a timing runs, so that previews do not disturb it
        self.previews = Lane("preview", latest_wins=True)
        self.work = Lane("work", latest_wins=False)
        self.coverage = preflight_source(self.source, self.recipe, device=self.device)
        rows = self.layer_rows()
        if rows and not self.current:
            self.current = next((row.name for row in rows if row.decision == "int4"), rows[0].name)
            self.selection = [self.current]

    def __repr__(self) -> str:
        """Name the model and the coverage."""
        return f"Session({self.source.name!r}, {self.coverage.verdict()})"

    def listen(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call `listener` with every event, on the thread where it happens; returns a function that stops it."""
        self._listeners.append(listener)

        def forget() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return forget

    def layer_rows(self) -> list[CoverageRow]:
        """Rows of the linear layers, int4 or not."""
        return [row for row in self.coverage.rows if row.kind in QUANTIZABLE_KINDS]

    def row(self, name: str) -> CoverageRow:
        """Return the coverage row of a weight.

        Raises:
            ConfigError: when there is none of that name.
        """
        for row in self.coverage.rows:
            if row.name == name:
                return row
        raise ConfigError(f"There is no weight {name!r}.", mend="take a name from the layer table")

    # --- choosing -----------------------------------------------------------------------------------------------

    def select(self, names: Sequence[str], current: str | None = None) -> None:
        """Select layers; `current` (default: the last of them) is put on show."""
        known = {row.name for row in self.coverage.rows}
        unknown = [name for name in names if name not in known]
        if unknown:
            self.row(unknown[0])
        wanted = set(names)
        self.selection = [row.name for row in self.coverage.rows if row.name in wanted]
        show = current or (names[-1] if names else self.current)
        changed = show != self.current
        self.current = show
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
        return choice.config.resolved(self.device, solver=choice.solver, domain=choice.domain)

    def targets(self, scope: Scope | None = None) -> list[str]:
        """Names of the linear layers that a change of the given scope touches."""
        linear = [row.name for row in self.layer_rows()]
        scope = scope or self.scope
        if scope == "all":
            return linear
        wanted = set(self.selection) if scope == "selection" else {self.current}
        return [name for name in linear if name in wanted]

    def configure(
        self,
        *,
        group_size: int | None = None,
        domain: str | None = None,
        use_hqq: bool | None = None,
        preserve_zero: bool | Literal["auto"] | None = None,
        inner_k_tiles: int | None = None,
        scope: Scope | None = None,
    ) -> None:
        """Change settings within the scope; what is not given stays as it is.

        Args:
            group_size: 256, 128, 64 or 32.
            domain: "auto", "float", "int" or "symmetric".
            use_hqq: Solve with HQQ instead of rounding to nearest.
            preserve_zero: True, False, or "auto" (the domain's own default).
            inner_k_tiles: 2, 4 or 8.
            scope: "layer", "selection" or "all"; None follows `self.scope`.

        Raises:
            ConfigError: for settings that cannot work together; nothing is changed then.
        """
        choice = changed_choice(self.choice(), group_size, domain, use_hqq, preserve_zero, inner_k_tiles)
        scope = scope or self.scope
        if scope not in SCOPES:
            raise ConfigError(f"scope={scope!r}.", allowed=", ".join(map(repr, SCOPES)))
        if scope == "all":
            dense = tuple(rule for rule in self.recipe.rules if rule.choice is None)
            self.set_recipe(replace(self.recipe, default=choice, rules=dense))
        else:
            self._set_rules(self._linear(scope), choice)

    def keep_dense(self, scope: Scope | None = None) -> None:
        """Leave the layers of the scope in full precision."""
        self._set_rules(self._linear(scope), None)

    def make_int4(self, scope: Scope | None = None) -> None:
        """Make the layers of the scope int4 with the settings on show, an output head too."""
        self._set_rules(self._linear(scope), self.choice())

    def set_recipe(self, recipe: Recipe) -> None:
        """Take a recipe as a whole; it can be undone.

        Raises:
            PatternError: for a pattern that matches nothing; the recipe stays as it was.
        """
        if recipe == self.recipe:
            return
        coverage = preflight_source(self.source, recipe, device=self.device)
        self._undo.append(self.recipe)
        self._redo.clear()
        self._take(recipe, coverage)

    def undo(self) -> bool:
        """Go back to the recipe before the last change; False when there is none."""
        return self._step(self._undo, self._redo)

    def redo(self) -> bool:
        """Take back the last undo; False when there is none."""
        return self._step(self._redo, self._undo)

    # --- seeing -------------------------------------------------------------------------------------------------

    def show(self, *, metric: str | None = None, reduce: Literal["max", "mean"] | None = None) -> None:
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
        if not self.current or self.row(self.current).kind not in QUANTIZABLE_KINDS:
            return None
        name, config, metric, reduce = self.current, self.resolved(), self.metric, self.reduce

        def views(cancel: threading.Event) -> Iterator[LayerView]:
            found = iter_layer_views(
                self.source, name, config, metric=metric, reduce=reduce, cache=self._cache, cancel=cancel
            )
            return self._in_turn(found)

        return self.previews.submit(Job(f"Errors of {name}", views, self._on_view, self._on_job, quiet=True))

    def sweep_errors(self) -> Job:
        """Solve every int4 layer under the recipe and record its errors."""
        coverage = self.coverage

        def sweep(cancel: threading.Event) -> Iterator[tuple[Progress, LayerView]]:
            rows = coverage.int4_rows
            clock = _Clock(len(rows))
            for row in rows:
                views = iter_layer_views(
                    self.source, row.name, coverage.configs[row.name], cache=self._cache, cancel=cancel, sampled=False
                )
                for view in views:
                    yield clock.tick(row.name), view

        return self.work.submit(Job("Errors of all layers", sweep, self._on_sweep, self._on_job))

    # --- measuring ----------------------------------------------------------------------------------------------

    def measure_speed(self, *, batch_sizes: Sequence[int] = DEFAULT_BATCH_SIZES) -> Job:
        """Measure the current layer's shape, int4 and dense, at each batch size, on every device present."""
        n, k = self.row(self.current).shape
        config = self.choice().config
        devices = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
        self.speed = []

        def measure(cancel: threading.Event) -> Iterator[tuple[Progress, SpeedPoint]]:
            clock = _Clock(0)
            for device in devices:
                points = iter_bench_linear(n, k, config, batch_sizes, device=device, cancel=cancel)
                for point in self._in_turn(points):
                    yield clock.tick(f"{device}, batch {point.batch}"), point

        return self.work.submit(Job(f"Speed of {n}x{k}", measure, self._on_speed, self._on_job))

    # --- exporting ----------------------------------------------------------------------------------------------

    def export(self, directory: Path | str, *, overwrite: bool = False, verify: bool = True) -> Job:
        """Quantize under the recipe and write a checkpoint, then check what was written."""
        coverage, recipe = self.coverage, self.recipe

        def write(cancel: threading.Event) -> Iterator[Progress | ExportResult]:
            yield from iter_export(
                self.source, coverage, recipe, Path(directory), overwrite=overwrite, verify=verify, cancel=cancel
            )

        return self.work.submit(Job(f"Export to {directory}", write, self._on_export, self._on_job))

    def cancel(self) -> None:
        """Stop what runs; acknowledged at once, done at the next block."""
        self.work.cancel()
        self.previews.cancel()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until nothing runs; False when `timeout_s` seconds passed first."""
        return self.previews.wait(timeout_s) and self.work.wait(timeout_s)

    def as_python(self) -> str:
        """Return a cell that, run alone, quantizes the same model under the same recipe."""
        return python_of(self.source.name, self.recipe)

    # --- inside -------------------------------------------------------------------------------------------------

    def _in_turn(self, steps: Iterator[T]) -> Iterator[T]:
        """Take each step while no other lane works, so that a preview does not disturb a timing."""
        while True:
            with self._quiet:
                step = next(steps, None)
            if step is None:
                return
            yield step

    def _linear(self, scope: Scope | None) -> list[str]:
        names = self.targets(scope)
        if not names:
            raise ConfigError(
                f"The {scope or self.scope} holds no linear layer.", mend="select a linear layer in the table"
            )
        return names

    def _set_rules(self, names: Sequence[str], choice: Choice | None) -> None:
        recipe = self.recipe
        known = [row.name for row in self.coverage.rows]
        for name in names:
            recipe = recipe.with_rule(exact_pattern(name, known), choice)
        self.set_recipe(recipe)

    def _step(self, back: list[Recipe], forth: list[Recipe]) -> bool:
        if not back:
            return False
        recipe = back.pop()
        forth.append(self.recipe)
        self._take(recipe, preflight_source(self.source, recipe, device=self.device))
        return True

    def _take(self, recipe: Recipe, coverage: Coverage) -> None:
        self.recipe, self.coverage = recipe, coverage
        self.errors = {name: view for name, view in self.errors.items() if coverage.configs.get(name) == view.config}
        self._emit("coverage", coverage)
        self.refresh()

    def _emit(self, kind: EventKind, data: Any, job: Job | None = None) -> None:
        for listener in list(self._listeners):
            listener(Event(kind, data, job))

    def _on_view(self, job: Job, view: LayerView) -> None:
        if view.exact and self.coverage.configs.get(view.name) == view.config:
            self.errors[view.name] = view
        self._emit("view", view, job)

    def _on_sweep(self, job: Job, item: tuple[Progress, LayerView]) -> None:
        job.progress, view = item
        self.errors[view.name] = view
        self._emit("error", view, job)
        self._emit("job", job, job)

    def _on_speed(self, job: Job, item: tuple[Progress, SpeedPoint]) -> None:
        job.progress, point = item
        self.speed.append(point)
        self._emit("speed", point, job)

    def _on_export(self, job: Job, item: Progress | ExportResult) -> None:
        if isinstance(item, ExportResult):
            self.exported = item
            self._emit("export", item, job)
            return
        job.progress = item
        self._emit("job", job, job)

    def _on_job(self, job: Job) -> None:
        self._emit("job", job, job)
        if job.error is not None:
            self._emit("problem", job.error, job)


def open_session(model: nn.Module | Source, **settings: Any) -> Session:
    """Make a session over a live model or a source of weights."""
    source = ModelSource(model) if isinstance(model, nn.Module) else model
    if not isinstance(source, Source):
        raise WorkbenchError(
            f"{type(model).__name__} is no model.", allowed="an nn.Module, or a path given to wb.Workbench"
        )
    return Session(source, **settings)


def changed_choice(
    choice: Choice,
    group_size: int | None = None,
    domain: str | None = None,
    use_hqq: bool | None = None,
    preserve_zero: bool | Literal["auto"] | None = None,
    inner_k_tiles: int | None = None,
) -> Choice:
    """Return a choice with the given settings changed; None keeps a setting.

    Raises:
        ConfigError: for settings that cannot work together.
    """
    config = choice.config
    domains = {"float": ZeroPointDomain.FLOAT, "int": ZeroPointDomain.INT}
    zero_point_domain, beside = config.zero_point_domain, choice.domain
    if domain is not None:
        if domain not in ("auto", *DOMAINS):
            raise ConfigError(f"domain={domain!r}.", allowed="'auto', 'float', 'int' or 'symmetric'")
        zero_point_domain = domains.get(domain, ZeroPointDomain.NONE)
        beside = "symmetric" if domain == "symmetric" else None
    return Choice(
        Int4WeightOnlyConfig(
            group_size=config.group_size if group_size is None else group_size,
            layout=config.layout if inner_k_tiles is None else TensorCoreTiledLayout(inner_k_tiles),
            use_hqq=config.use_hqq if use_hqq is None else use_hqq,
            zero_point_domain=zero_point_domain,
            set_inductor_config=config.set_inductor_config,
            preserve_zero={None: config.preserve_zero, "auto": None}.get(preserve_zero, preserve_zero),  # type: ignore[arg-type]
        ),
        None if choice.solver is None or use_hqq is not None else choice.solver,
        beside,
    )


def exact_pattern(name: str, names: Sequence[str]) -> str:
    """Return a pattern that matches `name` and no other of `names`: the name itself wherever that suffices."""
    caught = [other for other in names if other != name and matches(name, other)]
    if not caught:
        return name
    return "re:" + "".join(f"\\{char}" if char in r".\+*?[^]$(){}=!<>|:-#&~" else char for char in name)


def python_of(model: str, recipe: Recipe) -> str:
    """Return Python that quantizes `model` under `recipe` and saves it."""
    lines = [
        "import json",
        "",
        "import workbench as wb",
        "",
        f"model, tokenizer = {'wb.demo_model()' if model == 'demo' else f'wb.load_model({model!r})'}",
        f"recipe = wb.Recipe.from_json(json.loads({json.dumps(recipe.to_json())!r}))",
        "print(wb.quantize_(model, recipe))",
        'wb.save_checkpoint(model, "exports/int4", tokenizer=tokenizer)',
    ]
    return "\n".join(lines) + "\n"


class _Clock:
    """Progress of work in equal steps."""

    def __init__(self, total: int) -> None:
        self._total, self._done = total, 0
        self._start = time.monotonic()

    def tick(self, label: str) -> Progress:
        """Count one step."""
        self._done += 1
        elapsed = time.monotonic() - self._start
        left = None if not self._total else elapsed * (self._total - self._done) / self._done
        return Progress(self._done, self._total, label, elapsed, left)
