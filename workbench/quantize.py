"""Source and recipe in, quantized weights out: one layer at a time, with progress and cancel.

A model in memory is changed only after its last layer was solved, so that cancelling leaves it as it was.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from workbench.affine import QuantizedWeight
from workbench.checkpoint.native import describe_model, int4_layers
from workbench.config import Domain, Int4WeightOnlyConfig
from workbench.coverage import Coverage, preflight_source
from workbench.errors import Cancelled, ConfigError
from workbench.layers import get_layer, swap_layer, untie_embeddings, unties_head
from workbench.linear import Int4Linear
from workbench.options import SolverName, SolverOptions
from workbench.recipe import Recipe, as_recipe
from workbench.records import LayerResult, Progress
from workbench.solvers import solve
from workbench.sources import ModelSource, Source

RECIPE_ATTRIBUTE = "int4_recipe"


@dataclass(frozen=True)
class QuantizationReport:
    """What was done: the coverage, each layer's errors, and everything that was decided on the way.

    Attributes:
        coverage: What became int4, what did not, and why.
        layers: Errors of each int4 layer.
        seconds: Time that it took, in seconds.
    """

    coverage: Coverage
    layers: tuple[LayerResult, ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        layers = [layer.to_json() for layer in self.layers]
        return {"coverage": self.coverage.to_json(), "layers": layers, "seconds": self.seconds}

    def __str__(self) -> str:
        """The report as text."""
        return f"{self.coverage}\nsolved {len(self.layers)} layers in {self.seconds:.1f} s"


@dataclass(frozen=True)
class SolvedLayer:
    """One step of long work.

    Attributes:
        progress: Where the work stands after this layer.
        result: Errors of this layer.
        weight: Its portable int4 weight.
    """

    progress: Progress
    result: LayerResult
    weight: QuantizedWeight


def iter_quantize(
    source: Source, coverage: Coverage, *, cancel: threading.Event | None = None
) -> Iterator[SolvedLayer]:
    """Solve the int4 layers of a source one by one; nothing else is held in memory.

    Raises:
        Cancelled: when `cancel` is set, between blocks of a layer.
        WeightError: when a weight holds NaN or infinity, naming layer and position.
    """
    start = time.monotonic()
    total = sum(row.parameters for row in coverage.int4_rows)
    done = 0
    for row in coverage.int4_rows:
        if cancel is not None and cancel.is_set():
            raise Cancelled("Quantizing was cancelled.", mend="start it again; nothing was changed")
        config = coverage.configs[row.name]
        began = time.monotonic()
        solved = solve(source.weight(row.name), config, name=row.name, cancel=cancel)
        now = time.monotonic()
        done += row.parameters
        elapsed = now - start
        progress = Progress(done, total, row.name, elapsed, elapsed * (total - done) / done)
        result = LayerResult(
            row.name,
            config.solver,
            config.domain,
            config.group_size,
            solved.trace.objective,
            solved.trace.error,
            solved.trace.rtn_error,
            solved.trace.values,
            now - began,
        )
        yield SolvedLayer(progress, result, solved.weight)


def quantize_(
    model: nn.Module,
    recipe: Recipe | Int4WeightOnlyConfig | None = None,
    *,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
    solver: SolverName | None = None,
    domain: Domain | None = None,
    options: SolverOptions | None = None,
    calibration: object = None,
    min_coverage: float = 0.0,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> QuantizationReport:
    """Replace the linear layers of a model by int4 ones, in place.

    Args:
        model: A transformers model, or any module with `nn.Linear` layers.
        recipe: A configuration for all linear layers but the output head, or a recipe.
        include: Patterns of the layers to quantize (all linear ones when not given).
        exclude: Patterns of layers to leave dense.
        solver: "rtn", "hqq", "refined" or "calibrated"; None follows the configuration.
        domain: "float", "int" or "symmetric"; None follows the configuration.
        options: Settings of the solver (`HqqOptions`, ...); None takes its defaults.
        calibration: Must be None: no solver of this version uses calibration text.
        min_coverage: Least share of the linear layers' bytes that must become int4, 0 to 1.
        progress: Called after each layer.
        cancel: Set it to stop; the model is then unchanged.

    Returns:
        What was done; print it.

    Raises:
        PatternError: for a pattern that matches nothing.
        WeightError: when a weight holds NaN or infinity; the model is unchanged.
        Cancelled: when `cancel` was set; the model is unchanged.
    """
    if calibration is not None:
        raise ConfigError("No solver of this version uses calibration text.", allowed="calibration=None")
    settled = as_recipe(recipe, include=include, exclude=exclude, solver=solver, domain=domain, options=options)
    source = ModelSource(model)
    coverage = preflight_source(source, settled, device=model_device(model), min_coverage=min_coverage)
    start = time.monotonic()
    layers: dict[str, Int4Linear] = {}
    results: list[LayerResult] = []
    for step in iter_quantize(source, coverage, cancel=cancel):
        layers[step.result.name] = _int4_layer(model, step, coverage)
        results.append(step.result)
        if progress is not None:
            progress(step.progress)
    for name, layer in layers.items():
        swap_layer(model, name, layer)
    if unties_head(source.records(), layers):
        untie_embeddings(model)
    object.__setattr__(model, RECIPE_ATTRIBUTE, settled)
    _tell_the_config(model, settled)
    return QuantizationReport(coverage, tuple(results), time.monotonic() - start)


def model_device(model: nn.Module) -> torch.device:
    """Device of a model's first parameter, else of its first int4 layer; the CPU for a model with neither."""
    first = next(model.parameters(), None)
    if first is not None:
        return first.device
    return next((m.device for m in model.modules() if isinstance(m, Int4Linear)), torch.device("cpu"))


def _tell_the_config(model: nn.Module, recipe: Recipe) -> None:
    """Put into a transformers model's configuration what its own `save_pretrained` must write for it to load again."""
    config = getattr(model, "config", None)
    if config is not None and hasattr(config, "save_pretrained") and int4_layers(model):
        config.quantization_config = describe_model(model, recipe)


def _int4_layer(model: nn.Module, step: SolvedLayer, coverage: Coverage) -> Int4Linear:
    dense = get_layer(model, step.result.name)
    assert isinstance(dense, nn.Linear), "preflight lets only linear layers through"
    tiles = coverage.configs[step.result.name].inner_k_tiles
    return Int4Linear(step.weight, dense.bias, dtype=dense.weight.dtype, inner_k_tiles=tiles)
