"""What stands in a native checkpoint: the `quantization_config` of config.json and the tensors of each module.

Codes are `<m>.weight` uint8 [N, ceil(K/2)] (even k in the low nibble), `<m>.weight_scale` [N, ceil(K/g)] and, by
domain, `<m>.weight_zero` like the scale or `<m>.weight_zp` uint8 [N, ceil(K/g)]. Of a stack of E experts, N is E times
that of one, and their rows follow each other. No device layout is ever stored.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from workbench.affine import QuantizedWeight, group_count
from workbench.config import DOMAINS, GROUP_SIZES, Domain, ResolvedConfig
from workbench.errors import CheckpointError
from workbench.experts import Int4Experts
from workbench.kinds import QUANTIZABLE_KINDS
from workbench.layers import Int4Layer, layer_records
from workbench.linear import Int4Linear
from workbench.portable import portable_names
from workbench.recipe.recipe import Recipe

QUANT_METHOD = "int4_workbench"
FORMAT_VERSION = "1.0"
CODE_LAYOUT = "row_major_even_k_low_nibble"
PRODUCER = "int4-workbench 0.1.0"
_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
_MAX_SIDE = 2**31 - 1
_LONGEST_FORM = 64


@dataclass(frozen=True)
class ModuleFormat:
    """How one module's weight is stored.

    Attributes:
        out_features: N.
        in_features: K, before any padding.
        group_size: Weights per group along K.
        domain: Where the zero point lives.
        scale_dtype: "bfloat16" or "float32".
        solved_by: The form of the solver that found it, for instance "refined/1"; "" where nobody knows.
        experts: E of a stack of experts, whose tensors hold the rows of one expert after those of another; else 0.
    """

    out_features: int
    in_features: int
    group_size: int
    domain: Domain
    scale_dtype: str
    solved_by: str = ""
    experts: int = 0

    @classmethod
    def of(cls, weight: QuantizedWeight | Int4Layer, experts: int = 0) -> ModuleFormat:
        """Describe a quantized weight (that of `experts` experts, stacked), or that of a layer."""
        if isinstance(weight, QuantizedWeight):
            scale, (rows, k) = weight.scale.dtype, weight.shape
            n = rows // max(1, experts)
        else:
            scale = torch.bfloat16 if weight.stored_scale is None else weight.stored_scale.dtype
            n, k = weight.out_features, weight.in_features
            experts = weight.num_experts if isinstance(weight, Int4Experts) else 0
        dtype = str(scale).removeprefix("torch.")
        return cls(n, k, weight.group_size, weight.domain, dtype, weight.solved_by, experts)

    @classmethod
    def planned(cls, shape: Sequence[int], config: ResolvedConfig) -> ModuleFormat:
        """Describe a weight [N, K] or [E, N, K] that is yet to be solved."""
        *experts, n, k = shape
        dtype = str(config.scale_dtype).removeprefix("torch.")
        return cls(n, k, config.group_size, config.domain, dtype, config.form, *experts)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight that it stands for: [N, K], or [E, N, K]."""
        shape = (self.out_features, self.in_features)
        return (self.experts, *shape) if self.experts else shape

    @property
    def size_bytes(self) -> int:
        """Bytes of the module's tensors on disk, its bias apart."""
        return sum(dtype.itemsize * math.prod(shape) for dtype, shape in self.tensors().values())

    def tensors(self) -> dict[str, tuple[torch.dtype, tuple[int, int]]]:
        """Return name → (dtype, shape) of each tensor of the module on disk."""
        rows = self.out_features * max(1, self.experts)
        groups = (rows, group_count(self.in_features, self.group_size))
        scale = _DTYPES[self.scale_dtype]
        codes = (torch.uint8, (rows, (self.in_features + 1) // 2))
        zero = (torch.uint8 if self.domain == "int" else scale, groups)
        return dict(zip(portable_names(self.domain), (codes, (scale, groups), zero), strict=False))


def describe(modules: Mapping[str, ModuleFormat], dense: Sequence[str], recipe: Recipe | None) -> dict[str, Any]:
    """Return the `quantization_config` of a model.

    Args:
        modules: Module path → how its weight is stored.
        dense: Module paths of linear layers that are not quantized.
        recipe: What the user asked for, kept for reference.
    """
    common = Counter((m.group_size, m.domain, m.scale_dtype, m.solved_by) for m in modules.values()).most_common(1)
    usual = common[0][0] if common else (128, "float", "bfloat16", "")
    keys = ("group_size", "zero_point_domain", "scale_dtype", "solved_by")
    common_values: dict[str, Any] = dict(zip(keys, usual, strict=True))
    described: dict[str, Any] = {}
    for name, module in modules.items():
        own = (module.group_size, module.domain, module.scale_dtype, module.solved_by)
        overrides = {key: value for key, value, other in zip(keys, own, usual, strict=True) if value != other}
        described[name] = {"shape": list(module.shape), **overrides}
    return {
        "quant_method": QUANT_METHOD,
        "format_version": FORMAT_VERSION,
        "bits": 4,
        "code_layout": CODE_LAYOUT,
        **common_values,
        "modules": described,
        "modules_to_not_convert": list(dense),
        "producer": PRODUCER,
        "recipe": None if recipe is None else recipe.to_json(),
    }


def int4_layers(model: nn.Module) -> dict[str, Int4Layer]:
    """Return the int4 layers of a model, stacks of experts included, by their names."""
    named = model.named_modules(remove_duplicate=False)
    return {name: module for name, module in named if isinstance(module, Int4Linear | Int4Experts)}


def describe_model(model: nn.Module, recipe: Recipe | None) -> dict[str, Any]:
    """Return the `quantization_config` of a model as it is now."""
    formats = {name: ModuleFormat.of(layer) for name, layer in int4_layers(model).items()}
    dense = [record.name for record in layer_records(model) if record.kind in QUANTIZABLE_KINDS]
    return describe(formats, dense, recipe)


def parse(config: Mapping[str, Any]) -> dict[str, ModuleFormat]:
    """Read a `quantization_config`: module path → how its weight is stored. Unknown keys are ignored.

    Raises:
        CheckpointError: for another method, an unknown major version or code layout, or values out of range.
    """
    if (found := config.get("quant_method")) != QUANT_METHOD:
        why = "nothing says that it is quantized" if found is None else f"its quant_method is {found!r}"
        raise CheckpointError(
            f"This is no int4 checkpoint of the workbench: {why}.",
            allowed=repr(QUANT_METHOD),
            mend="name a folder that workbench quantize or wb.save_checkpoint made",
        )
    check_version("checkpoint", config.get("format_version"), FORMAT_VERSION)
    if config.get("code_layout") != CODE_LAYOUT or config.get("bits") != 4:
        raise CheckpointError(
            f"The checkpoint has code_layout {config.get('code_layout')!r} with {config.get('bits')!r} bits.",
            allowed=f"{CODE_LAYOUT!r} with 4 bits",
            mend="update int4-workbench, or export the checkpoint again",
        )
    modules = config.get("modules")
    if not isinstance(modules, Mapping):
        raise CheckpointError("The quantization_config lists no modules.", mend="the file is damaged")
    return {str(name): _module(str(name), {**config, **_as_mapping(name, own)}) for name, own in modules.items()}


def check_version(file: str, found: object, ours: str) -> None:
    """Refuse a file of another major version.

    Args:
        file: What it is.
        found: The version that it says.
        ours: The version that is written here.

    Raises:
        CheckpointError: when the first numbers differ, or the file says no version.
    """
    major = ours.split(".")[0]
    if not isinstance(found, str) or found.split(".")[0] != major:
        raise CheckpointError(
            f"The {file} has format_version {found!r}.", allowed=f"{major}.x", mend="update int4-workbench"
        )


def _module(name: str, settings: Mapping[str, Any]) -> ModuleFormat:
    shape, group_size = settings.get("shape"), settings.get("group_size")
    domain, scale_dtype = settings.get("zero_point_domain"), settings.get("scale_dtype")
    good_shape = (
        isinstance(shape, list | tuple)
        and len(shape) in (2, 3)
        and all(type(s) is int and 0 < s < _MAX_SIDE for s in shape)
        and math.prod(shape[:-1]) < _MAX_SIDE
    )
    if not good_shape:
        raise CheckpointError(
            f"{name}: shape {shape!r}.", allowed="[out_features, in_features] or [experts, out_features, in_features]"
        )
    if type(group_size) is not int or group_size not in GROUP_SIZES:
        raise CheckpointError(f"{name}: group_size {group_size!r}.", allowed="256, 128, 64 or 32")
    if domain not in DOMAINS:
        raise CheckpointError(f"{name}: zero_point_domain {domain!r}.", allowed=", ".join(DOMAINS))
    if not isinstance(scale_dtype, str) or scale_dtype not in _DTYPES:
        raise CheckpointError(f"{name}: scale_dtype {scale_dtype!r}.", allowed=", ".join(_DTYPES))
    solved_by = settings.get("solved_by", "")
    if not isinstance(solved_by, str) or len(solved_by) > _LONGEST_FORM:
        raise CheckpointError(f"{name}: solved_by {solved_by!r}.", allowed="the form of a solver, such as 'refined/1'")
    *experts, n, k = cast(Sequence[int], shape)
    return ModuleFormat(n, k, group_size, domain, scale_dtype, solved_by, *experts)


def _as_mapping(name: object, own: object) -> Mapping[str, Any]:
    if not isinstance(own, Mapping):
        raise CheckpointError(f"{name}: settings {own!r}.", allowed="a JSON object")
    return own
