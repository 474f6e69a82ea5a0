"""The quantizer that transformers calls while it loads a native checkpoint; importing this module registers it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from workbench.checkpoint.integrity import check_headers
from workbench.checkpoint.native import QUANT_METHOD, ModuleFormat, parse
from workbench.errors import CheckpointError, ModelError, WorkbenchError
from workbench.experts import Int4Experts, route_experts
from workbench.layers import Int4Layer, get_layer, lies_transposed, swap_layer, weight_as_used
from workbench.linear import Int4Linear
from workbench.offload import offloaded_values
from workbench.portable import quantized_from_portable
from workbench.quantize import RECIPE_ATTRIBUTE, keep_names
from workbench.recipe import Recipe


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


class PortableLinear(nn.Module):
    """Holds a weight's tensors while transformers fills them in; it becomes an int4 layer afterwards.

    Attributes:
        form: How the weight is stored.
        weight: uint8 [N, ceil(K/2)], and beside it the scale and, by domain, the zero point.
        bias: Parameter [N] or None.
        transposed: Whether the dense weight lay [..., K, N].
    """

    transposed = False

    def __init__(self, form: ModuleFormat, device: torch.device, bias: nn.Parameter | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.form = form
        self.in_features, self.out_features = form.in_features, form.out_features  # some architectures' inits read them
        self.dtype = dtype
        for name, (tensor_dtype, shape) in form.tensors().items():
            self.register_buffer(name, torch.empty(shape, dtype=tensor_dtype, device=device))
        self.bias = bias

    def finished(self, name: str) -> Int4Layer:
        """Return the int4 layer.

        Raises:
            CheckpointError: when a value is out of range.
        """
        tensors: dict[str, Tensor] = {
            suffix: getattr(self, suffix).to(dtype) for suffix, (dtype, _) in self.form.tensors().items()
        }  # exact: where transformers changes a dtype while loading, it widens
        try:
            weight = quantized_from_portable(
                tensors,
                in_features=self.form.in_features,
                group_size=self.form.group_size,
                domain=self.form.domain,
                solved_by=self.form.solved_by,
            )
        except WorkbenchError as error:
            raise CheckpointError(f"{name}: {error.what}", allowed=error.allowed, mend=error.mend) from None
        if self.form.experts:
            return Int4Experts(weight, self.form.experts, dtype=self.dtype, transposed=self.transposed)
        return Int4Linear(weight, offloaded_values(self, "bias"), dtype=self.dtype)


@register_quantizer(QUANT_METHOD)
class Int4WorkbenchQuantizer(HfQuantizer):
    """Builds `Int4Linear` layers while transformers loads a native checkpoint; never a dense copy of one."""

    requires_calibration = True

    def is_serializable(self) -> bool:
        """`save_pretrained` writes the portable tensors through the layers' state dict."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Adapters over the int4 layers can be trained; the codes cannot."""
        return True

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        modules = parse(self.quantization_config.to_dict())
        files = kwargs.get("checkpoint_files") or []
        if files:
            check_headers(Path(os.fspath(files[0])).parent, modules)
        dtype = kwargs.get("dtype") or torch.get_default_dtype()
        waiting = {name: _portable(model, name, form, dtype) for name, form in modules.items()}
        for name, layer in waiting.items():  # when all of them were looked at: a stack's shape tells of another's
            swap_layer(model, name, layer)
        return model

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        waiting = [(name, module) for name, module in model.named_modules() if isinstance(module, PortableLinear)]
        for name, module in waiting:
            swap_layer(model, name, module.finished(name))
        route_experts(model)
        keep_names(model)
        recipe = self.quantization_config.to_dict().get("recipe")
        if recipe is not None:
            object.__setattr__(model, RECIPE_ATTRIBUTE, _recipe(recipe))
        return model


def _portable(model: Any, name: str, form: ModuleFormat, dtype: torch.dtype) -> PortableLinear:
    dense = _dense_weight(model, name, form)
    bias = None if form.experts else getattr(get_layer(model, name), "bias", None)
    layer = PortableLinear(form, dense.device, bias, _layer_dtype(model, name, dtype))
    layer.transposed = lies_transposed(model, name)
    return layer


def _recipe(data: Any) -> Recipe:
    try:
        return Recipe.from_json(data)
    except (WorkbenchError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"The recipe in config.json is damaged: {error}", mend="fetch or save it again") from None


def _layer_dtype(model: Any, name: str, dtype: torch.dtype) -> torch.dtype:
    """Dtype that transformers gives a module's weight: float32 where the architecture keeps it so in 16 bits."""
    patterns: set[str] = set()
    if dtype in (torch.float16, torch.bfloat16):
        patterns |= set(model._keep_in_fp32_modules_strict or ())
    if dtype == torch.float16:
        patterns |= set(model._keep_in_fp32_modules or ())
    kept = any(re.search(pattern.replace("*", ".*"), f"{name}.weight") for pattern in patterns)
    return torch.float32 if kept else dtype


def _dense_weight(model: nn.Module, name: str, form: ModuleFormat) -> Tensor:
    try:
        weight = weight_as_used(model, name)
    except ModelError as error:
        raise CheckpointError(f"The checkpoint quantizes {name!r}, which the model does not have.") from error
    if weight.shape != form.shape:
        raise CheckpointError(
            f"The checkpoint's {name!r} is {list(form.shape)}, the model's {list(weight.shape)}.",
            mend="config.json does not belong to these weights",
        )
    return weight
