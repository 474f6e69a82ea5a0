"""compressed-tensors' pack-quantized folders, for vLLM and transformers.

Of each layer: `weight_packed` int32 [N, K/8], code k at bits 4 * (k % 8) of its word; `weight_scale` [N, K/g] in the
model's dtype; `weight_shape` int64 [2]; of an asymmetric model also `weight_zero_point` int32 [ceil(N/8), K/g], packed
along N. Format: compressed-tensors 0.20, `compressors/pack_quantized`.

A symmetric model with several group sizes has a config group for each, which names its layers: vLLM 0.11 looks for the
class of a layer before the layers that it fused, so that "Linear" would hold for those. transformers 5.23 loads zero
points with dequantize=True alone, and that by one config group: then all is written in the smallest size.
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
from workbench.targets.group_sizes import own_group_sizes, regrouped
from workbench.targets.int32_codes import PER_WORD, pack_int32, unpack_int32
from workbench.targets.int_family import (
    asymmetric,
    family_lines,
    has_experts,
    ignored,
    is_decoder,
    model_dtype,
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
    packages = "compressed-tensors"

    def scale_dtype(self, outline: Outline) -> torch.dtype:
        """Return the dtype that scales are stored in: the model's."""
        return model_dtype(outline)

    def notes(self, outline: Outline) -> list[str]:
        """Say what a person must know before exporting."""
        loads = "zero points: transformers loads them with dequantize=True only"
        mixed = "groups of several sizes: transformers loads them as they are, and not with dequantize=True"
        said = [loads] if asymmetric(outline) else [mixed] if self._several_sizes(outline) else []
        return [*super().notes(outline), *said]

    def mixes_groups(self, outline: Outline) -> bool:
        """Whether each layer has its own group size: in a decoder without zero points, with the paths that it has.

        transformers 5.23 cannot load a T5 as it is: it asks for the tied weight of an output head that is still packed.
        """
        return is_decoder(outline) and not asymmetric(outline) and not has_experts(outline) and not outline.stored_names

    def _several_sizes(self, outline: Outline) -> bool:
        return self.mixes_groups(outline) and len(set(own_group_sizes(outline).values())) > 1

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
        layers: dict[int, list[str]] = {}
        for name, form in outline.int4.items():
            layers.setdefault(form.group_size, []).append(name)
        groups = {
            f"group_{index}": _group(size, names if len(layers) > 1 else ["Linear"], symmetric=not asymmetric(outline))
            for index, (size, names) in enumerate(layers.items())
        }
        settings = {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "quantization_status": "compressed",
            "config_groups": groups,
            "ignore": ignored(outline),
            "kv_cache_scheme": None,
            "global_compression_ratio": None,
        }
        return settings_of(outline, settings)

    def load_lines(self, directory: Path, outline: Outline) -> LoadLines:
        """Return the lines that load a folder that was written."""
        if self._several_sizes(outline):
            return super().load_lines(directory, outline)
        argument = ", quantization_config=CompressedTensorsConfig(dequantize=True)"
        return family_lines(
            directory, outline, packages=self.packages, extra="CompressedTensorsConfig", argument=argument
        )


def _group(group_size: int, targets: list[str], *, symmetric: bool) -> dict[str, Any]:
    """Return a config group: a scheme and the layers that have it."""
    weights = {
        "num_bits": 4,
        "type": "int",
        "symmetric": symmetric,
        "strategy": "group",
        "group_size": group_size,
        "dynamic": False,
    }
    return {"targets": targets, "weights": weights, "input_activations": None, "output_activations": None}
