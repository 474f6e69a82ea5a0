"""AWQ folders (GEMM layout), for vLLM, SGLang and GPTQModel.

Of each layer: `qweight` int32 [K, N/8] and `qzeros` int32 [K/g, N/8], packed along N with the codes of eight rows in
the order 0, 2, 4, 6, 1, 3, 5, 7; `scales` float16 [K/g, N]. Format: AutoAWQ, version "gemm".
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
from workbench.targets.folder import FolderTarget
from workbench.targets.int32_codes import pack_int32, unpack_int32
from workbench.targets.int_family import (
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

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


class Awq(FolderTarget):
    """AWQ, GEMM layout."""

    name = "awq"
    title = "AWQ"
    engines = "vLLM, SGLang, GPTQModel"

    def misfits(self, outline: Outline) -> list[Misfit]:
        """Say why a model does not fit; [] when it does."""
        found = family_misfits(outline, ("int", "symmetric"), ("int", "symmetric")) + row_misfits(outline)
        return [*found, *_names_within(outline)]

    def rounds(self, outline: Outline) -> str:
        """Say what is rounded, "" for nothing."""
        return rounded_scales(outline, torch.float16)

    def notes(self, outline: Outline) -> list[str]:
        """Say what a person must know before exporting."""
        return family_notes(outline)

    def layer_bytes(self, form: ModuleFormat) -> int:
        """Bytes of one layer's tensors, its bias apart."""
        return words_bytes(form, form.group_size)

    def size_bytes(self, outline: Outline) -> int:
        """Bytes of all tensors."""
        group_size = common_group_size(outline)
        return outline.dense_bytes + sum(words_bytes(form, group_size) for form in outline.int4.values())

    def encode(self, name: str, weight: QuantizedWeight, outline: Outline) -> dict[str, Tensor]:
        """Return full name → tensor of one layer, as the format stores it."""
        fine = regrouped(weight, common_group_size(outline))
        return {
            f"{name}.qweight": pack_int32(fine.codes.t().contiguous(), ORDER),
            f"{name}.qzeros": pack_int32(zero_codes(fine).t().contiguous(), ORDER),
            f"{name}.scales": stored_scale(name, fine, torch.float16).t(),
        }

    def decode(self, name: str, tensors: Mapping[str, Tensor], form: ModuleFormat) -> QuantizedWeight:
        """Return the weight that the format's loader sees."""
        n, k = form.shape
        scale = tensors[f"{name}.scales"].t().float()
        codes = unpack_int32(tensors[f"{name}.qweight"], n, ORDER).t().contiguous()
        zero = unpack_int32(tensors[f"{name}.qzeros"], n, ORDER).t().contiguous()
        return QuantizedWeight(codes, scale, zero, k // scale.shape[1], "int")

    def configured(self, outline: Outline) -> dict[str, Any]:
        """Return config.json."""
        settings = {
            "quant_method": "awq",
            "version": "gemm",
            "bits": 4,
            "group_size": common_group_size(outline),
            "zero_point": True,
            "modules_to_not_convert": ignored(outline),
        }
        return settings_of(outline, settings)

    def load_lines(self, directory: Path, outline: Outline) -> LoadLines:
        """Return the lines that load a folder that was written."""
        return family_lines(directory, outline)


def _names_within(outline: Outline) -> list[Misfit]:
    """Refuse a dense layer whose path stands within that of an int4 one: loaders take both for dense."""
    found = []
    for path in ignored(outline):
        within = tuple(name for name in outline.int4 if path in name)
        if within:
            allowed = "dense layers whose paths are part of no int4 layer's"
            found.append(Misfit(f"{path} dense", allowed, "leave these layers dense too", within))
    return found
