"""GPTQ v2 folders, for GPTQModel, vLLM and SGLang.

Of each layer: `qweight` int32 [K/8, N], code k at bits 4 * (k % 8) of its word; `qzeros` int32 [K/g, N/8], packed along
N; `scales` float16 [K/g, N]; `g_idx` int32 [K], the group of each k. v2 stores the zero point itself, where v1 stored
one less, which has no place for 0. `dynamic` has patterns of paths, of which the first that matches holds: "-:" for
dense layers, "+:" for other group sizes; vLLM and SGLang ask it for the layers that they fuse by their own names.
Format: GPTQModel 5, `checkpoint_format` "gptq_v2", `dynamic_get`; vLLM, `gptq_utils.py`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from workbench.affine import QuantizedWeight
from workbench.checkpoint.contents import Outline
from workbench.checkpoint.native import ModuleFormat
from workbench.targets.group_sizes import fused_sets, regrouped
from workbench.targets.int32_codes import pack_int32, unpack_int32
from workbench.targets.int_family import (
    asymmetric,
    has_experts,
    ignored,
    settings_of,
    stored_scale,
    word_weight,
    words_bytes,
    zero_codes,
)
from workbench.targets.int_target import IntTarget


class Gptq(IntTarget):
    """GPTQ v2."""

    name = "gptq"
    title = "GPTQ v2"
    engines = "GPTQModel, vLLM, SGLang"
    packages = "gptqmodel optimum"
    by_gptqmodel = True
    packs_rows = True

    def scale_dtype(self, outline: Outline) -> torch.dtype:
        """Return the dtype that scales are stored in."""
        return torch.float16

    def mixes_groups(self, outline: Outline) -> bool:
        """Whether each layer has its own group size; the experts of a layer are one to vLLM, and have one."""
        return not has_experts(outline)

    def notes(self, outline: Outline) -> list[str]:
        """Say what a person must know before exporting."""
        shifts = "zero points: a loader that does not know gptq_v2 reads each of them one too high"
        return [*super().notes(outline), *([shifts] if asymmetric(outline) else [])]

    def layer_bytes(self, form: ModuleFormat) -> int:
        """Bytes of one layer's tensors, its bias apart."""
        return words_bytes(form) + 4 * form.in_features

    def encode(self, name: str, weight: QuantizedWeight, outline: Outline) -> dict[str, Tensor]:
        """Return full name → tensor of one layer, as the format stores it."""
        form = outline.int4[name]
        fine = regrouped(weight, form.group_size)
        tensors = {
            "qweight": pack_int32(fine.codes).t(),
            "qzeros": pack_int32(zero_codes(fine).t().contiguous()),
            "scales": stored_scale(name, fine, form).t(),
            "g_idx": torch.arange(fine.shape[1], dtype=torch.int32) // fine.group_size,
        }
        return {f"{name}.{suffix}": tensor for suffix, tensor in tensors.items()}

    def decode(self, name: str, tensors: Mapping[str, Tensor], form: ModuleFormat) -> QuantizedWeight:
        """Return the weight that the format's loader sees."""
        codes = unpack_int32(tensors[f"{name}.qweight"].t(), form.shape[1])
        return word_weight(name, tensors, codes)

    def configured(self, outline: Outline) -> dict[str, Any]:
        """Return config.json."""
        usual, _ = Counter(form.group_size for form in outline.int4.values()).most_common(1)[0]
        settings = {
            "quant_method": "gptq",
            "checkpoint_format": "gptq_v2",
            "bits": 4,
            "group_size": usual,
            "desc_act": False,
            "sym": not asymmetric(outline),
            "lm_head": "lm_head" in outline.int4,
            "pack_dtype": "int32",
            "dynamic": _dynamic(outline, usual),
        }
        return settings_of(outline, settings)


def _dynamic(outline: Outline, usual: int) -> dict[str, dict[str, int]]:
    """Return pattern → settings of what is dense or has another group size, layers that engines fuse included."""
    dense = [path for path in ignored(outline) if path != "lm_head"]
    sizes = {path: form.group_size for path, form in outline.int4.items()}
    sizes |= {path: sizes[parts[0]] for path, parts in fused_sets(list(sizes))}
    dense += [path for path, _ in fused_sets(dense) if path not in sizes]
    other = {path: size for path, size in sizes.items() if size != usual}
    return {f"-:^{re.escape(path)}$": {} for path in dense} | {
        f"+:^{re.escape(path)}$": {"group_size": size} for path, size in other.items()
    }
