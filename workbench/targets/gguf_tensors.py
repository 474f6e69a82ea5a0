"""Where each tensor of a model goes in a GGUF file: names, types, stacked experts, split and permuted rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from workbench.checkpoint.contents import Outline
from workbench.checkpoint.native import ModuleFormat
from workbench.targets.gguf_blocks import paired_rows
from workbench.targets.gguf_file import DENSE_TYPES, F32, Q4_0, Q4_1, TensorInfo, TensorType
from workbench.targets.gguf_metadata import ROPE_TENSOR, rope_tensor
from workbench.targets.gguf_models import TOP, Architecture, Config, kv_heads

_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
_FUSED = re.compile(r"(?:mlp|block_sparse_moe)\.experts\.(gate_up_proj|down_proj)")
_EXPERT = re.compile(r"(?:mlp|block_sparse_moe)\.experts\.(\d+)\.(gate_proj|up_proj|down_proj|w1|w2|w3)")
_MIXTRAL = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
_IGNORED = ("rotary_emb.inv_freq",)  # computed from the configuration
_FULL = ("norm", "ffn_gate_inp")  # llama.cpp wants these in float32
_ROTARY = {"attn_q", "attn_k"}


@dataclass(frozen=True)
class Place:
    """Where rows of a source go.

    Attributes:
        tensor: Name in the file.
        row: First row there.
        part: (index, of) of the rows of each expert of a source that holds several projections, (0, 1) for all.
        experts: Experts that the source stacks, 1 for none.
        heads: Heads whose rows are put in llama.cpp's order, 0 for none.
        shift: What is added to the values of a dense tensor.
    """

    tensor: str
    row: int = 0
    part: tuple[int, int] = (0, 1)
    experts: int = 1
    heads: int = 0
    shift: float = 0.0

    def rows(self, data: Tensor) -> Tensor:
        """Return the rows that go there, in their order, of all rows of the source [R, ...]."""
        index, of = self.part
        if of > 1:
            rest = data.shape[1:]
            data = data.view(self.experts, of, -1, *rest)[:, index].reshape(-1, *rest)
        return data[paired_rows(len(data), self.heads)] if self.heads else data


@dataclass
class Plan:
    """Everything that the file will hold.

    Attributes:
        tensors: Name → what it is.
        places: Source (an int4 module, or a dense tensor's full name) → where its rows go.
        without: Names of sources without a place.
        mixed: Names of stacks whose experts are stored in different ways.
    """

    tensors: dict[str, TensorInfo] = field(default_factory=dict)
    places: dict[str, list[Place]] = field(default_factory=dict)
    without: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)


def plan_tensors(outline: Outline, architecture: Architecture) -> Plan:
    """Give every tensor of a model its place; no value is read."""
    plan = Plan()
    for name, form in outline.int4.items():
        _add(plan, name, form.shape, _int4_type(form), _targets(f"{name}.weight", architecture, outline.config))
    for name, (dtype, shape) in outline.dense.items():
        if not name.endswith(_IGNORED):
            _add(plan, name, shape, DENSE_TYPES.get(dtype), _targets(name, architecture, outline.config))
    if (factors := rope_tensor(outline.config)) is not None:
        plan.tensors[ROPE_TENSOR] = TensorInfo(ROPE_TENSOR, tuple(factors.shape), F32)
    return plan


def missing_tensors(plan: Plan, layers: int) -> list[str]:
    """Return names that the file lacks: every layer has what the first one has."""
    wanted = ["token_embd.weight", "output_norm.weight"]
    first = [name.removeprefix("blk.0.") for name in plan.tensors if name.startswith("blk.0.")]
    wanted += [f"blk.{i}.{name}" for i in range(layers) for name in (first or ["attn_norm.weight"])]
    return [name for name in wanted if name not in plan.tensors]


def dense_bytes(tensor: Tensor, place: Place, kind: TensorType) -> Tensor:
    """Return the rows of a dense tensor as they stand in the file: uint8 [rows, bytes of a row]."""
    flat = tensor.detach().to("cpu")
    flat = flat.reshape(-1, flat.shape[-1]) if flat.ndim > 2 else flat
    rows = place.rows(flat)
    dtype = next(dtype for dtype, one in DENSE_TYPES.items() if one is kind)
    values = (rows.float() + place.shift if place.shift else rows).to(dtype).contiguous()
    return values.view(1, -1).view(torch.uint8) if values.ndim == 1 else values.view(torch.uint8)


def _int4_type(form: ModuleFormat) -> TensorType:
    return Q4_0 if form.domain == "symmetric" else Q4_1


def _targets(full: str, architecture: Architecture, config: Config) -> Iterator[tuple[Place, int]]:
    """Yield (place, experts of the tensor in the file or 0) of a tensor by its full name; none when it has no place."""
    module, _, parameter = full.rpartition(".")
    if full.endswith((".experts.gate_up_proj.weight", ".experts.down_proj.weight")) or parameter not in (
        "weight",
        "bias",
    ):
        module, parameter = full.removesuffix(".weight"), "weight"
    if module in TOP and parameter == "weight":
        yield Place(f"{TOP[module]}.weight", shift=_shift(TOP[module], architecture)), 0
    elif found := _LAYER.fullmatch(module):
        yield from _in_layer(f"blk.{int(found[1])}.", found[2], parameter, architecture, config)


def _in_layer(
    block: str, module: str, parameter: str, architecture: Architecture, config: Config
) -> Iterator[tuple[Place, int]]:
    experts = int(config.get("num_local_experts") or config.get("num_experts") or 0)
    routed = experts if "ffn_gate_inp" in architecture.layer.values() and parameter == "weight" else 0
    if routed and (found := _FUSED.fullmatch(module)):
        stems = ["gate", "up"] if found[1] == "gate_up_proj" else ["down"]
        for index, which in enumerate(stems):
            yield Place(f"{block}ffn_{which}_exps.weight", part=(index, len(stems)), experts=routed), routed
    elif routed and (found := _EXPERT.fullmatch(module)):
        which = _MIXTRAL.get(found[2], found[2]).removesuffix("_proj")
        yield Place(f"{block}ffn_{which}_exps.weight", row=int(found[1])), routed
    elif (stem := architecture.layer.get(module, "")) and (parameter == "weight" or stem in architecture.biases):
        turned = architecture.permuted and stem in _ROTARY
        heads = (config["num_attention_heads"] if stem == "attn_q" else kv_heads(config)) if turned else 0
        yield Place(f"{block}{stem}.{parameter}", heads=heads, shift=_shift(stem, architecture)), 0


def _add(
    plan: Plan,
    source: str,
    shape: tuple[int, ...],
    kind: TensorType | None,
    targets: Iterator[tuple[Place, int]],
) -> None:
    """Enter a source of that shape: [N, K], [E, N, K], [E, 2N, K] or [N]."""
    found = list(targets)
    if not found or kind is None:
        plan.without.append(source)
        return
    for place, experts in found:
        _, of = place.part
        own = (*shape[:-2], shape[-2] // of, shape[-1]) if len(shape) > 1 else shape
        if experts and len(own) == 2:  # one expert of its own
            place, own = replace(place, row=place.row * own[0]), (experts, *own)
        if place.tensor.endswith("ffn_gate_inp_shexp.weight"):
            own = own[-1:]
        full = kind.block == 1 and (len(own) == 1 or any(one in place.tensor for one in _FULL))
        info = TensorInfo(place.tensor, own, F32 if full else kind)
        if plan.tensors.setdefault(place.tensor, info) != info:
            plan.mixed.append(place.tensor)
        plan.places.setdefault(source, []).append(place)


def _shift(stem: str, architecture: Architecture) -> float:
    return architecture.norm_shift if stem.endswith("norm") else 0.0
