"""Tiny transformers models of several families, made from their configurations with a fixed seed."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import torch
import transformers
from torch import nn

_COMMON = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
}


def qwen2(tied: bool = True, **changes):
    """Biases on q, k and v, and an output head tied to the embedding."""
    config = transformers.Qwen2Config(**{**_COMMON, "tie_word_embeddings": tied, **changes})
    return transformers.Qwen2ForCausalLM(config)


def llama_odd(**changes):
    """K of 56 and 77: odd, and divided by no group size."""
    sizes = {"hidden_size": 56, "intermediate_size": 77, "tie_word_embeddings": False}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**_COMMON, **sizes, **changes}))


def llama_wide():
    """K of 320 and 256, for groups up to 256."""
    sizes = {"hidden_size": 320, "intermediate_size": 256, "tie_word_embeddings": False, "num_hidden_layers": 1}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**_COMMON, **sizes}))


def gpt2():
    """Conv1D in place of linear layers."""
    sizes = {"vocab_size": 97, "n_positions": 64, "n_embd": 64, "n_layer": 1, "n_head": 4}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=1))


def opt(**changes):
    """Biases everywhere, and learned positions."""
    sizes = {key: _COMMON[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")}
    ends = {"bos_token_id": 0, "eos_token_id": 1}
    more = {"ffn_dim": 96, "max_position_embeddings": 64, "word_embed_proj_dim": 64, **ends}
    return transformers.OPTForCausalLM(transformers.OPTConfig(**{**sizes, **more, **changes}))


def t5():
    """Encoder and decoder, whose `wo.weight.dtype` decides the activations' dtype."""
    sizes = {"vocab_size": 97, "d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 1, "num_heads": 4}
    ends = {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes, **ends))


def mixtral():
    """Fused experts: 3-D parameters in memory, one 2-D tensor per expert on disk."""
    return transformers.MixtralForCausalLM(transformers.MixtralConfig(**_COMMON, num_local_experts=4))


FAMILIES = {
    "qwen2": qwen2,
    "llama_odd": llama_odd,
    "llama_wide": llama_wide,
    "gpt2": gpt2,
    "opt": opt,
    "t5": t5,
    "mixtral": mixtral,
}
QUANTIZABLE = [name for name in FAMILIES if name != "gpt2"]


def make(name: str, **changes) -> nn.Module:
    torch.manual_seed(7)
    model = FAMILIES[name](**changes)
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    return model.eval()


def demo_of_two_blocks():
    """Return the first two blocks of the demo model, which run a text in a third of its time, and its tokenizer."""
    import workbench as wb

    model, tokenizer = wb.demo_model()
    del model.model.layers[2:]
    model.config.num_hidden_layers = 2
    return model, tokenizer


def saved(name: str, folder: Path, dtype: torch.dtype = torch.float32, **changes) -> Path:
    """Save a model as a person's folder of that dtype, and return the folder."""
    with hushed():
        make(name, **changes).save_pretrained(folder / "wide")
        type(make(name, **changes)).from_pretrained(folder / "wide", dtype=dtype).save_pretrained(folder / name)
    return folder / name


def edit_config(folder: Path, **changes) -> None:
    """Change keys of a saved model's config.json."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def logits(model: nn.Module) -> torch.Tensor:
    """Logits of a fixed input."""
    ids = torch.arange(2, 14)[None]
    given = {"input_ids": ids}
    if model.config.is_encoder_decoder:
        given["decoder_input_ids"] = ids
    with torch.inference_mode():
        return model.eval()(**given).logits


@contextlib.contextmanager
def hushed():
    """Keep transformers' progress bars out of the tests' output."""
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.utils.logging.enable_progress_bar()
