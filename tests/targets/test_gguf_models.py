"""Names and keys against gguf-py's, and what is refused because llama.cpp computes something else."""

from __future__ import annotations

import functools
from dataclasses import replace

import gguf
import pytest

import workbench as wb
from tests.targets.gguf_models import ZOO, make
from workbench.checkpoint.model_contents import ModelContents
from workbench.checkpoint.native import ModuleFormat
from workbench.targets.gguf import Gguf
from workbench.targets.gguf_metadata import rope_problems
from workbench.targets.gguf_models import ARCHITECTURES, KEYS, TOP, settings_of

NUMBERS = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
KNOWN_KEYS = {
    value
    for group in vars(gguf.Keys).values()
    if isinstance(group, type)
    for value in vars(group).values()
    if isinstance(value, str)
}


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_tensors_are_called_as_gguf_py_calls_them(model_type):
    architecture = ARCHITECTURES[model_type]
    names = gguf.get_tensor_name_map(NUMBERS[architecture.name], 3)
    for own, theirs in TOP.items():
        if not (own == "lm_head" and architecture.head == "tied"):
            assert names.get_name(own) == theirs
    for own, theirs in architecture.layer.items():
        assert names.get_name(f"model.layers.2.{own}") == f"blk.2.{theirs}"


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_keys_are_those_of_gguf_py(model_type):
    for key, _, _ in (*KEYS, *ARCHITECTURES[model_type].keys):
        assert f"{{arch}}.{key}" in KNOWN_KEYS


def fit_of(name: str, **settings):
    """The verdict on a model with other settings."""
    outline = outline_of(name)
    return Gguf().fit(replace(outline, config={**outline.config, **settings}))


@functools.cache
def outline_of(name: str):
    model = make(name)
    wb.quantize_(model, wb.Int4WeightOnlyConfig(group_size=64), solver="rtn")
    return ModelContents(model).outline()


@pytest.mark.parametrize(
    "name, settings, said",
    [
        ("llama", {"model_type": "gpt2"}, "model_type 'gpt2'; allowed: llama, mistral"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act 'gelu'; allowed: 'silu'"),
        ("llama", {"rope_parameters": {"rope_type": "longrope"}}, "rope_type 'longrope'; allowed: default, linear"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ("llama", {"num_hidden_layers": 3}, "a model without blk.2."),
        ("llama", {"rms_norm_eps": None}, "a config.json without 'rms_norm_eps'"),
        ("qwen2", {"head_dim": 64}, "256 rows of Q beside hidden_size 128"),
        ("smollm3", {"no_rope_layers": [1, 1, 1, 1]}, "no_rope_layers [1, 1, 1, 1]"),
        ("qwen3_moe", {"norm_topk_prob": False}, "norm_topk_prob False; allowed: True"),
        ("gemma3_text", {"query_pre_attn_scalar": 100}, "query_pre_attn_scalar 100"),
        ("yarn_positions", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "without original_max_position"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(name, settings, said):
    fit = fit_of(name, **settings)
    assert fit.state == "refused" and said in str(fit)


def test_layers_and_tensors_that_do_not_fit_are_named():
    outline = outline_of("llama")
    first = next(iter(outline.int4))
    narrow = replace(outline, int4={**outline.int4, first: ModuleFormat(128, 120, 64, "int", "bfloat16")})
    assert f"in_features 120 (1 layers: {first}); allowed: multiples of 32; leave these layers dense" in str(
        Gguf().fit(narrow)
    )
    more = replace(outline, dense={**outline.dense, "model.vision.weight": next(iter(outline.dense.values()))})
    assert "1 tensors (model.vision.weight)" in str(Gguf().fit(more))
    olmo = outline_of("olmo2")
    tied = replace(olmo, dense={name: one for name, one in olmo.dense.items() if "lm_head" not in name})
    assert "an output head tied to the embeddings; allowed: an output head of its own" in str(Gguf().fit(tied))


def test_a_window_that_llama_cpp_does_not_have_is_told():
    assert fit_of("mistral", sliding_window=64).notes[-1].startswith("the model looks back 64 tokens")
    assert not any("looks back" in note for note in fit_of("mistral").notes)


def test_every_declared_architecture_has_a_model_in_the_zoo():
    assert {make(name).config.model_type for name in ZOO} == set(ARCHITECTURES)


def test_positions_of_older_configurations_are_read():
    old = {"rope_theta": 500_000.0, "rope_scaling": {"type": "linear", "factor": 2.0}}
    assert rope_problems(old) == []
    assert settings_of({"num_local_experts": 4})["num_experts"] == 4
