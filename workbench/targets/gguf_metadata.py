"""A model's configuration as GGUF's metadata, rotary scaling included."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from workbench.targets.gguf_file import TensorInfo, Value
from workbench.targets.gguf_models import KEYS, Architecture, Config, head_dim, kv_heads

ROPE_TENSOR = "rope_freqs.weight"
_QUANTIZATION_VERSION = 2  # of the blocks' layout: GGML_QNT_VERSION
_FILE_TYPES = {"Q4_0": 2, "Q4_1": 3}  # llama.h's llama_ftype: most of the tensors
_ROPE_TYPES = ("default", "linear", "yarn", "llama3")
_YARN = (
    ("original_context_length", "original_max_position_embeddings", "u32"),
    ("yarn_beta_fast", "beta_fast", "f32"),
    ("yarn_beta_slow", "beta_slow", "f32"),
)
_YARN_FIXED = ("attention_factor", "mscale", "mscale_all_dim", "truncate")


def rope_settings(config: Config) -> dict[str, Any]:
    """Return rope_type, rope_theta and the rest, from a config.json of transformers 5 or of an older one."""
    found = config.get("rope_parameters") or {}
    if isinstance(found.get("full_attention"), Mapping):  # one for each kind of layer
        found = found["full_attention"]
    scaling = config.get("rope_scaling") or {}
    settings = {**scaling, **found}
    settings["rope_type"] = settings.get("rope_type") or settings.pop("type", None) or "default"
    settings.setdefault("rope_theta", config.get("rope_theta", 10_000.0))
    return settings


def rope_problems(config: Config) -> list[tuple[str, str]]:
    """Return (what cannot be expressed, what can) of a model's rotary positions."""
    rope = rope_settings(config)
    kind = rope["rope_type"]
    if kind not in _ROPE_TYPES:
        return [(f"rope_type {kind!r}", ", ".join(_ROPE_TYPES))]
    found = []
    partial = rope.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if partial not in (None, 1, 1.0):
        found.append((f"partial_rotary_factor {partial!r}", "1"))
    if kind == "yarn":
        found += [(f"yarn with {key} {rope[key]!r}", "none") for key in _YARN_FIXED if rope.get(key) is not None]
    needed = {"linear": ["factor"], "yarn": ["factor", _YARN[0][1]], "llama3": [*_LLAMA3]}.get(kind, [])
    found += [(f"rope_type {kind!r} without {key}", "one with it") for key in needed if rope.get(key) is None]
    return found


_LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


def model_metadata(
    config: Config, architecture: Architecture, model: str, tensors: list[TensorInfo]
) -> dict[str, Value]:
    """Return what the file says about the model, its tokenizer apart."""
    prefix, types = architecture.name, {info.type.name for info in tensors}
    usual = "Q4_1" if "Q4_1" in types else "Q4_0"
    found = {
        "general.architecture": Value("str", prefix),
        "general.type": Value("str", "model"),
        "general.name": Value("str", model),
        "general.quantization_version": Value("u32", _QUANTIZATION_VERSION),
        "general.file_type": Value("u32", _FILE_TYPES[usual]),
    }
    filled = {"num_key_value_heads": kv_heads(config), **{k: v for k, v in config.items() if v is not None}}
    for key, own, kind in (*KEYS, *architecture.keys):
        if own in filled:
            found[f"{prefix}.{key}"] = Value(kind, filled[own])
    for key in ("attention.key_length", "attention.value_length", "rope.dimension_count"):
        found[f"{prefix}.{key}"] = Value("u32", head_dim(config))
    return found | {f"{prefix}.rope.{key}": value for key, value in _rope(rope_settings(config)).items()}


def rope_tensor(config: Config) -> Tensor | None:
    """Return what each frequency of Llama 3's rotary positions is divided by, float32 [head_dim / 2]; None for others.

    Frequencies of short waves stay, those of long ones are divided by `factor`, and in between it is interpolated
    (transformers' `modeling_rope_utils`, "llama3").
    """
    rope = rope_settings(config)
    if rope["rope_type"] != "llama3":
        return None
    factor, low, high, original = (float(rope[key]) for key in _LLAMA3)
    size = head_dim(config)
    waves = 2 * math.pi * float(rope["rope_theta"]) ** (torch.arange(0, size, 2, dtype=torch.float64) / size)
    smooth = ((original / waves - low) / (high - low)).clamp(0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).float()


def window_note(config: Config, architecture: Architecture) -> str:
    """Say where a model looks back no further than a window, and llama.cpp does."""
    window = config.get("sliding_window")
    written = any(own == "sliding_window" for _, own, _ in architecture.keys)
    if written or not window or config.get("use_sliding_window") is False:
        return ""
    if window >= config.get("max_position_embeddings", 0):
        return ""
    return f"the model looks back {window} tokens, llama.cpp's {architecture.name!r} all the way: longer texts differ"


def _rope(rope: Mapping[str, Any]) -> dict[str, Value]:
    found = {"freq_base": Value("f32", rope["rope_theta"])}
    kind = rope["rope_type"]
    if kind in ("linear", "yarn"):
        found["scaling.type"] = Value("str", kind)
        found["scaling.factor"] = Value("f32", rope["factor"])
    if kind == "yarn":
        given = [(key, own, value_kind) for key, own, value_kind in _YARN if rope.get(own) is not None]
        found |= {f"scaling.{key}": Value(value_kind, rope[own]) for key, own, value_kind in given}  # type: ignore[arg-type]
    return found
