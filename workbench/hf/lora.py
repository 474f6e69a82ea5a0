"""PEFT's LoRA over int4 layers: `get_peft_model`, `add_adapter` and `from_pretrained` take them as dense ones.

PEFT lets a `LoraConfig` name layers of other libraries. `register` makes each configuration name ours, once PEFT is
imported; `workbench.hf` sees to that. Only this module imports PEFT, which is optional.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from peft.tuners.lora.config import LoraConfig
from peft.tuners.lora.layer import Linear, LoraLayer
from peft.tuners.lora.model import LoraModel
from peft.tuners.lora.variants import DoraLinearVariant
from peft.tuners.tuners_utils import BaseTunerLayer, _maybe_include_all_linear_layers
from torch import nn

from workbench.errors import ConfigError, ModelError
from workbench.experts import Int4Experts
from workbench.layers import output_head
from workbench.linear import Int4Linear

INITS = (True, False, "gaussian", "orthogonal", "eva")  # those that leave the base weight as it is
_ALL_LINEAR = "all-linear"


class Int4LoraLinear(Linear):
    """y = base(x) + scaling * B A x over an `Int4Linear` base, whose codes never change (Hu et al. 2021).

    A is float [r, K], B float [N, r]; both are in the dtype that PEFT gives adapters, float32 unless told otherwise.
    """

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: LoraConfig, **kwargs: Any) -> None:
        """Wrap `base_layer` and add one adapter to it."""
        settings = copy.copy(config)
        settings.fan_in_fan_out = False  # an int4 weight is [N, K] whatever it was made from
        kwargs.pop("tied_adapter", None)
        super().__init__(base_layer, adapter_name, config=settings, **kwargs)

    @property
    def lora_variants(self) -> dict[tuple[str, ...], Any]:
        """Variants that only read the base weight."""
        return {(): None, ("use_dora",): DoraLinearVariant}

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refuse: the sum is no int4 weight.

        Raises:
            ModelError: always.
        """
        raise _merge_refused()

    def unmerge(self) -> None:
        """Do nothing: nothing is ever merged."""

    def _get_in_out_features(self, module: nn.Module) -> tuple[int, int]:
        return module.in_features, module.out_features  # type: ignore[return-value]

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module) -> tuple[torch.device, torch.dtype]:
        return base_layer.device, base_layer.dtype  # type: ignore[return-value]  # without dequantizing its weight


def register() -> None:
    """Teach PEFT's `LoraModel` the int4 layers; a second call changes nothing. Models without one are as before."""
    model: Any = LoraModel
    if getattr(model, "_knows_int4", False):
        return
    model._knows_int4 = True
    model.inject_adapter = _injecting(model.inject_adapter)
    model._prepare_adapter_config = _preparing(model._prepare_adapter_config)
    model._check_merge_allowed = _checking(model._check_merge_allowed)
    model._replace_module = _replacing(model._replace_module)


def _injecting(original: Callable[..., None]) -> Callable[..., None]:
    """First of all, look at what was asked for: PEFT then replaces "all-linear" by the names of dense layers."""

    @functools.wraps(original)
    def inject(self: Any, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        config = self.peft_config[adapter_name]
        if any(isinstance(module, Int4Linear | Int4Experts) for module in model.modules()):
            _refuse_unsupported(config, model)
            config._register_custom_module({Int4Linear: Int4LoraLinear})
            all_linear = isinstance(config.target_modules, str) and config.target_modules.lower() == _ALL_LINEAR
            config._int4_targets = _int4_targets(model) if all_linear else None
        original(self, model, adapter_name, *args, **kwargs)

    return inject


def _preparing(original: Callable[..., LoraConfig]) -> Callable[..., LoraConfig]:
    """Then, add the int4 layers to what "all-linear" means. Nothing of the model is changed yet."""

    @functools.wraps(original)
    def prepare(self: Any, peft_config: LoraConfig, model_config: Any) -> LoraConfig:
        config: Any = original(self, peft_config, model_config)
        if (targets := getattr(config, "_int4_targets", None)) is not None:
            config = _maybe_include_all_linear_layers(config, self.model)
            config.target_modules = {*config.target_modules, *targets}
            _leave_int4_experts(config, self.model)
        return config  # type: ignore[no-any-return]

    return prepare


def _leave_int4_experts(config: Any, model: nn.Module) -> None:
    """Take int4 stacks of experts out of what "all-linear" means in families with experts, and say so."""
    left = {target for target in config.target_parameters or () if _stacks(model, target)}
    if left:
        config.target_parameters = set(config.target_parameters) - left
        warnings.warn(f"Experts in int4 get no adapters: {', '.join(sorted(left))}.", UserWarning, stacklevel=2)


def _stacks(model: nn.Module, target: str) -> list[str]:
    """Names of the int4 stacks of experts that an entry of `target_parameters` means."""
    stacks = (name for name, module in model.named_modules() if isinstance(module, Int4Experts))
    return [name for name in stacks if f".{name}".endswith(f".{target}")]


def _checking(original: Callable[..., None]) -> Callable[..., None]:
    """Merging is refused before the first layer is merged."""

    @functools.wraps(original)
    def check(self: Any) -> None:
        original(self)
        layers = (module for module in self.model.modules() if isinstance(module, LoraLayer))
        if any(isinstance(layer.get_base_layer(), Int4Linear) for layer in layers):
            raise _merge_refused()

    return check


def _replacing(original: Callable[..., None]) -> Callable[..., None]:
    """PEFT asks the base weight for its device, many times a layer: an int4 layer says it without dequantizing."""

    @functools.wraps(original)
    def replace(self: Any, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        base = new_module.get_base_layer() if isinstance(new_module, LoraLayer) else new_module
        if isinstance(base, Int4Linear):
            setattr(parent, child_name, new_module)  # adapters were made on the device of their base
        else:
            original(self, parent, child_name, new_module, child)

    return replace


def _int4_targets(model: nn.Module) -> set[str]:
    """Names of the int4 layers that "all-linear" means: neither the output head nor inside an adapter or a stack."""
    head = output_head(model)
    inside = tuple(f"{name}." for name, m in model.named_modules() if isinstance(m, BaseTunerLayer | Int4Experts))
    return {
        name
        for name, module in model.named_modules()
        if isinstance(module, Int4Linear) and module is not head and not (inside and name.startswith(inside))
    }


def _refuse_unsupported(config: LoraConfig, model: nn.Module) -> None:
    if config.init_lora_weights not in INITS:
        raise ConfigError(
            f"init_lora_weights={config.init_lora_weights!r} would change the base weights, and int4 codes are fixed.",
            allowed=", ".join(map(repr, INITS)),
        )
    variants = [field.name for field in dataclasses.fields(config) if field.metadata.get("is_lora_variant")]
    asked = [name for name in (*variants, "use_qalora") if name != "use_dora" and getattr(config, name, None)]
    if asked:
        raise ConfigError(
            f"{asked[0]}={getattr(config, asked[0])!r} over int4 layers.",
            allowed="plain LoRA, use_rslora=True, lora_bias=True or use_dora=True",
        )
    for target in config.target_parameters or ():
        if stacks := _stacks(model, target):
            raise ConfigError(
                f"target_parameters={target!r}: {stacks[0]} is an int4 stack of experts, no parameter.",
                allowed="linear layers, named in target_modules",
                mend="leave these experts dense with exclude=, or adapt the other layers",
            )


def _merge_refused() -> ModelError:
    return ModelError(
        "Adapters cannot be merged into int4 weights: the sum would have to be rounded to int4 again.",
        mend="put the adapter on the dense model, merge it there, and quantize the result with wb.quantize_;"
        " or keep it beside the int4 layers, as it is",
    )
