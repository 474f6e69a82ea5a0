"""Replace the linear layers of a model in memory by int4 ones.

It is changed only after its last layer was solved, so that cancelling leaves it as it was.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from workbench.affine import QuantizedWeight
from workbench.calibration import Calibration, as_calibration
from workbench.checkpoint.native import ModuleFormat, describe_model, int4_layers
from workbench.config import Domain, Int4WeightOnlyConfig
from workbench.coverage.coverage import Coverage, experts_of, needs_calibration
from workbench.coverage.preflight import preflight_source
from workbench.errors import ConfigError
from workbench.expert_routing import route_experts
from workbench.experts import Int4Experts
from workbench.kinds import INT4, QUANTIZABLE_KINDS
from workbench.layers import (
    Int4Layer,
    get_layer,
    lies_transposed,
    model_device,
    refuse_adapters,
    refuse_no_module,
    swap_layer,
    untie_embeddings,
    unties_head,
    weight_as_used,
)
from workbench.linear import Int4Linear
from workbench.offload import layer_device, offload_note, offloaded_values
from workbench.options import SolverName, SolverOptions
from workbench.quantization_report import QuantizationReport
from workbench.recipe.assign import with_choices
from workbench.recipe.edit import LayerNames
from workbench.recipe.recipe import Choice, Recipe, RecipeLike, as_recipe
from workbench.records.errors import LayerResult
from workbench.records.progress import Progress
from workbench.solving import iter_quantize
from workbench.sources import ModelSource

RECIPE_ATTRIBUTE = "int4_recipe"


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
        ModelError: for what is no module, and when the model has adapters of PEFT.
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
    refuse_no_module(model)
    refuse_adapters(model, "quantize first and put adapters on it afterwards; model.unload() takes them off")
    source = ModelSource(model)
    coverage = preflight_source(source, settled, device=model_device(model), min_coverage=min_coverage)
    text = as_calibration(calibration, tokenizer, model)
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
    made = _with_earlier(model, settled, coverage)
    for name, layer in layers.items():
        swap_layer(model, name, layer)
    route_experts(model)
    if unties_head(source.records(), layers):
        untie_embeddings(model)
    object.__setattr__(model, RECIPE_ATTRIBUTE, made)
    _tell_the_config(model, made)
    return QuantizationReport(coverage, tuple(results), time.monotonic() - start, notes)


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


def choice_of(form: ModuleFormat) -> Choice:
    """Return the settings that an int4 layer shows by itself: how it was solved is not among them."""
    return Choice(Int4WeightOnlyConfig(group_size=form.group_size), domain=form.domain)


def _with_earlier(model: nn.Module, recipe: Recipe, coverage: Coverage) -> Recipe:
    """Return the recipe that makes all of a model of which part was int4 before: those layers keep their settings."""
    earlier: Recipe | None = getattr(model, RECIPE_ATTRIBUTE, None)
    chosen: dict[str, Choice] = {}
    for name, layer in int4_layers(model).items():
        form, choice = ModuleFormat.of(layer), None if earlier is None else earlier.decide(name)[0]
        # Of one that nobody remembers, the settings that it has.
        chosen[name] = choice or choice_of(form)
    linear = LayerNames([row.name for row in coverage.rows if row.kind in (INT4, *QUANTIZABLE_KINDS)])
    return with_choices(recipe, linear, chosen, keep_default=True)


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
