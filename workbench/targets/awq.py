"""AWQ folders (GEMM layout), for vLLM, SGLang and GPTQModel.

Of each layer: `qweight` int32 [K, N/8] and `qzeros` int32 [K/g, N/8], packed along N with the codes of eight rows in
the order 0, 2, 4, 6, 1, 3, 5, 7; `scales` float16 [K/g, N]. Format: AutoAWQ, version "gemm".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from workbench.affine import QuantizedWeight
from workbench.checkpoint.contents import Outline
from workbench.checkpoint.native import ModuleFormat
from workbench.targets.group_sizes import common_group_size, regrouped
from workbench.targets.int32_codes import pack_int32, unpack_int32
from workbench.targets.int_family import (
    ignored,
    settings_of,
    stored_scale,
    word_weight,
    words_bytes,
    zero_codes,
)
from workbench.targets.int_target import IntTarget
from workbench.targets.stored_names import layer_pieces, stored_outline
from workbench.targets.target import Misfit

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


class Awq(IntTarget):
    """AWQ, GEMM layout."""

    name = "awq"
    title = "AWQ"
    engines = "vLLM, SGLang, GPTQModel"
    packages = "gptqmodel"
    by_gptqmodel = True
    expert_domains = ("int", "symmetric")
    packs_rows = True

    def scale_dtype(self, outline: Outline) -> torch.dtype:
        """Return the dtype that scales are stored in."""
        return torch.float16

    def misfits(self, outline: Outline) -> list[Misfit]:
        """Say why a model does not fit; [] when it does."""
        return super().misfits(outline) + _names_within(outline)

    def layer_bytes(self, form: ModuleFormat) -> int:
        """Bytes of one layer's tensors, its bias apart."""
        return words_bytes(form)

    def encode(self, name: str, weight: QuantizedWeight, outline: Outline) -> dict[str, Tensor]:
        """Return full name → tensor of one layer, as the format stores it."""
        form = outline.int4[name]
        fine = regrouped(weight, form.group_size)
        return {
            f"{name}.qweight": pack_int32(fine.codes.t().contiguous(), ORDER),
            f"{name}.qzeros": pack_int32(zero_codes(fine).t().contiguous(), ORDER),
            f"{name}.scales": stored_scale(name, fine, form).t(),
        }

    def decode(self, name: str, tensors: Mapping[str, Tensor], form: ModuleFormat) -> QuantizedWeight:
        """Return the weight that the format's loader sees."""
        codes = unpack_int32(tensors[f"{name}.qweight"], form.shape[0], ORDER).t().contiguous()
        return word_weight(name, tensors, codes, ORDER)

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


def _names_within(outline: Outline) -> list[Misfit]:
    """Refuse a dense layer whose path stands within that of an int4 one: loaders take both for dense."""
    found = []
    for path in ignored(stored_outline(outline)):
        within = tuple(name for name in outline.int4 if any(path in own for own, _ in layer_pieces(outline, name)))
        if within:
            allowed = "dense layers whose paths are part of no int4 layer's"
            found.append(Misfit(f"{path} dense", allowed, "leave these layers dense too", within))
    return found
