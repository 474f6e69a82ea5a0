"""How mlx-lm calls the parts of a model, where that differs from transformers, and what it reads of a config.json.

Source: mlx_lm/models of mlx-lm 0.32; the tests load exports of each model type named here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# model_type → module of mlx-lm that holds `switch_mlp`, under the layer; transformers has `mlp.experts` there.
SWITCHES: dict[str, str] = {
    "glm4_moe": "mlp",
    "mixtral": "block_sparse_moe",
    "olmoe": "mlp",
    "qwen2_moe": "mlp",
    "qwen3_moe": "mlp",
}
# Model types of which an export gave the same logits in mlx-lm as in transformers.
TRIED: frozenset[str] = frozenset(
    "cohere cohere2 ernie4_5 gemma gemma2 gemma3_text glm4 gptj granite helium hunyuan_v1_dense llama ministral3 "
    "mistral nemotron olmo2 olmo3 phi phi3 qwen2 qwen3 seed_oss smollm3 stablelm starcoder2".split()
) | frozenset(SWITCHES)

_ROPE_KEYS = ("rope_theta", "partial_rotary_factor")
_EXPERTS = re.compile(r"(?P<layer>.*\.)mlp\.experts\.(?P<stack>gate_up_proj|down_proj)")
_ROUTER = re.compile(r"(.*\.layers\.\d+\.)mlp\.gate\.weight")


def model_type(config: Mapping[str, Any]) -> str:
    """Return the model type that a config.json names, "" for none."""
    return str(config.get("model_type") or "")


def expert_names(kind: str, name: str) -> tuple[str, ...] | None:
    """Return what mlx-lm calls the parts of a stack of experts [E, N, K], which follow each other along N.

    Args:
        kind: The model type.
        name: transformers' name of the stack.

    Returns:
        Two modules for a gate and an up projection in one, else one; None for a stack that mlx-lm has no place for.
    """
    found = _EXPERTS.fullmatch(name)
    if found is None or kind not in SWITCHES:
        return None
    parts = ("gate_proj", "up_proj") if found["stack"] == "gate_up_proj" else ("down_proj",)
    return tuple(f"{found['layer']}{SWITCHES[kind]}.switch_mlp.{part}" for part in parts)


def dense_name(kind: str, name: str) -> str:
    """Return what mlx-lm calls a dense tensor."""
    found = _ROUTER.fullmatch(name) if kind in SWITCHES else None
    return name if found is None else f"{found[1]}{SWITCHES[kind]}.gate.weight"


def with_mlx_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config.json that has the keys which mlx-lm reads and transformers 5 no longer writes.

    transformers 5 writes `rope_parameters` and `layer_types` alone; without `rope_theta`, `rope_scaling` and
    `sliding_window_pattern`, mlx-lm takes its defaults.
    """
    added = dict(config)
    if isinstance(config.get("text_config"), Mapping):
        added["text_config"] = with_mlx_keys(config["text_config"])
    if "num_local_experts" in config:
        added.setdefault("num_experts", config["num_local_experts"])
    if pattern := _sliding_pattern(config.get("layer_types")):
        added.setdefault("sliding_window_pattern", pattern)
    rope = config.get("rope_parameters")
    if not isinstance(rope, Mapping):
        return added
    if isinstance(rope.get("sliding_attention"), Mapping) and "rope_theta" in rope["sliding_attention"]:
        added.setdefault("rope_local_base_freq", rope["sliding_attention"]["rope_theta"])
    whole = rope["full_attention"] if isinstance(rope.get("full_attention"), Mapping) else rope
    for key in _ROPE_KEYS:
        if whole.get(key) is not None:
            added.setdefault(key, whole[key])
    scaled = whole.get("rope_type", "default") != "default"
    added["rope_scaling"] = added.get("rope_scaling") or ({**whole, "type": whole["rope_type"]} if scaled else None)
    return added


def _sliding_pattern(layers: object) -> int:
    """Return n where every n-th layer attends to everything and all others to a window; 0 for any other order."""
    kinds = list(layers) if isinstance(layers, list | tuple) else []
    if "sliding_attention" not in kinds or "full_attention" not in kinds:
        return 0
    n = kinds.index("full_attention") + 1
    wanted = ["sliding_attention" if (place + 1) % n else "full_attention" for place in range(len(kinds))]
    return n if kinds == wanted else 0
