"""config.json of a GGUF file: the settings of its architecture under transformers' names."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from workbench.errors import CheckpointError
from workbench.foreign.settings import left_out as notes_of
from workbench.targets.gguf_metadata import rope_tensor
from workbench.targets.gguf_models import ARCHITECTURES, KEYS, Architecture

# transformers' model_type → its class of language models; "mistral" is written as "llama" and read as such.
CLASSES = {
    "llama": "LlamaForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "granite": "GraniteForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
}
_YARN = {"yarn_beta_fast": "beta_fast", "yarn_beta_slow": "beta_slow"}
_IDS = {"bos": "bos_token_id", "eos": "eos_token_id", "pad": "padding_token_id"}
_MOST = 2**31 - 1
_READ_TOO = (
    "attention.key_length attention.value_length rope.dimension_count rope.freq_base rope.scaling.type "
    "rope.scaling.factor rope.scaling.original_context_length rope.scaling.finetuned expert_count attention.causal"
).split()
_READ_OF_TOKENIZER = [
    *(f"tokenizer.ggml.{key}" for key in "model pre tokens token_type scores merges add_space_prefix".split()),
    *(f"tokenizer.ggml.{key}" for key in "add_bos_token add_eos_token unknown_token_id".split()),
    *(f"tokenizer.ggml.{key}" for key in _IDS.values()),
    "tokenizer.chat_template",
]


def model_type_of(metadata: Mapping[str, Any]) -> str:
    """Return transformers' model type of a file.

    Raises:
        CheckpointError: when its architecture is not one of those declared.
    """
    name = metadata.get("general.architecture")
    experts = bool(metadata.get(f"{name}.expert_count"))
    for model_type in CLASSES:
        routed = any(key == "expert_count" for key, _, _ in ARCHITECTURES[model_type].keys)
        if ARCHITECTURES[model_type].name == name and routed == experts:
            return model_type
    allowed = ", ".join(dict.fromkeys(ARCHITECTURES[model_type].name for model_type in CLASSES))
    raise CheckpointError(f"The file is of the architecture {name!r}.", allowed=allowed, mend="import another format")


def config_of(
    metadata: Mapping[str, Any], biases: set[str], factors: Tensor | None, *, tied: bool, dtype: str
) -> dict[str, Any]:
    """Return the config.json of a file.

    Args:
        metadata: The file's.
        biases: llama.cpp's names of the tensors of a layer that have a bias, for instance "attn_q".
        factors: What the rotary frequencies are divided by, float32 [head_dim / 2].
        tied: Whether the output head is the embeddings.
        dtype: Of the embeddings.

    Raises:
        CheckpointError: when a setting is missing or out of range.
    """
    model_type = model_type_of(metadata)
    architecture = ARCHITECTURES[model_type]
    for key, usual in (("general.type", "model"), (f"{architecture.name}.attention.causal", True)):
        if metadata.get(key, usual) != usual:
            raise CheckpointError(f"The file has {key} {metadata[key]!r}."[:200], allowed=repr(usual))
    config: dict[str, Any] = {"model_type": model_type, "architectures": [CLASSES[model_type]], "dtype": dtype}
    for key, own, kind in (*KEYS, *architecture.keys):
        if (value := _setting(metadata, f"{architecture.name}.{key}", kind)) is not None:
            config[own] = value
    _fill(config, metadata, architecture)
    config |= {key: allowed[0] for key, (allowed, _) in architecture.fixed.items() if allowed[0] not in ([], None)}
    config |= _bias_settings(model_type, biases) | {"tie_word_embeddings": tied}
    config |= {f"{short}_token_id": _token(metadata, key) for short, key in _IDS.items()}
    if model_type.startswith("gemma"):
        config["query_pre_attn_scalar"] = _gemma_scalar(config)
    return config | {"rope_parameters": _rope(config, metadata, architecture, factors)}


def left_out(metadata: Mapping[str, Any]) -> list[str]:
    """Return a note for each setting of the architecture or the tokenizer that is not carried.

    What "general." and "quantize." say is how the file is called and was made.
    """
    architecture = ARCHITECTURES[model_type_of(metadata)]
    keys = [key for key, _, _ in (*KEYS, *architecture.keys)] + [*_READ_TOO, *(f"rope.scaling.{key}" for key in _YARN)]
    read = {*(f"{architecture.name}.{key}" for key in keys), *_READ_OF_TOKENIZER}
    ours = (f"{architecture.name}.", "tokenizer.")
    return notes_of({key: value for key, value in metadata.items() if key.startswith(ours)}, read)


def _fill(config: dict[str, Any], metadata: Mapping[str, Any], architecture: Architecture) -> None:
    """Enter what llama.cpp takes from elsewhere when it is not said, and refuse what is missing."""
    name = architecture.name
    tokens = metadata.get("tokenizer.ggml.tokens")
    config.setdefault("vocab_size", len(tokens) if isinstance(tokens, list) else None)
    config.setdefault("num_key_value_heads", config.get("num_attention_heads"))
    needed = (
        "hidden_size",
        "num_hidden_layers",
        "intermediate_size",
        "num_attention_heads",
        "vocab_size",
        "rms_norm_eps",
    )
    missing = [own for own in needed if config.get(own) is None]
    if missing:
        raise CheckpointError(f"The file does not say {missing[0]}.", mend="convert it again with a newer llama.cpp")
    if config["num_hidden_layers"] > 4096 or config["num_attention_heads"] > config["hidden_size"]:
        raise CheckpointError(
            f"The file says {config['num_hidden_layers']} layers of {config['num_attention_heads']} heads.",
            allowed="up to 4096 layers, and no more heads than columns",
            mend="the file is damaged",
        )
    size = _setting(metadata, f"{name}.attention.key_length", "u32")
    config["head_dim"] = size or config["hidden_size"] // config["num_attention_heads"]
    for key in ("attention.value_length", "rope.dimension_count"):
        if (other := _setting(metadata, f"{name}.{key}", "u32")) not in (None, config["head_dim"]):
            raise CheckpointError(f"The file has {key} {other}.", allowed=f"{config['head_dim']}, as the keys have")


def _setting(metadata: Mapping[str, Any], key: str, kind: str) -> Any:
    value = metadata.get(key)
    if value is None:
        return None
    if kind == "f32" and type(value) is float and value == value and abs(value) != float("inf"):
        return shortest(value)
    if kind == "u32" and type(value) is int and 0 <= value <= _MOST:
        return value
    raise CheckpointError(f"The file has {key} {value!r}."[:200], allowed="one number", mend="import another format")


def shortest(value: float) -> float:
    """Return the number with the fewest digits that is the same in float32: 1e-06, not 9.999999974752427e-07."""
    for digits in range(1, 10):
        if struct.pack("<f", short := float(f"{value:.{digits}g}")) == struct.pack("<f", value):
            return short
    return value


def _token(metadata: Mapping[str, Any], key: str) -> int | None:
    value = metadata.get(f"tokenizer.ggml.{key}")
    return value if type(value) is int and value <= _MOST else None


def _bias_settings(model_type: str, biases: set[str]) -> dict[str, Any]:
    """Return how a configuration says which layers have a bias.

    Raises:
        CheckpointError: when transformers' model has them otherwise.
    """
    qkv, output, mlp = {"attn_q", "attn_k", "attn_v"}, {"attn_output"}, {"ffn_gate", "ffn_up", "ffn_down"}
    if model_type == "llama":
        found = {"attention_bias": qkv | output <= biases, "mlp_bias": mlp <= biases}
        allowed = (qkv | output if found["attention_bias"] else set()) | (mlp if found["mlp_bias"] else set())
    else:
        found, allowed = {}, qkv if model_type in ("qwen2", "qwen2_moe") else set()
    if biases != allowed:
        raise CheckpointError(
            f"The file has biases of {', '.join(sorted(biases)) or 'no layer'}.",
            allowed=f"in {model_type}: {', '.join(sorted(allowed)) or 'none'}",
            mend="import another format of the model",
        )
    return found


def _gemma_scalar(config: Mapping[str, Any]) -> int:
    """What llama.cpp scales attention by: of its 27B models hidden_size / heads, of all others the size of a head."""
    of_27b = config["num_hidden_layers"] == (46 if config["model_type"] == "gemma2" else 62)
    return int(config["hidden_size"] // config["num_attention_heads"] if of_27b else config["head_dim"])


def _rope(
    config: Mapping[str, Any], metadata: Mapping[str, Any], architecture: Architecture, factors: Tensor | None
) -> dict[str, Any]:
    prefix = f"{architecture.name}.rope"
    rope: dict[str, Any] = {"rope_type": "default"}
    rope["rope_theta"] = _setting(metadata, f"{prefix}.freq_base", "f32") or 10_000.0
    kind = metadata.get(f"{prefix}.scaling.type", "none")
    if kind in ("linear", "yarn"):
        rope |= {"rope_type": kind, "factor": _setting(metadata, f"{prefix}.scaling.factor", "f32") or 1.0}
    elif kind != "none":
        raise CheckpointError(f"The file has rope scaling {kind!r}."[:200], allowed="none, linear, yarn")
    if kind == "yarn":
        original = _setting(metadata, f"{prefix}.scaling.original_context_length", "u32")
        rope["original_max_position_embeddings"] = original or config["max_position_embeddings"]
        for key, own in _YARN.items():
            if (value := _setting(metadata, f"{prefix}.scaling.{key}", "f32")) is not None:
                rope[own] = value
    if factors is not None:
        rope |= _llama3(config, rope, factors)
    if config["model_type"] == "gemma3_text":
        local = {"rope_type": "default", "rope_theta": 10_000.0}
        return {"full_attention": rope, "sliding_attention": local}
    return rope


def _llama3(config: Mapping[str, Any], rope: Mapping[str, Any], factors: Tensor) -> dict[str, Any]:
    """Return the settings that give these factors; low_freq_factor, which only scales the others, is 1.

    Between the ends 1 / factor is linear in the frequency; two such points give the line.
    """
    theta, size = float(rope["rope_theta"]), config["head_dim"]
    largest = float(factors.max())
    places = torch.nonzero((factors > 1) & (factors < largest)).flatten().tolist()
    if len(places) >= 2 and largest > 1 and bool(torch.isfinite(factors).all()):
        smooth = (1 / factors.double() - 1 / largest) / (1 - 1 / largest)
        waves = 2 * torch.pi * theta ** (torch.arange(0, size, 2, dtype=torch.float64) / size)
        first, last = places[0], places[-1]
        slope = (smooth[first] - smooth[last]) / (1 / waves[first] - 1 / waves[last])
        offset = slope / waves[last] - smooth[last]
        high, original = float(1 + 1 / offset), float(slope / offset)
        found = {
            "rope_type": "llama3",
            "factor": shortest(largest),
            "low_freq_factor": 1.0,
            "high_freq_factor": round(high, 3),
            "original_max_position_embeddings": round(original),
        }
        again = rope_tensor({**config, "rope_parameters": {**rope, **found}})
        if again is not None and torch.allclose(again, factors, rtol=1e-5, atol=0):
            return found
    raise CheckpointError(
        "The file scales its rotary positions by factors that are not those of Llama 3.",
        allowed="no rope_freqs.weight, or that of Llama 3",
        mend="import another format of the model",
    )
