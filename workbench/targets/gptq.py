"""GPTQ v2 folders, for GPTQModel, vLLM and SGLang.

Of each layer: `qweight` int32 [K/8, N], code k at bits 4 * (k % 8) of its word; `qzeros` int32 [K/g, N/8], packed along
N; `scales` float16 [K/g, N]; `g_idx` int32 [K], the group of each k. v2 stores the zero point itself, where v1 stored
one less, which has no place for 0. Format: GPTQModel, `checkpoint_format` "gptq_v2".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.affine import QuantizedWeight
from workbench.checkpoint.contents import Outline
from workbench.checkpoint.native import ModuleFormat
from workbench.targets.folder import FolderTarget
from workbench.targets.int32_codes import pack_int32, unpack_int32
from workbench.targets.int_family import (
    asymmetric,
    common_group_size,
    family_lines,
    family_misfits,
    family_notes,
    ignored,
    regrouped,
    rounded_scales,
    row_misfits,
    settings_of,
    stored_scale,
    words_bytes,
    zero_codes,
)
from workbench.targets.target import LoadLines, Misfit


class Gptq(FolderTarget):
    """GPTQ v2."""

    name = "gptq"
    title = "GPTQ v2"
    engines = "GPTQModel, vLLM, SGLang"

    def misfits(self, outline: Outline) -> list[Misfit]:
        """Say why a model does not fit; [] when it does."""
        return family_misfits(outline, ("int", "symmetric"), ("symmetric",)) + row_misfits(outline)

    def rounds(self, outline: Outline) -> str:
        """Say what is rounded, "" for nothing."""
        return rounded_scales(outline, torch.float16)

    def notes(self, outline: Outline) -> list[str]:
        """Say what a person must know before exporting."""
        notes = family_notes(outline)
        if asymmetric(outline):
            notes.append("zero points: a loader that does not know gptq_v2 reads each of them one too high")
        return notes

    def layer_bytes(self, form: ModuleFormat) -> int:
        """Bytes of one layer's tensors, its bias apart."""
        return words_bytes(form, form.group_size) + 4 * form.in_features

    def size_bytes(self, outline: Outline) -> int:
        """Bytes of all tensors."""
        group_size = common_group_size(outline)
        layers = (words_bytes(form, group_size) + 4 * form.in_features for form in outline.int4.values())
        return outline.dense_bytes + sum(layers)

    def encode(self, name: str, weight: QuantizedWeight, outline: Outline) -> dict[str, Tensor]:
        """Return full name → tensor of one layer, as the format stores it."""
        fine = regrouped(weight, common_group_size(outline))
        tensors = {
            "qweight": pack_int32(fine.codes).t(),
            "qzeros": pack_int32(zero_codes(fine).t().contiguous()),
            "scales": stored_scale(name, fine, torch.float16).t(),
            "g_idx": torch.arange(fine.shape[1], dtype=torch.int32) // fine.group_size,
        }
        return {f"{name}.{suffix}": tensor for suffix, tensor in tensors.items()}

    def decode(self, name: str, tensors: Mapping[str, Tensor], form: ModuleFormat) -> QuantizedWeight:
        """Return the weight that the format's loader sees."""
        n, k = form.shape
        scale = tensors[f"{name}.scales"].t().float()
        codes = unpack_int32(tensors[f"{name}.qweight"].t(), k)
        zero = unpack_int32(tensors[f"{name}.qzeros"], n).t().contiguous()
        return QuantizedWeight(codes, scale, zero, k // scale.shape[1], "int")

    def configured(self, outline: Outline) -> dict[str, Any]:
        """Return config.json."""
        settings = {
            "quant_method": "gptq",
            "checkpoint_format": "gptq_v2",
            "bits": 4,
            "group_size": common_group_size(outline),
            "desc_act": False,
            "sym": not asymmetric(outline),
            "lm_head": "lm_head" in outline.int4,
            "pack_dtype": "int32",
            "dynamic": {f"-:^{re.escape(path)}$": {} for path in ignored(outline) if path != "lm_head"},
        }
        return settings_of(outline, settings)

    def load_lines(self, directory: Path, outline: Outline) -> LoadLines:
        """Return the lines that load a folder that was written."""
        return family_lines(directory, outline)
