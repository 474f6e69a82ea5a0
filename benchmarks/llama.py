"""The Llama shape that the benchmarks of whole models share: random weights from a fixed seed."""

from __future__ import annotations

from typing import Any

import torch

VOCABULARY = 32_000


def llama(hidden: int, layers: int) -> Any:
    """Return a Llama of random bfloat16 weights whose output head is tied to the embedding; the same at every call.

    Args:
        hidden: Hidden size, a multiple of 64 or less than 64; the intermediate size is 11/4 of it.
        layers: Layers; 8 of hidden size 2048 make 411 M linear weights and 477 M parameters.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    heads = max(1, hidden // 64)
    config = LlamaConfig(
        hidden_size=hidden,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=layers,
        vocab_size=VOCABULARY,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).bfloat16().eval()


def millions_of_parameters(model: Any) -> int:
    """Return the parameters of a model that is not quantized, tied ones counted once, in millions."""
    count: int = sum(parameter.numel() for parameter in model.parameters())
    return round(count / 1e6)
