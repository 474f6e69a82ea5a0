"""The architectures that can be written as GGUF: what llama.cpp calls their tensors and settings, and what it assumes.

Names of tensors follow gguf-py's `TensorNameMap`, keys its constants; what is fixed was read in llama.cpp's
src/models, where a graph computes one thing only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from workbench.targets.gguf_file import Kind

Config = Mapping[str, Any]
Key = tuple[str, str, Kind]  # llama.cpp's key below the architecture's name, config.json's, type
TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
KEYS: tuple[Key, ...] = (
    ("context_length", "max_position_embeddings", "u32"),
    ("embedding_length", "hidden_size", "u32"),
    ("block_count", "num_hidden_layers", "u32"),
    ("feed_forward_length", "intermediate_size", "u32"),
    ("attention.head_count", "num_attention_heads", "u32"),
    ("attention.head_count_kv", "num_key_value_heads", "u32"),
    ("attention.layer_norm_rms_epsilon", "rms_norm_eps", "f32"),
    ("vocab_size", "vocab_size", "u32"),
)
_ATTENTION = {f"self_attn.{name}_proj": f"attn_{name}" for name in "qkv"} | {"self_attn.o_proj": "attn_output"}
_NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
_QK_NORMS = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
_MLP = {f"mlp.{name}_proj": f"ffn_{name}" for name in ("gate", "up", "down")}
_SANDWICH = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_ROUTER = {"mlp.gate": "ffn_gate_inp", "block_sparse_moe.gate": "ffn_gate_inp"}
_SHARED = {f"mlp.shared_expert.{name}_proj": f"ffn_{name}_shexp" for name in ("gate", "up", "down")}
_QKV = ("attn_q", "attn_k", "attn_v")
_SILU: dict[str, tuple[tuple[Any, ...], Any]] = {"hidden_act": (("silu",), "silu")}
_GELU: dict[str, tuple[tuple[Any, ...], Any]] = {"hidden_activation": (("gelu_pytorch_tanh",), "gelu_pytorch_tanh")}
_WINDOW: Key = ("attention.sliding_window", "sliding_window", "u32")


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    Attributes:
        name: As llama.cpp calls it.
        layer: Module of a decoder layer → llama.cpp's name of its tensors.
        biases: Of these names, those that may have a bias.
        permuted: Whether the rows of Q and K are put in llama.cpp's order of rotary positions.
        norm_shift: What llama.cpp expects added to the weights of norms.
        keys: Settings beside `KEYS`.
        fixed: Key of config.json → (values that llama.cpp computes, value when it is not there).
        head: "tied" where llama.cpp always multiplies by the embeddings at the end, "own" where it never does.
        check: Returns what else llama.cpp would compute otherwise, "" for nothing.
    """

    name: str
    layer: Mapping[str, str]
    biases: tuple[str, ...] = ()
    permuted: bool = False
    norm_shift: float = 0.0
    keys: tuple[Key, ...] = ()
    fixed: Mapping[str, tuple[tuple[Any, ...], Any]] = field(default_factory=lambda: _SILU)
    head: Literal["any", "tied", "own"] = "any"
    check: Callable[[Config], str] = lambda config: ""

    def problems(self, config: Config) -> list[tuple[str, str]]:
        """Return (what llama.cpp would compute otherwise, what it computes) of a model's configuration."""
        found = []
        for key, (allowed, default) in self.fixed.items():
            value = config.get(key, default)
            if value not in allowed:
                found.append((f"{key} {value!r}", " or ".join(map(repr, allowed))))
        missing = [key for _, key, _ in (*KEYS, *self.keys) if _is_needed(key) and config.get(key) is None]
        found += [(f"a config.json without {key!r}", "one with it") for key in missing]
        if not missing and (said := self.check(config)):
            found.append((said, f"what llama.cpp's {self.name!r} computes"))
        return found


def settings_of(config: Config) -> dict[str, Any]:
    """Return a config.json with the number of experts under both of the names that it goes by."""
    names = ("num_experts", "num_local_experts")
    found = next((config[name] for name in names if config.get(name) is not None), None)
    return {**config, **({} if found is None else dict.fromkeys(names, found))}


def head_dim(config: Config) -> int:
    """Rows of Q that belong to one head."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def kv_heads(config: Config) -> int:
    """Heads of K and V."""
    return int(config.get("num_key_value_heads") or config["num_attention_heads"])


def _is_needed(key: str) -> bool:
    return key not in ("num_key_value_heads", *_OPTIONAL)


_OPTIONAL = ("attn_logit_softcapping", "final_logit_softcapping", "sliding_window")


def _plain_heads(config: Config) -> str:
    """Q of these is as wide as the model."""
    wide = head_dim(config) * config["num_attention_heads"]
    return "" if wide == config["hidden_size"] else f"{wide} rows of Q beside hidden_size {config['hidden_size']}"


def _every_fourth_without_positions(config: Config) -> str:
    wanted = [int((i + 1) % 4 != 0) for i in range(config["num_hidden_layers"])]
    given = config.get("no_rope_layers")
    return "" if given is None or list(given) == wanted else f"no_rope_layers {given!r}"


def _softmax_scale(config: Config, wide_layers: int) -> str:
    """Gemma's scale of attention is that of its heads, or of hidden_size / heads in its 27B model."""
    scalar = config.get("query_pre_attn_scalar")
    of_27b = config["num_hidden_layers"] == wide_layers
    wanted = config["hidden_size"] // config["num_attention_heads"] if of_27b else head_dim(config)
    return "" if scalar in (None, wanted) else f"query_pre_attn_scalar {scalar!r}"


def _gemma2(config: Config) -> str:
    return _softmax_scale(config, 46) or _layer_types(config, 2)


def _gemma3(config: Config) -> str:
    local = config.get("rope_local_base_freq")
    rope = config.get("rope_parameters") or {}
    local = (rope.get("sliding_attention") or {}).get("rope_theta", local)
    if local not in (None, 10_000):
        return f"rope_theta {local!r} of sliding layers"
    return _softmax_scale(config, 62) or _layer_types(config, 6)


def _layer_types(config: Config, period: int) -> str:
    """Each `period`-th layer attends to everything, the others to a window."""
    wanted = ["sliding_attention" if (i + 1) % period else "full_attention" for i in range(config["num_hidden_layers"])]
    given = config.get("layer_types")
    return "" if given is None or list(given) == wanted else f"layer_types {given!r}"


_EXPERTS: tuple[Key, ...] = (("expert_used_count", "num_experts_per_tok", "u32"),)
_QWEN_EXPERTS: tuple[Key, ...] = (
    *_EXPERTS,
    ("expert_count", "num_experts", "u32"),
    ("expert_feed_forward_length", "moe_intermediate_size", "u32"),
)
_QWEN_MOE = {**_SILU, "decoder_sparse_step": ((1,), 1), "mlp_only_layers": (([], None), None)}
_MULTIPLIERS: tuple[Key, ...] = (
    ("attention.scale", "attention_multiplier", "f32"),
    ("embedding_scale", "embedding_multiplier", "f32"),
    ("residual_scale", "residual_multiplier", "f32"),
    ("logit_scale", "logits_scaling", "f32"),
)
_CAPS: tuple[Key, ...] = (
    ("attn_logit_softcapping", "attn_logit_softcapping", "f32"),
    ("final_logit_softcapping", "final_logit_softcapping", "f32"),
)
_LLAMA = {**_ATTENTION, **_NORMS, **_MLP}
_ALL_BIASES = (*_QKV, "attn_output", "ffn_gate", "ffn_up", "ffn_down")
_GEMMA = {**_ATTENTION, "input_layernorm": "attn_norm", **_SANDWICH, **_MLP}

# transformers' model_type → architecture.
ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture("llama", _LLAMA, _ALL_BIASES, permuted=True),
    "mistral": Architecture("llama", _LLAMA, _ALL_BIASES, permuted=True),
    "mixtral": Architecture(
        "llama",
        {**_ATTENTION, **_NORMS, **_ROUTER},
        permuted=True,
        keys=(*_EXPERTS, ("expert_count", "num_local_experts", "u32")),
    ),
    "qwen2": Architecture("qwen2", _LLAMA, _QKV, check=_plain_heads),
    "qwen3": Architecture("qwen3", {**_LLAMA, **_QK_NORMS}, _QKV),
    "qwen2_moe": Architecture(
        "qwen2moe",
        {**_ATTENTION, **_NORMS, **_ROUTER, **_SHARED, "mlp.shared_expert_gate": "ffn_gate_inp_shexp"},
        _QKV,
        keys=(*_QWEN_EXPERTS, ("expert_shared_feed_forward_length", "shared_expert_intermediate_size", "u32")),
        fixed={**_QWEN_MOE, "norm_topk_prob": ((False,), False)},
        head="own",
        check=_plain_heads,
    ),
    "qwen3_moe": Architecture(
        "qwen3moe",
        {**_ATTENTION, **_NORMS, **_QK_NORMS, **_ROUTER},
        _QKV,
        keys=_QWEN_EXPERTS,
        fixed={**_QWEN_MOE, "norm_topk_prob": ((True,), False)},
    ),
    "smollm3": Architecture("smollm3", _LLAMA, permuted=True, check=_every_fourth_without_positions),
    "granite": Architecture("granite", _LLAMA, permuted=True, keys=_MULTIPLIERS, check=_plain_heads),
    "olmo2": Architecture(
        "olmo2",
        {**_ATTENTION, **_QK_NORMS, **_MLP, **{k: v for k, v in _SANDWICH.items() if v != "ffn_norm"}},
        head="own",
        check=_plain_heads,
    ),
    "gemma2": Architecture(
        "gemma2", _GEMMA, norm_shift=1.0, keys=(*_CAPS, _WINDOW), fixed=_GELU, head="tied", check=_gemma2
    ),
    "gemma3_text": Architecture(
        "gemma3", {**_GEMMA, **_QK_NORMS}, norm_shift=1.0, keys=(_CAPS[1], _WINDOW), fixed=_GELU, check=_gemma3
    ),
}
