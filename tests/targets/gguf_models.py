"""Tiny models of every architecture that GGUF is written for, with the demo model's vocabulary."""

from __future__ import annotations

import torch
import transformers

VOCABULARY = 4096
_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
_QWEN_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 128}
_GEMMA = {"head_dim": 64, "query_pre_attn_scalar": 64, "tie_word_embeddings": True, "sliding_window": 8}
_GRANITE = {
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.5,
    "attention_multiplier": 0.1,
    "logits_scaling": 2.0,
}

# name → (family of classes, what differs from the common settings)
ZOO = {
    "llama": ("Llama", {}),
    "llama_tied": ("Llama", {"tie_word_embeddings": True}),
    "llama_biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama_wide_heads": ("Llama", {"head_dim": 64}),
    "llama3_positions": ("Llama", {"rope_parameters": _LLAMA3}),
    "linear_positions": (
        "Llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.0}},
    ),
    "mistral": ("Mistral", {"sliding_window": None}),
    "mixtral": ("Mixtral", {"num_local_experts": 4}),
    "qwen2": ("Qwen2", {}),
    "yarn_positions": ("Qwen2", {"rope_parameters": _YARN}),
    "qwen3": ("Qwen3", {"head_dim": 64}),
    "qwen2_moe": ("Qwen2Moe", {**_QWEN_MOE, "shared_expert_intermediate_size": 96, "norm_topk_prob": False}),
    "qwen3_moe": ("Qwen3Moe", {**_QWEN_MOE, "norm_topk_prob": True, "head_dim": 64}),
    "smollm3": ("SmolLM3", {"num_hidden_layers": 4, "use_sliding_window": False}),
    "granite": ("Granite", _GRANITE),
    "olmo2": ("Olmo2", {}),
    "gemma2": ("Gemma2", _GEMMA),
    "gemma3_text": ("Gemma3", {**_GEMMA, "num_hidden_layers": 6}),
}


def make(name: str, **changes) -> transformers.PreTrainedModel:
    """Return a model whose norms and biases do something, and whose logits spread."""
    family, settings = ZOO[name]
    config = getattr(transformers, f"{family}TextConfig" if family == "Gemma3" else f"{family}Config")
    torch.manual_seed(7)
    model = getattr(transformers, f"{family}ForCausalLM")(config(**{**_COMMON, **settings, **changes}))
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            elif "embed" not in parameter_name:
                parameter.mul_(4)
    return model.eval()
