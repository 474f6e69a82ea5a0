"""A tiny model of each model type that an MLX export was tried with, and its dense twin of dequantized weights."""

from __future__ import annotations

import copy

import torch
import transformers
from torch import nn

import workbench as wb
from workbench.checkpoint.native import int4_layers

_TEXT = {
    **{"vocab_size": 160, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64},
    **{"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0},
}
_HEADED = {**_TEXT, "head_dim": 16}
_ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 4321.0}}  # no default: it must reach mlx-lm
_LLAMA3 = {
    **{"rope_type": "llama3", "rope_theta": 4321.0, "factor": 8.0, "low_freq_factor": 1.0},
    **{"high_freq_factor": 4.0, "original_max_position_embeddings": 32},
}
_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_GLM4_MOE = {**_MOE, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}


def _sliding(period: int) -> dict:
    """Twice so many layers, the last of each period attending to everything, the others to 8 tokens."""
    kinds = ["sliding_attention"] * (period - 1) + ["full_attention"]
    return {"num_hidden_layers": 2 * period, "layer_types": 2 * kinds, "sliding_window": 8}


# model_type → transformers' class and the settings of a tiny one.
ZOO: dict[str, tuple[str, dict]] = {
    "cohere": ("CohereForCausalLM", {**_TEXT, **_ROPE}),
    "cohere2": ("Cohere2ForCausalLM", {**_HEADED, **_sliding(2)}),
    "ernie4_5": ("Ernie4_5ForCausalLM", {**_HEADED, **_ROPE}),
    "gemma": ("GemmaForCausalLM", {**_HEADED, **_ROPE}),
    "gemma2": ("Gemma2ForCausalLM", {**_HEADED, **_ROPE, "query_pre_attn_scalar": 16}),
    "gemma3_text": ("Gemma3ForCausalLM", {**_HEADED, **_sliding(3), "query_pre_attn_scalar": 16}),
    "glm4": ("Glm4ForCausalLM", _HEADED),
    "glm4_moe": ("Glm4MoeForCausalLM", {**_HEADED, **_GLM4_MOE}),
    "gptj": (
        "GPTJForCausalLM",
        {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 160, "rotary_dim": 8},
    ),
    "granite": ("GraniteForCausalLM", {**_TEXT, **_ROPE}),
    "helium": ("HeliumForCausalLM", {**_HEADED, **_ROPE}),
    "hunyuan_v1_dense": ("HunYuanDenseV1ForCausalLM", _HEADED),
    "llama": ("LlamaForCausalLM", {**_TEXT, "rope_parameters": _LLAMA3}),
    "ministral3": ("Ministral3ForCausalLM", _HEADED),
    "mistral": ("MistralForCausalLM", {**_TEXT, **_ROPE}),
    "mixtral": ("MixtralForCausalLM", {**_TEXT, **_ROPE, "num_local_experts": 4}),
    "nemotron": ("NemotronForCausalLM", _HEADED),
    "olmo2": ("Olmo2ForCausalLM", {**_TEXT, **_ROPE}),
    "olmo3": ("Olmo3ForCausalLM", {**_TEXT, "num_hidden_layers": 4}),
    "olmoe": ("OlmoeForCausalLM", {**_TEXT, **_ROPE, "num_experts": 4, "num_experts_per_tok": 2}),
    "phi": ("PhiForCausalLM", {**_TEXT, **_ROPE}),
    "phi3": ("Phi3ForCausalLM", {**_TEXT, **_ROPE}),
    "qwen2": ("Qwen2ForCausalLM", {**_TEXT, **_ROPE, "tie_word_embeddings": True}),
    "qwen2_moe": ("Qwen2MoeForCausalLM", {**_TEXT, **_ROPE, **_MOE, "shared_expert_intermediate_size": 32}),
    "qwen3": ("Qwen3ForCausalLM", {**_HEADED, **_ROPE, "tie_word_embeddings": True}),
    "qwen3_moe": ("Qwen3MoeForCausalLM", {**_HEADED, **_ROPE, **_MOE}),
    "seed_oss": ("SeedOssForCausalLM", {**_HEADED, **_ROPE}),
    "smollm3": ("SmolLM3ForCausalLM", {**_TEXT, **_ROPE}),
    "stablelm": ("StableLmForCausalLM", {**_TEXT, **_ROPE}),
    "starcoder2": ("Starcoder2ForCausalLM", {**_TEXT, **_ROPE}),
}


def made(name: str) -> nn.Module:
    """A random model in float32, its biases and norms too."""
    kind, settings = ZOO[name]
    torch.manual_seed(3)
    model_class = getattr(transformers, kind)
    model = model_class(model_class.config_class(**settings)).eval()
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith("bias") or "norm" in parameter_name:
            nn.init.normal_(parameter, mean=float(parameter.detach().mean()), std=0.1)
    return model


def dense_twin(dense: nn.Module, quantized: nn.Module) -> nn.Module:
    """Return a copy of the dense model that holds what the int4 weights of the other dequantize to."""
    twin = copy.deepcopy(dense)
    with torch.no_grad():
        for name, layer in int4_layers(quantized).items():
            weight = layer.quantized_weight().dequantize()
            if isinstance(layer, wb.Int4Linear):
                twin.get_submodule(name).weight.copy_(weight)
            else:
                stack = weight.view(layer.num_experts, layer.out_features, layer.in_features)
                twin.get_parameter(name).copy_(stack.transpose(1, 2) if layer.transposed else stack)
    return twin
