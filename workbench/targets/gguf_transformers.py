"""Which GGUF files transformers' own reader takes for something else than llama.cpp does, told before one is written.

Tried with transformers 5.23, each architecture against its dense model: the reader leaves these settings at the
defaults of the model's class, and scales no rotary positions.
"""

from __future__ import annotations

from typing import Any

from workbench.targets.gguf_metadata import rope_settings
from workbench.targets.gguf_models import Config

_READER = "transformers' own reader of GGUF"
_NOT_READ = ("smollm3", "granite", "olmo2")
# transformers' model_type → setting that is not read, and what is taken for it.
_TAKEN: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": False, "mlp_bias": False},
    "qwen3": {"head_dim": 128},
    "qwen2_moe": {"moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632},
    "qwen3_moe": {"moe_intermediate_size": 768},
    "gemma2": {"query_pre_attn_scalar": 256},
    "gemma3_text": {"query_pre_attn_scalar": 256},
}


def transformers_note(config: Config) -> str:
    """Say what transformers would read otherwise than llama.cpp, "" for nothing.

    Args:
        config: The model's config.json, of an architecture that is declared.
    """
    model_type = config["model_type"]
    if model_type in _NOT_READ:
        return f"{_READER} does not know this architecture; llama.cpp does"
    if model_type == "mixtral":
        return f"{_READER} takes it for a Llama and leaves its experts out; llama.cpp does not"
    taken = _TAKEN.get(model_type, {})
    lost = [f"{key} {config[key]!r}" for key, usual in taken.items() if config.get(key) not in (None, usual)]
    if (rope := rope_settings(config)["rope_type"]) != "default":
        lost.append(f"rope_type {rope!r}")
    if not lost:
        return ""
    return f"{_READER} does not take {', '.join(lost)} from the file: give it the model's own config=; llama.cpp does"
