"""compressed-tensors' pack-quantized folders, for vLLM and transformers.

Of each layer: `weight_packed` int32 [N, K/8], code k at bits 4 * (k % 8) of its word; `weight_scale` [N, K/g] in the
model's dtype; `weight_shape` int64 [2]; of an asymmetric model also `weight_zero_point` int32 [ceil(N/8), K/g], packed
along N. Format: compressed-tensors 0.20, `compressors/pack_quantized`; transformers 5.23 dequantizes all dense layers
by one config group, so that one is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.affine import QuantizedWeight
from workbench.checkpoint.contents import Outline
from workbench.checkpoint.native import ModuleFormat
from workbench.targets.int32_codes import PER_WORD, pack_int32, unpack_int32
from workbench.targets.int_family import (
    asymmetric,
    family_lines,
    group_size_of,
    ignored,
    model_dtype,
    regrouped,
    scale_bytes,
    settings_of,
    stored_scale,
    zero_codes,
)
from workbench.targets.int_target import IntTarget
from workbench.targets.target import LoadLines


class CompressedTensors(IntTarget):
    """compressed-tensors, pack-quantized; no engine takes the zero points of experts."""

    name = "compressed-tensors"
    title = "compressed-tensors"
    engines = "vLLM, transformers"

    def scale_dtype(self, outline: Outline) -> torch.dtype:
        """Return the dtype that scales are stored in: the model's."""
        return model_dtype(outline)

    def notes(self, outline: Outline) -> list[str]:
        """Say what a person must know before exporting."""
        loads = "zero points: transformers loads them with dequantize=True only"
        return [*super().notes(outline), *([loads] if asymmetric(outline) else [])]

    def layer_bytes(self, form: ModuleFormat) -> int:
        """Bytes of one layer's tensors, its bias apart."""
        n, groups = form.out_features, form.in_features // form.group_size
        zeros = 4 * -(-n // PER_WORD) * groups if form.domain == "int" else 0
        return n * form.in_features // 2 + scale_bytes(form) * n * groups + 16 + zeros

    def encode(self, name: str, weight: QuantizedWeight, outline: Outline) -> dict[str, Tensor]:
        """Return full name → tensor of one layer, as the format stores it."""
        form = outline.int4[name]
        fine = regrouped(weight, form.group_size)
        tensors = {
            "weight_packed": fine.packed_codes().view(torch.int32),
            "weight_scale": stored_scale(name, fine, form),
            "weight_shape": torch.tensor(fine.shape, dtype=torch.int64),
        }
        if form.domain == "int":
            tensors["weight_zero_point"] = pack_int32(zero_codes(fine).t().contiguous()).t()
        return {f"{name}.{suffix}": tensor for suffix, tensor in tensors.items()}

    def decode(self, name: str, tensors: Mapping[str, Tensor], form: ModuleFormat) -> QuantizedWeight:
        """Return the weight that the format's loader sees."""
        n, k = form.shape
        scale = tensors[f"{name}.weight_scale"].float()
        packed = tensors.get(f"{name}.weight_zero_point")
        zero = None if packed is None else unpack_int32(packed.t(), n).t().contiguous()
        codes = unpack_int32(tensors[f"{name}.weight_packed"], k)
        return QuantizedWeight(codes, scale, zero, k // scale.shape[1], "symmetric" if zero is None else "int")

    def configured(self, outline: Outline) -> dict[str, Any]:
        """Return config.json."""
        weights = {
            "num_bits": 4,
            "type": "int",
            "symmetric": not asymmetric(outline),
            "strategy": "group",
            "group_size": group_size_of(outline),
            "dynamic": False,
        }
        group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
        settings = {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "quantization_status": "compressed",
            "config_groups": {"group_0": group},
            "ignore": ignored(outline),
            "kv_cache_scheme": None,
            "global_compression_ratio": None,
        }
        return settings_of(outline, settings)

    def load_lines(self, directory: Path, outline: Outline) -> LoadLines:
        """Return the lines that load a folder that was written."""
        argument = ", quantization_config=CompressedTensorsConfig(dequantize=True)"
        return family_lines(directory, outline, python_extra="CompressedTensorsConfig", argument=argument)
