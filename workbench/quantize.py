"""Source and recipe in, quantized weights out: one layer at a time, with progress and cancel.

A model in memory is changed only after its last layer was solved, so that cancelling leaves it as it was.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from workbench.affine import QuantizedWeight
from workbench.calibration import Calibration, as_calibration
from workbench.checkpoint.native import describe_model, int4_layers
from workbench.config import Domain, ResolvedConfig
from workbench.coverage.coverage import Coverage
from workbench.coverage.preflight import preflight_source
from workbench.errors import Cancelled, ConfigError
from workbench.experts import Int4Experts, route_experts
from workbench.layers import (
    Int4Layer,
    get_layer,
    lies_transposed,
    model_device,
    refuse_adapters,
    swap_layer,
    untie_embeddings,
    unties_head,
    weight_as_used,
)
from workbench.linear import Int4Linear
from workbench.offload import layer_device, offload_note, offloaded_values
from workbench.options import SolverName, SolverOptions
from workbench.recipe.recipe import Recipe, RecipeLike, as_recipe
from workbench.records.errors import ErrorTrace, LayerResult
from workbench.records.progress import Progress
from workbench.sequential import iter_sequential
from workbench.solvers import InputMoments, SolveResult, solve
from workbench.solvers.result import stacked
from workbench.sources import ModelSource, Source, read_rows

RECIPE_ATTRIBUTE = "int4_recipe"
_NAMED = 8  # layers of a note that are named one by one


@dataclass(frozen=True)
class QuantizationReport:
    """What was done: the coverage, each layer's errors, and everything that was decided on the way.

    Attributes:
        coverage: What became int4, what did not, and why.
        layers: Errors of each int4 layer.
        seconds: Time that it took, in seconds.
        notes: How the calibration text was cut, and which layers were offloaded.
    """

    coverage: Coverage
    layers: tuple[LayerResult, ...]
    seconds: float
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        layers = [layer.to_json() for layer in self.layers]
        return {
            "coverage": self.coverage.to_json(),
            "layers": layers,
            "seconds": self.seconds,
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        """The report as text."""
        said = [f"note: {note}" for note in (*self.notes, *layer_notes(self.layers))]
        return "\n".join([str(self.coverage), *said, f"solved {len(self.layers)} layers in {self.seconds:.1f} s"])


def layer_notes(layers: Sequence[LayerResult]) -> list[str]:
    """Say what a person must know of the layers, those with the same note together."""
    named: dict[str, list[str]] = {}
    for layer in layers:
        for note in layer.notes:
            named.setdefault(note, []).append(layer.name)
    return [
        f"{', '.join(names[:_NAMED])}{f' and {len(names) - _NAMED} more' if len(names) > _NAMED else ''}: {note}"
        for note, names in named.items()
    ]


class SolvedBefore(Protocol):
    """What was solved before, and where results are kept for the next time."""

    def recall(
        self, name: str, weight: Tensor, config: ResolvedConfig, moments: InputMoments | None
    ) -> tuple[str, SolveResult | None]:
        """Return what to keep the result under, and the result if it is known."""
        ...

    def keep(self, key: str, result: SolveResult) -> None:
        """Keep a result."""
        ...


@dataclass(frozen=True)
class SolvedLayer:
    """One step of long work.

    Attributes:
        progress: Where the work stands after this layer.
        result: Errors of this layer.
        weight: Its portable int4 weight.
        trace: How the solver came to it.
    """

    progress: Progress
    result: LayerResult
    weight: QuantizedWeight
    trace: ErrorTrace


def iter_quantize(
    source: Source,
    coverage: Coverage,
    *,
    calibration: Calibration | None = None,
    model: nn.Module | None = None,
    solved: SolvedBefore | None = None,
    cancel: threading.Event | None = None,
) -> Iterator[SolvedLayer]:
    """Solve the int4 layers of a source one by one; nothing else is held in memory.

    Where a layer is to be calibrated, all are solved in the order in which the model runs them, each on inputs that
    are quantized upstream already.

    Args:
        source: Where the weights come from.
        coverage: What becomes int4, and how.
        calibration: The text, when a layer is to be calibrated; ignored otherwise.
        model: The model to run it through; a live source brings its own.
        solved: What it has of these layers is not solved again; what is solved, it is given to keep.
        cancel: Set it to stop between blocks.

    Raises:
        ConfigError: when a layer is to be calibrated and text or model are missing, or memory cannot hold its moments.
        ModelError: when the model cannot be run on the text.
        Cancelled: when `cancel` is set, between blocks of a layer.
        WeightError: when a weight holds NaN or infinity, naming layer and position.
    """
    solver = _Solver(source, coverage, cancel, solved)
    names = [row.name for row in coverage.int4_rows]
    calibrated = needs_calibration(coverage)
    if not calibrated:
        for name in names:
            solver.solve(name, None)
            yield solver.finished(name)
        return
    if calibration is None:
        raise ConfigError(
            f"{calibrated[0]} is to be calibrated, and there is no calibration text.",
            allowed="calibration=Calibration.from_text(text, tokenizer)",
            mend="give a text, or use solver='refined', which looks at the weights alone",
        )
    run = source.model if isinstance(source, ModelSource) else model
    if run is None:
        raise ConfigError("Calibrating needs the model itself, to run the text through it.", mend="pass model=")
    stacks = [name for name in names if experts_of(coverage, name)]  # no module of their own, nothing to listen at
    for name in stacks:
        solver.solve(name, None)
        yield solver.finished(name)
    names = [name for name in names if name not in set(stacks)]
    needs = {name: coverage.configs[name].solver == "calibrated" for name in names}
    for name in iter_sequential(run, names, needs, calibration, solver.solve, cancel=cancel):
        yield solver.finished(name)


def experts_of(coverage: Coverage, name: str) -> int:
    """Return the number of experts of a stack; 0 for any other layer."""
    shape = coverage.row(name).shape
    return shape[0] if len(shape) == 3 else 0


def needs_calibration(coverage: Coverage) -> list[str]:
    """Return the names of the layers that are to be calibrated."""
    return [row.name for row in coverage.int4_rows if coverage.configs[row.name].solver == "calibrated"]


class _Solver:
    """Solves layers by name and keeps count."""

    def __init__(
        self, source: Source, coverage: Coverage, cancel: threading.Event | None, solved: SolvedBefore | None
    ) -> None:
        self._source, self._coverage, self._cancel, self._solved = source, coverage, cancel, solved
        self._parameters = {row.name: row.parameters for row in coverage.int4_rows}
        self._start = time.monotonic()
        self._done = 0
        self._latest: tuple[SolveResult, float] | None = None

    def solve(self, name: str, moments: InputMoments | None) -> QuantizedWeight:
        if self._cancel is not None and self._cancel.is_set():
            raise Cancelled("Quantizing was cancelled.", mend="start it again; nothing was changed")
        began = time.monotonic()
        config, experts = self._coverage.configs[name], experts_of(self._coverage, name)
        if experts:
            solved = stacked([self._expert(name, e) for e in range(experts)])
        else:
            solved = self._recalled(name, self._source.weight(name), config, moments)
        self._latest = solved, time.monotonic() - began
        return solved.weight

    def _expert(self, name: str, expert: int) -> SolveResult:
        rows = self._coverage.row(name).shape[1]
        weight = read_rows(self._source, name, expert * rows, (expert + 1) * rows)
        return self._recalled(f"{name}[{expert}]", weight, self._coverage.configs[name], None)

    def _recalled(self, name: str, weight: Tensor, config: ResolvedConfig, moments: InputMoments | None) -> SolveResult:
        """Return what was solved before, or solve it now and leave it for the next time."""
        key, known = ("", None) if self._solved is None else self._solved.recall(name, weight, config, moments)
        if known is not None:
            return known
        found = solve(weight, config, statistics=moments, name=name, cancel=self._cancel)
        if self._solved is not None:
            self._solved.keep(key, found)
        return found

    def finished(self, name: str) -> SolvedLayer:
        """Return the step of the layer that was solved last."""
        assert self._latest is not None
        (solved, seconds), config = self._latest, self._coverage.configs[name]
        self._done += self._parameters[name]
        total, elapsed = sum(self._parameters.values()), time.monotonic() - self._start
        progress = Progress(self._done, total, name, elapsed, elapsed * (total - self._done) / max(1, self._done))
        trace = solved.trace
        result = LayerResult(
            name,
            solved.solver,
            config.domain,
            config.group_size,
            trace.objective,
            trace.error,
            trace.rtn_error,
            trace.values,
            seconds,
            solved.notes,
        )
        return SolvedLayer(progress, result, solved.weight, trace)


def quantize_(
    model: nn.Module,
    recipe: RecipeLike | None = None,
    *,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
    solver: SolverName | None = None,
    domain: Domain | None = None,
    options: SolverOptions | None = None,
    output_head: bool = False,
    calibration: Calibration | str | Sequence[str] | Tensor | None = None,
    tokenizer: Any = None,
    min_coverage: float = 0.0,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> QuantizationReport:
    """Replace the linear layers of a model by int4 ones, in place.

    Args:
        model: A transformers model, or any module with `nn.Linear` layers.
        recipe: A configuration for all linear layers but the output head, a recipe, or torchao's dictionary of names to
            configurations (`FqnToConfig`).
        include: Patterns of the layers to quantize (all linear ones when not given).
        exclude: Patterns of layers to leave dense.
        solver: "rtn", "hqq", "refined" or "calibrated"; None follows the configuration.
        domain: "float", "int" or "symmetric"; None follows the configuration.
        options: Settings of the solver (`HqqOptions`, ...); None takes its defaults.
        output_head: Whether the output head becomes int4 too. Decoding reads all of it for each token; where it shares
            the embedding's weight, the tie is ended, said, and the embedding stays dense.
        calibration: For solver="calibrated": a text (or several) like what the model will see, token ids int64 [S, T],
            or a `Calibration`, which says how the text is cut.
        tokenizer: The model's own, when the calibration is a text.
        min_coverage: Least share of the linear layers' bytes that must become int4, 0 to 1.
        progress: Called after each layer.
        cancel: Set it to stop; the model is then unchanged.

    Returns:
        What was done; print it.

    Raises:
        PatternError: for a pattern that matches nothing.
        WeightError: when a weight holds NaN or infinity; the model is unchanged.
        Cancelled: when `cancel` was set; the model is unchanged.
        ModelError: when the model has adapters of PEFT.
    """
    settled = as_recipe(
        recipe,
        include=include,
        exclude=exclude,
        solver=solver,
        domain=domain,
        options=options,
        output_head=output_head,
    )
    refuse_adapters(model, "quantize first and put adapters on it afterwards; model.unload() takes them off")
    source = ModelSource(model)
    coverage = preflight_source(source, settled, device=model_device(model), min_coverage=min_coverage)
    text = as_calibration(calibration, tokenizer)
    if text is not None and not needs_calibration(coverage):
        raise ConfigError(
            "A calibration text, and no layer that is to be calibrated.",
            mend="use solver='calibrated', or leave the text away",
        )
    start = time.monotonic()
    layers: dict[str, Int4Layer] = {}
    results: list[LayerResult] = []
    for step in iter_quantize(source, coverage, calibration=text, cancel=cancel):
        layers[step.result.name] = int4_layer(model, step.result.name, step.weight, coverage)
        results.append(step.result)
        if progress is not None:
            progress(step.progress)
    notes = offload_note(model, layers) + (() if text is None else text.notes)
    for name, layer in layers.items():
        swap_layer(model, name, layer)
    route_experts(model)
    if unties_head(source.records(), layers):
        untie_embeddings(model)
    object.__setattr__(model, RECIPE_ATTRIBUTE, settled)
    _tell_the_config(model, settled)
    return QuantizationReport(coverage, tuple(results), time.monotonic() - start, notes)


def keep_names(model: nn.Module) -> None:
    """Let transformers' `save_pretrained` write the model's own names: its conversions do not know portable tensors."""
    object.__setattr__(model, "_weight_conversions", [])


def _tell_the_config(model: nn.Module, recipe: Recipe) -> None:
    """Put into a transformers model's configuration what its own `save_pretrained` must write for it to load again."""
    config = getattr(model, "config", None)
    if config is not None and hasattr(config, "save_pretrained") and int4_layers(model):
        config.quantization_config = describe_model(model, recipe)
        keep_names(model)
        for module in model.modules():  # as transformers marks a model that it loads: some forwards ask
            if hasattr(getattr(module, "config", None), "save_pretrained"):
                module.config._is_quantized = True  # type: ignore[union-attr]


def int4_layer(model: nn.Module, name: str, weight: QuantizedWeight, coverage: Coverage) -> Int4Layer:
    """Return the int4 layer that takes the place of a dense one of `model`, on its device; nothing is swapped.

    Args:
        model: The dense model, which gives device, dtype, bias and orientation.
        name: The layer's name.
        weight: What is stored for it.
        coverage: Its settings, and how many experts a stack has.
    """
    device = layer_device(model, name) or weight.codes.device
    dtype, tiles = weight_as_used(model, name, read=False).dtype, coverage.configs[name].inner_k_tiles
    if experts := experts_of(coverage, name):
        turned = lies_transposed(model, name)
        return Int4Experts(weight, experts, device=device, dtype=dtype, inner_k_tiles=tiles, transposed=turned)
    bias = offloaded_values(get_layer(model, name), "bias")
    return Int4Linear(weight, bias, device=device, dtype=dtype, inner_k_tiles=tiles)
