"""torchao's tile-packed int4: what transformers with torchao 0.18 loads and runs with tinygemm on an NVIDIA GPU.

Of each weight, of N padded to Np, a multiple of 8, and K padded to Kp, one of 1024, as torchao pads the activations:
`_weight_qdata` int32 [Np/8, Kp/128, 32, 4] and `_weight_scale_and_zero` bfloat16 [Kp/g, Np, 2], w = (q - 8) * scale +
zero. The header of every shard says of which class each parameter of the model is. Sources: torchao 0.18,
Int4TilePackedTo4dTensor and prototype/safetensors; transformers 5.23, quantizers/quantizer_torchao.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from workbench.affine import MID_POINT, QuantizedWeight, group_count
from workbench.checkpoint.card import loading_class
from workbench.checkpoint.contents import Outline
from workbench.checkpoint.native import ModuleFormat
from workbench.errors import CheckpointError
from workbench.layout import Layout
from workbench.packing import pack, unpack
from workbench.sizes import size
from workbench.targets.folder import FolderTarget, kinds_of
from workbench.targets.target import LoadLines, Misfit

LAYOUT = Layout("cuda", inner_k_tiles=8)  # the only one that torchao's class has
_N_MULTIPLE, _K_MULTIPLE = 8, 1024
_CLASS = "Int4TilePackedTo4dTensor"
_DATA = ("qdata", "scale_and_zero")
_KINDS = ("linear", "output_head")


class Torchao(FolderTarget):
    """A folder that transformers loads through torchao."""

    name = "torchao"
    title = "torchao, tile-packed"
    engines = "transformers and torchao on CUDA"

    def misfits(self, outline: Outline) -> list[Misfit]:
        """Say why a model does not fit; [] when it does."""
        found: dict[str, list[str]] = {}
        for name, kind in kinds_of(outline).items():
            if kind not in _KINDS:
                found.setdefault(kind, []).append(name)
        return [
            Misfit(f"int4 weights of kind {kind}", " or ".join(_KINDS), "leave these layers dense", tuple(names))
            for kind, names in found.items()
        ]

    def rounds(self, outline: Outline) -> str:
        """Say what is rounded, in how many layers, and how much at most: everything becomes bfloat16.

        Of an int layer that is (8 - zp) * scale. With a bfloat16 scale it is exact where 8 - zp is 0 or a power of two,
        else off by 4 of 148 at most, which 7 times a significand of 148 is. A float32 scale may be off by 1/256 of
        itself, which counts up to 15 times.
        """
        forms = list(outline.int4.values())
        wide = [form for form in forms if form.scale_dtype != "bfloat16"]
        odd = [form for form in forms if form.domain == "int" and form not in wide]
        if not wide and not odd:
            return ""
        what = "scales and zero points" if wide else "zero points"
        where = "" if len(wide) + len(odd) == len(forms) else f" of {len(wide) + len(odd)} layers of {len(forms)}"
        most = "1/17" if wide else "1/37"
        bound = "" if any(form.domain == "float" for form in wide) else f" (by at most {most} of a scale)"
        return f"{what}{where} to bfloat16{bound}"

    def notes(self, outline: Outline) -> list[str]:
        """Say what the loader needs, and what its padding costs."""
        notes = ["runs on NVIDIA GPUs of compute capability 8.0 or more, in bfloat16"]
        forms = outline.int4.values()
        if more := sum(self.layer_bytes(form) - _bytes(form, (form.out_features, form.in_features)) for form in forms):
            notes.append(f"torchao pads in_features to multiples of {_K_MULTIPLE}: {size(more)} more")
        return notes

    def layer_bytes(self, form: ModuleFormat) -> int:
        """Bytes of one layer's tensors, its bias apart."""
        return _bytes(form, padded(form))

    def encode(self, name: str, weight: QuantizedWeight, outline: Outline) -> dict[str, Tensor]:
        """Return full name → tensor of one layer, as the format stores it."""
        (n, k), (rows, columns) = weight.shape, padded(ModuleFormat.of(weight))
        codes = functional.pad(weight.codes, (0, columns - k, 0, rows - n), value=MID_POINT)
        pairs = torch.stack((weight.scale.float(), weight.zero_in_weight_units()), -1).to(torch.bfloat16)
        if not bool(torch.isfinite(pairs).all()):
            raise CheckpointError(f"{name}: a scale or a zero point is outside bfloat16.", mend="quantize it again")
        groups = columns // weight.group_size
        pairs = functional.pad(pairs, (0, 0, 0, groups - pairs.shape[1], 0, rows - n))
        values = (pack(codes, LAYOUT), pairs.transpose(0, 1).contiguous())
        return {f"{name}._weight_{data}": tensor for data, tensor in zip(_DATA, values, strict=True)}

    def decode(self, name: str, tensors: Mapping[str, Tensor], form: ModuleFormat) -> QuantizedWeight:
        """Return the weight that the loader sees: codes, scales and zeros without the padding."""
        qdata, pairs = (tensors[f"{name}._weight_{data}"] for data in _DATA)
        n, k = form.out_features, form.in_features
        codes = unpack(qdata, LAYOUT, *padded(form))[:n, :k].contiguous()
        groups = group_count(k, form.group_size)
        scale, zero = pairs[:groups, :n].transpose(0, 1).contiguous().unbind(-1)
        return QuantizedWeight(codes, scale.contiguous(), zero.contiguous(), form.group_size, "float")

    def metadata(self, names: list[str], outline: Outline) -> dict[str, str]:
        """Return the header metadata of any shard: the class of each parameter of the whole model."""
        said = {name: json.dumps({"_type": "Tensor"}) for name in outline.dense if "." in name}
        for name, form in outline.int4.items():
            data = {"block_size": [1, form.group_size], "shape": list(form.shape)}
            said[f"{name}.weight"] = json.dumps({"_type": _CLASS, "_data": data, "_tensor_data_names": list(_DATA)})
        return {"format": "pt", "tensor_names": json.dumps(list(said)), **said}

    def configured(self, outline: Outline) -> dict[str, Any]:
        """Return config.json: one configuration for all int4 layers, or one for each where their groups differ."""
        sizes = {form.group_size for form in outline.int4.values()}
        if len(sizes) == 1:
            default = _layer_config(sizes.pop())
        else:
            own = {name: _layer_config(form.group_size) for name, form in outline.int4.items()}
            default = {"_type": "FqnToConfig", "_version": 1, "_data": {"fqn_to_config": own}}
        settings = {
            "quant_method": "torchao",
            "quant_type": {"default": default},
            "modules_to_not_convert": list(outline.dense_layers),
        }
        return {**outline.config, "quantization_config": settings}

    def load_lines(self, directory: Path, outline: Outline) -> LoadLines:
        """Return the lines that load a folder that was written."""
        called = loading_class(outline.config)
        lines = (
            f"from transformers import {called}, AutoTokenizer\n",
            f'model = {called}.from_pretrained({str(directory)!r}, dtype="bfloat16", device_map="cuda")',
            f"tokenizer = AutoTokenizer.from_pretrained({str(directory)!r})",
        )
        return LoadLines("\n".join(lines), "pip install transformers accelerate torchao==0.18.0")


def padded(form: ModuleFormat) -> tuple[int, int]:
    """Return [Np, Kp] of a weight."""
    n, k = form.out_features, form.in_features
    return -(-n // _N_MULTIPLE) * _N_MULTIPLE, -(-k // _K_MULTIPLE) * _K_MULTIPLE


def _bytes(form: ModuleFormat, shape: tuple[int, int]) -> int:
    n, k = shape
    return n * k // 2 + 4 * n * group_count(k, form.group_size)


def _layer_config(group_size: int) -> dict[str, Any]:
    """Return an `Int4WeightOnlyConfig` of torchao as its `config_to_dict` writes it."""
    packing = {"_type": "Int4PackingFormat", "_data": "TILE_PACKED_TO_4D"}
    data = {"group_size": group_size, "set_inductor_config": False, "int4_packing_format": packing}
    return {"_type": "Int4WeightOnlyConfig", "_version": 2, "_data": data}
