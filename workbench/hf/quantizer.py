"""The quantizer that transformers calls while it loads a native checkpoint; importing this module registers it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.core_model_loading import ConversionOps
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from workbench.checkpoint.mapped import MappedFiles
from workbench.checkpoint.native import QUANT_METHOD, ModuleFormat, describe_model, parse
from workbench.coverage.coverage import Coverage
from workbench.errors import CheckpointError, ConfigError, ModelError, WorkbenchError
from workbench.expert_routing import route_experts
from workbench.hf.on_load import OnLoad, SolveOnLoad
from workbench.hf.places import check_checkpoint
from workbench.hf.portable_linear import PortableLinear, portable_layer
from workbench.layers import Int4Layer, swap_layer, weight_as_used
from workbench.quantize import RECIPE_ATTRIBUTE, keep_names
from workbench.recipe.recipe import Recipe, RecipeLike, as_recipe
from workbench.workers import in_order


@register_quantization_config(QUANT_METHOD)
class Int4WorkbenchConfig(QuantizationConfigMixin):
    """The `quantization_config` of a native checkpoint, as transformers carries it."""

    quant_method: Any = QUANT_METHOD

    def __init__(self, **settings: Any) -> None:
        """Keep the settings as they stand in the file; they are checked when the model is built."""
        self.settings = dict(settings, quant_method=QUANT_METHOD)

    @property
    def modules_to_not_convert(self) -> list[str]:
        """Linear layers that are dense in the checkpoint."""
        return list(self.settings.get("modules_to_not_convert") or [])

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as they stand in the file."""
        return dict(self.settings)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """Build from the dictionary in config.json."""
        config = cls(**config_dict)
        return (config, kwargs) if return_unused_kwargs else config


class TransformersConfig(Int4WorkbenchConfig):
    """Quantizes a dense model while it is loaded, as the `quantization_config` of `from_pretrained`.

    Args:
        recipe: A configuration for all linear layers but the output head, a recipe, or torchao's dictionary of names to
            configurations.
        settings: As `wb.quantize_` takes them: include, exclude, solver, domain, options, output_head.

    Attributes:
        recipe: The recipe.

    Raises:
        ConfigError, PatternError: for a recipe that contradicts itself.
    """

    def __init__(self, recipe: RecipeLike | None = None, **settings: Any) -> None:
        self.recipe = as_recipe(recipe, **settings)
        super().__init__(recipe=self.recipe.to_json())


@register_quantizer(QUANT_METHOD)
class Int4WorkbenchQuantizer(HfQuantizer):
    """Builds `Int4Linear` layers while transformers loads a native checkpoint; never a dense copy of one."""

    requires_calibration = False  # a dense model is quantized while it is loaded

    def __init__(self, quantization_config: Any, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self._on_load: OnLoad | None = None
        self._files: list[Path] = []  # of an int4 checkpoint

    @property
    def coverage(self) -> Coverage | None:
        """What became int4 while a dense model was loaded, and what did not; None for an int4 checkpoint."""
        return None if self._on_load is None else self._on_load.coverage

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        """Refuse to quantize a dense model by the settings of another one's checkpoint."""
        if not self.pre_quantized and not isinstance(self.quantization_config, TransformersConfig):
            raise ConfigError(
                f"quantization_config is {type(self.quantization_config).__name__}, and the model is dense.",
                allowed="wb.TransformersConfig(recipe)",
                mend="pass that to quantize the model while it is loaded",
            )

    def param_needs_quantization(self, model: Any, param_name: str, **kwargs: Any) -> bool:
        """Say whether a parameter of a dense model becomes int4 while it is loaded."""
        return self._on_load is not None and self._on_load.waits_for(param_name)

    def get_quantize_ops(self) -> ConversionOps:
        """Return the step of transformers' loader that makes a weight int4."""
        assert self._on_load is not None, "asked for parameters that wait only"
        return SolveOnLoad(self._on_load)

    def is_serializable(self) -> bool:
        """`save_pretrained` writes the portable tensors through the layers' state dict."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Adapters over the int4 layers can be trained; the codes cannot."""
        return True

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        dtype = kwargs.get("dtype") or torch.get_default_dtype()
        if not self.pre_quantized:
            assert isinstance(self.quantization_config, TransformersConfig), "validated before"
            self._on_load = OnLoad(model, self.quantization_config.recipe, _first_device(kwargs), dtype)
            return model
        modules = parse(self.quantization_config.to_dict())
        files = kwargs.get("checkpoint_files") or []
        self._files = [Path(file) for file in files]
        check_checkpoint(model, files, modules)
        waiting = {name: _portable(model, name, form, dtype) for name, form in modules.items()}
        for name, layer in waiting.items():  # when all of them were looked at: a stack's shape tells of another's
            swap_layer(model, name, layer)
        return model

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        waiting = [(name, module) for name, module in model.named_modules() if isinstance(module, PortableLinear)]
        mapped = MappedFiles(self._files)

        def finished(item: tuple[str, PortableLinear]) -> tuple[str, Int4Layer]:
            name, module = item
            layer = module.finished(name)
            for tensor in module.buffers():
                mapped.forget(tensor)
            return name, layer

        # On the CPU each thread packs whole layers: threads within an operation wait for each other at its end.
        on_cpu = all(module.weight.device.type == "cpu" for _, module in waiting)
        for name, layer in in_order(finished, waiting) if on_cpu else map(finished, waiting):
            swap_layer(model, name, layer)
        route_experts(model)
        keep_names(model)
        if self._on_load is not None:
            self._on_load.check()
            object.__setattr__(model, RECIPE_ATTRIBUTE, self._on_load.recipe)
            self.quantization_config = Int4WorkbenchConfig(**describe_model(model, self._on_load.recipe))
            model.config.quantization_config = self.quantization_config
            return model
        recipe = self.quantization_config.to_dict().get("recipe")
        if recipe is not None:
            object.__setattr__(model, RECIPE_ATTRIBUTE, _recipe(recipe))
        return model


def _portable(model: Any, name: str, form: ModuleFormat, dtype: torch.dtype) -> PortableLinear:
    _check_shape(model, name, form)
    return portable_layer(model, name, form, dtype)


def _recipe(data: Any) -> Recipe:
    try:
        return Recipe.from_json(data)
    except (WorkbenchError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"The recipe in config.json is damaged: {error}", mend="fetch or save it again") from None


def _check_shape(model: nn.Module, name: str, form: ModuleFormat) -> None:
    try:
        weight = weight_as_used(model, name)
    except ModelError as error:
        raise CheckpointError(
            f"The checkpoint quantizes {name!r}, which {type(model).__name__} does not have.",
            mend="load it as the class that its config.json names: AutoModelForCausalLM for a language model",
        ) from error
    if weight.shape != form.shape:
        raise CheckpointError(
            f"The checkpoint's {name!r} is {list(form.shape)}, the model's {list(weight.shape)}.",
            mend="config.json does not belong to these weights",
        )


def _first_device(kwargs: dict[str, Any]) -> Any:
    """Return the device that most of a model goes to, as transformers was told."""
    places = kwargs.get("device_map")
    found = next(iter(places.values()), "cpu") if isinstance(places, dict) else places
    return "cpu" if found in (None, "disk", "auto") else f"cuda:{found}" if isinstance(found, int) else found
