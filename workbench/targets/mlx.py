"""MLX: what mlx-lm loads on Apple silicon, and on a CPU.

Of each weight `weight` uint32 [N, K/8], the code of column k in bits 4 (k % 8) of word k / 8, `scales` and `biases`
[N, K/g] in the model's dtype, w = q * scale + bias. Of a stack of E experts one dimension more, and a gate and an up
projection in one become two. Source: mlx.core.dequantize, and mlx_lm/utils.py (`load_model`) of mlx-lm 0.32.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.affine import MID_POINT, QuantizedWeight, group_count
from workbench.checkpoint.contents import Outline
from workbench.checkpoint.native import ModuleFormat
from workbench.errors import CheckpointError
from workbench.shell import quoted
from workbench.targets.folder import FolderTarget, kinds_of
from workbench.targets.mlx_models import SWITCHES, TRIED, dense_name, expert_names, model_type, with_mlx_keys
from workbench.targets.target import LoadLines, Misfit, misfits_by

GROUPS = (128, 64, 32)
_CODES_A_WORD = 8
_KINDS = ("linear", "output_head", "experts")
_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
_SUFFIXES = ("weight", "scales", "biases")


class Mlx(FolderTarget):
    """A folder that `mlx_lm.load` opens."""

    name = "mlx"
    title = "MLX"
    engines = "mlx-lm"

    def misfits(self, outline: Outline) -> list[Misfit]:
        """Say why a model does not fit; [] when it does."""
        return [*_kind_misfits(outline), *_expert_misfits(outline), *_group_misfits(outline)]

    def rounds(self, outline: Outline) -> str:
        """Say what is rounded: w = q * scale + bias has its bias at code 0, far from where the zero point was."""
        dtype = stored_dtype(outline)
        name = str(dtype).removeprefix("torch.")
        if any(not _holds_scale(form, dtype) for form in outline.int4.values()):
            return f"scales and biases to {name}"
        exact = all(_holds_bias(form, dtype) for form in outline.int4.values())
        return "" if exact else f"biases to {name}"

    def notes(self, outline: Outline) -> list[str]:
        """Say which model types were tried."""
        kind = model_type(outline.config)
        return [] if kind in TRIED else [f"exports of model_type {kind!r} were not tried with mlx-lm"]

    def layer_bytes(self, form: ModuleFormat) -> int:
        """Bytes of one layer's tensors, its bias apart, with scales of two bytes."""
        return _layer_bytes(form, torch.bfloat16)

    def size_bytes(self, outline: Outline) -> int:
        """Bytes of all tensors."""
        dtype = stored_dtype(outline)
        return outline.dense_bytes + sum(_layer_bytes(form, dtype) for form in outline.int4.values())

    def encode(self, name: str, weight: QuantizedWeight, outline: Outline) -> dict[str, Tensor]:
        """Return full name → tensor of one layer, as the format stores it."""
        form, dtype = outline.int4[name], stored_dtype(outline)
        scale = weight.scale.to(dtype)
        bias = (weight.zero_in_weight_units() - MID_POINT * scale.float()).to(dtype)
        if not bool(torch.isfinite(scale).all() and torch.isfinite(bias).all()):
            raise CheckpointError(
                f"{name}: a scale or a bias is outside {str(dtype).removeprefix('torch.')}.",
                mend="load the model in bfloat16 or float32, then quantize and export it",
            )
        whole = (weight.packed_codes().view(torch.int32).view(torch.uint32), scale, bias)
        if not form.experts:
            return {f"{name}.{suffix}": tensor for suffix, tensor in zip(_SUFFIXES, whole, strict=True)}
        names = _expert_names(name, outline)
        stacks = (tensor.view(form.experts, len(names), -1, tensor.shape[1]) for tensor in whole)
        return {
            f"{part}.{suffix}": stack[:, place].contiguous()
            for suffix, stack in zip(_SUFFIXES, stacks, strict=True)
            for place, part in enumerate(names)
        }

    def decode(self, name: str, tensors: Mapping[str, Tensor], form: ModuleFormat) -> QuantizedWeight:
        """Return the weight that the loader sees, as codes and the value of code 8, in float32."""
        parts = [key.removesuffix(".weight") for key in tensors if key.endswith(".weight")]
        packed, scale, bias = (
            torch.stack([tensors[f"{part}.{suffix}"].view(max(1, form.experts), -1, width) for part in parts], 1)
            .flatten(0, 2)
            .contiguous()
            for suffix, width in zip(_SUFFIXES, _widths(form), strict=True)
        )
        zero = bias.float() + MID_POINT * scale.float()
        codes = packed.view(torch.int32).view(torch.uint8)
        settings: dict[str, Any] = {"in_features": form.in_features, "group_size": form.group_size, "domain": "float"}
        return QuantizedWeight.from_packed(codes, scale.float(), zero, **settings)

    def encode_dense(self, name: str, tensor: Tensor, outline: Outline) -> dict[str, Tensor]:
        """Return full name → tensor of what stays dense; stacks of experts are cut as the int4 ones are."""
        kind = model_type(outline.config)
        if tensor.ndim == 3 and (names := expert_names(kind, name)):
            pieces = zip(names, tensor.chunk(len(names), 1), strict=True)
            return {f"{part}.weight": piece.contiguous() for part, piece in pieces}
        return {dense_name(kind, name): tensor}

    def configured(self, outline: Outline) -> dict[str, Any]:
        """Return config.json: settings of layers that differ from the most, and false for those that stay dense."""
        usual = Counter(form.group_size for form in outline.int4.values()).most_common(1)[0][0]
        settings: dict[str, Any] = {"group_size": usual, "bits": 4, "mode": "affine"}
        for name, form in outline.int4.items():
            if form.group_size != usual:
                own = {"group_size": form.group_size, "bits": 4, "mode": "affine"}
                settings.update(dict.fromkeys(_expert_names(name, outline) if form.experts else (name,), own))
        for name in outline.dense_layers:
            names = expert_names(model_type(outline.config), name) or (name,)
            settings.update(dict.fromkeys(names, False))
        config = {key: value for key, value in outline.config.items() if key != "_name_or_path"}
        return {**with_mlx_keys(config), "quantization": settings, "quantization_config": settings}

    def load_lines(self, directory: Path, outline: Outline) -> LoadLines:
        """Return the lines that load a folder that was written."""
        python = f"from mlx_lm import load\n\nmodel, tokenizer = load({str(directory)!r})"
        return LoadLines(
            python, f"pip install mlx-lm\nmlx_lm.generate --model {quoted(str(directory))} --prompt 'Hello'"
        )


def stored_dtype(outline: Outline) -> torch.dtype:
    """Return the dtype that most of the dense values have: another one for scales would make mlx compute in float32."""
    found: Counter[torch.dtype] = Counter()
    for dtype, shape in outline.dense.values():
        if dtype in _DTYPES:
            found[dtype] += torch.Size(shape).numel()
    return found.most_common(1)[0][0] if found else torch.bfloat16


def _layer_bytes(form: ModuleFormat, dtype: torch.dtype) -> int:
    words, *groups = _widths(form)
    return form.out_features * max(1, form.experts) * (4 * words + dtype.itemsize * sum(groups))


def _holds_scale(form: ModuleFormat, dtype: torch.dtype) -> bool:
    return dtype in (torch.float32, getattr(torch, form.scale_dtype))


def _holds_bias(form: ModuleFormat, dtype: torch.dtype) -> bool:
    """Whether the value of code 0 is exact: -8 scales always, -zp scales where 4 more bits have a place."""
    if form.domain == "int":
        return dtype == torch.float32 and form.scale_dtype == "bfloat16"
    return form.domain == "symmetric"


def _kind_misfits(outline: Outline) -> list[Misfit]:
    found: dict[str, list[str]] = {}
    for name, kind in kinds_of(outline).items():
        if kind not in _KINDS:
            found.setdefault(kind, []).append(name)
    return [
        Misfit(f"int4 weights of kind {kind}", ", ".join(_KINDS), "leave these layers dense", tuple(names))
        for kind, names in found.items()
    ]


def _expert_misfits(outline: Outline) -> list[Misfit]:
    """Refuse stacks of experts that mlx-lm has under names that are not known here, dense ones too."""
    kind = model_type(outline.config)
    stacks = [name for name, form in outline.int4.items() if form.experts]
    stacks += [name for name, (_, shape) in outline.dense.items() if len(shape) == 3 and ".experts." in name]
    lost = tuple(name for name in stacks if expert_names(kind, name) is None)
    what = f"experts of model_type {kind!r}"
    return [Misfit(what, f"those of {', '.join(SWITCHES)}", "choose another format", lost)] if lost else []


def _group_misfits(outline: Outline) -> list[Misfit]:
    """Refuse groups of 256 and short last groups, and offer the largest group that divides K."""
    found: list[Misfit] = []
    for size in GROUPS:
        layers = {name: form for name, form in outline.int4.items() if _best_group(form) == size}
        found += misfits_by(
            layers,
            _does_not_fit,
            _misfit_group,
            allowed="128, 64, 32, where it divides in_features",
            mend=f"quantize these layers again with group_size={size} (--group-size {size})",
            change={"group_size": size},
        )
    odd = {name: form for name, form in outline.int4.items() if not _best_group(form)}
    allowed = "a multiple of 32"
    return found + misfits_by(odd, lambda _: True, _misfit_width, allowed=allowed, mend="leave these layers dense")


def _best_group(form: ModuleFormat) -> int:
    """The largest group size that MLX has and that divides K; 0 for none."""
    return next((size for size in GROUPS if form.in_features % size == 0), 0)


def _does_not_fit(form: ModuleFormat) -> bool:
    return form.group_size not in GROUPS or form.in_features % form.group_size != 0


def _misfit_group(form: ModuleFormat) -> str:
    if form.group_size not in GROUPS:
        return f"group_size {form.group_size}"
    return f"group_size {form.group_size} with in_features {form.in_features}"


def _misfit_width(form: ModuleFormat) -> str:
    return f"in_features {form.in_features}"


def _expert_names(name: str, outline: Outline) -> tuple[str, ...]:
    names = expert_names(model_type(outline.config), name)
    assert names is not None  # `misfits` refused the others
    return names


def _widths(form: ModuleFormat) -> tuple[int, int, int]:
    groups = group_count(form.in_features, form.group_size)
    return form.in_features // _CODES_A_WORD, groups, groups
