"""llama.cpp's names of tensors, back under the names that transformers gives its modules."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workbench.errors import CheckpointError
from workbench.foreign.gguf_reader import Stored
from workbench.targets.gguf_metadata import ROPE_TENSOR
from workbench.targets.gguf_models import ARCHITECTURES, TOP, Architecture, head_dim, kv_heads

_BLOCK = re.compile(r"blk\.(\d+)\.([a-z_]+)\.(weight|bias)")
_EXPERTS = {"ffn_gate_exps": "gate_up_proj", "ffn_up_exps": "gate_up_proj", "ffn_down_exps": "down_proj"}
_DERIVED = (ROPE_TENSOR,)  # told by the configuration


@dataclass(frozen=True)
class Source:
    """A tensor or a weight of the model, and what in the file it is made of.

    Attributes:
        stored: Tensors of the file: one, or the gates and ups of experts.
        heads: Heads whose rows lie in llama.cpp's order, 0 for none.
        shift: What llama.cpp has added to the values.
        shape: Shape in the model.
    """

    stored: tuple[Stored, ...]
    heads: int
    shift: float
    shape: tuple[int, ...]


def sources_of(tensors: Mapping[str, Stored], config: Mapping[str, Any]) -> dict[str, Source]:
    """Return full name in the model → what it is made of. A stack of experts has no ".weight" at its end.

    Raises:
        CheckpointError: when a tensor has no place in the model, or another shape than the model's.
    """
    architecture = ARCHITECTURES[config["model_type"]]
    found: dict[str, Source] = {}
    for name, stored in tensors.items():
        if name in _DERIVED:
            continue
        full, heads, shift = _named(name, architecture, config)
        if full.endswith("gate_up_proj"):
            found[full] = _both(tensors, name, full)
        elif full not in found:
            shape = (1, *stored.shape) if full.endswith("shared_expert_gate.weight") else stored.shape
            found[full] = Source((stored,), heads, shift, shape)
    _check_shapes(found, architecture, config)
    return found


def biases_of(tensors: Mapping[str, Stored]) -> set[str]:
    """Return llama.cpp's names of the tensors of a layer that have a bias."""
    matches = (_BLOCK.fullmatch(name) for name in tensors)
    return {one[2] for one in matches if one and one[3] == "bias"}


def _named(name: str, architecture: Architecture, config: Mapping[str, Any]) -> tuple[str, int, float]:
    """Return (full name, heads, shift) of a tensor."""
    for own, stem in TOP.items():
        if name == f"{stem}.weight":
            return f"{own}.weight", 0, _shift(stem, architecture)
    found = _BLOCK.fullmatch(name)
    if found and int(found[1]) < config["num_hidden_layers"]:
        prefix, stem, parameter = f"model.layers.{int(found[1])}.", found[2], found[3]
        modules = [own for own, other in architecture.layer.items() if other == stem and "block_sparse" not in own]
        if modules:
            turned = architecture.permuted and stem in ("attn_q", "attn_k")
            heads = (config["num_attention_heads"] if stem == "attn_q" else kv_heads(config)) if turned else 0
            return f"{prefix}{modules[0]}.{parameter}", heads, _shift(stem, architecture)
        if stem in _EXPERTS and "ffn_gate_inp" in architecture.layer.values() and parameter == "weight":
            return f"{prefix}mlp.experts.{_EXPERTS[stem]}", 0, 0.0
    raise CheckpointError(
        f"The file holds {name[:64]!r}, which has no place in a {config['model_type']} model.",
        mend="import another format of the model",
    )


def _both(tensors: Mapping[str, Stored], name: str, full: str) -> Source:
    """Return gates and ups of experts, which transformers holds in one stack [E, 2N, K]."""
    stem = name.replace("_up_exps", "_gate_exps")
    pair = [tensors.get(stem), tensors.get(stem.replace("_gate_exps", "_up_exps"))]
    gate, up = pair
    if gate is None or up is None or gate.shape != up.shape or len(gate.shape) != 3:
        raise CheckpointError(f"{full} has no gate and up of the same shape.", mend="the file is damaged")
    experts, n, k = gate.shape
    return Source((gate, up), 0, 0.0, (experts, 2 * n, k))


def _shift(stem: str, architecture: Architecture) -> float:
    return architecture.norm_shift if stem.endswith("norm") else 0.0


def _check_shapes(found: Mapping[str, Source], architecture: Architecture, config: Mapping[str, Any]) -> None:
    """Hold every shape against the configuration, and every layer against the first one."""
    hidden, rows = config["hidden_size"], head_dim(config) * config["num_attention_heads"]
    kv = head_dim(config) * kv_heads(config)
    wide, vocabulary = config["intermediate_size"], config["vocab_size"]
    wanted = {"q_proj": (rows, hidden), "k_proj": (kv, hidden), "v_proj": (kv, hidden), "o_proj": (hidden, rows)}
    shapes = {f"self_attn.{name}.weight": shape for name, shape in wanted.items()}
    shapes |= {f"mlp.{name}_proj.weight": (wide, hidden) for name in ("gate", "up")}
    shapes |= {"mlp.down_proj.weight": (hidden, wide)}
    top = {"model.embed_tokens.weight": (vocabulary, hidden), "lm_head.weight": (vocabulary, hidden)}
    names = {name.split(".", 3)[3] for name in found if name.startswith("model.layers.0.")}
    lacking = [name for name in ("model.embed_tokens.weight", "model.norm.weight") if name not in found]
    for layer in range(config["num_hidden_layers"]):
        lacking += [
            name for one in names or {"self_attn.q_proj.weight"} if (name := f"model.layers.{layer}.{one}") not in found
        ]
    if lacking:
        raise CheckpointError(f"The file lacks {lacking[0]}.", mend="fetch it again")
    for name, source in found.items():
        own = top.get(name) or (shapes.get(name.split(".", 3)[3]) if name.startswith("model.layers.") else None)
        if own is not None and source.shape != own:
            raise CheckpointError(
                f"{name} is {list(source.shape)}.", allowed=str(list(own)), mend="the file is damaged"
            )
