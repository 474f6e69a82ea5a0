"""GPTQ v2 folders against a slow reader that follows the format's definition, bit by bit."""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors.torch import load_file

from tests.targets.exported import a_weight, choice, hand_made, mixed, outline, quantized, weights, write
from tests.tiny_models import hushed
from workbench.foreign.gptq import GptqFolder
from workbench.recipe.recipe import Recipe, Rule
from workbench.targets.gptq import Gptq

TARGET = Gptq()


def slow_weight(tensors, name, less=0):
    """W[n, k] = (q - zero) * scale; v1 stores zeros `less` one."""
    qweight, qzeros, scales, g_idx = (tensors[f"{name}.{part}"] for part in ("qweight", "qzeros", "scales", "g_idx"))
    weight = torch.empty(scales.shape[1], g_idx.numel())
    for n in range(weight.shape[0]):
        for k in range(weight.shape[1]):
            group = int(g_idx[k])
            code = (int(qweight[k // 8, n]) >> (4 * (k % 8))) & 15
            zero = ((int(qzeros[group, n // 8]) >> (4 * (n % 8))) & 15) + less
            weight[n, k] = (code - zero) * float(scales[group, n])
    return weight


def dynamic_get(dynamic, name):
    """The settings of the first pattern that matches a path: False for dense, None for those of all."""
    for pattern, own in dynamic.items():
        if re.match(pattern[2:], name):
            return False if pattern.startswith("-:") else own
    return None


@pytest.mark.parametrize("domain", ["int", "symmetric"])
def test_the_weights_are_those_of_the_format(domain, tmp_path):
    model = quantized("qwen2", Recipe(None, (Rule("k_proj", choice(64, domain)),)), hidden_size=96)
    with hushed():
        written = write(TARGET, model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    for name, wanted in weights(model).items():
        assert torch.equal(slow_weight(tensors, name), wanted)
        assert tensors[f"{name}.scales"].dtype == torch.float16
        assert tensors[f"{name}.g_idx"].dtype == torch.int32
    assert max(layer.max_error for layer in written) == 0


def test_a_subnormal_scale_rounds_and_is_reported(tmp_path):
    weight = a_weight(scale=torch.full((8, 2), 1.03e-6, dtype=torch.bfloat16))
    said = hand_made(weight)
    assert TARGET.fit(said).rounds == "scales to float16 (exact from 6.1e-5 to 65504)"
    stored = TARGET.decode("a", TARGET.encode("a", weight, TARGET.written(said)), said.int4["a"])
    assert 0 < float((stored.scale - weight.scale.float()).abs().max()) < 2**-25


def test_the_configuration_names_what_is_dense(tmp_path):
    model = mixed()
    with hushed():
        write(TARGET, model, tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert (settings["checkpoint_format"], settings["group_size"], settings["sym"]) == ("gptq_v2", 128, False)
    found = {name: dynamic_get(settings["dynamic"], name) for name in outline(model).int4}
    assert dynamic_get(settings["dynamic"], "model.layers.0.self_attn.o_proj") is False
    assert False not in found.values()
    assert {name.rpartition(".")[2]: own["group_size"] for name, own in found.items() if own} == {
        "gate_proj": 64,
        "up_proj": 64,
        "down_proj": 64,
    }
    assert dynamic_get(settings["dynamic"], "model.layers.0.mlp.gate_up_proj") == {"group_size": 64}  # vLLM's own name
    assert dynamic_get(settings["dynamic"], "model.layers.0.self_attn.qkv_proj") is None


def test_a_set_that_stays_dense_is_named_as_engines_fuse_it(tmp_path):
    model = quantized("qwen2", Recipe(choice(32), (Rule("mlp", None), Rule("q_proj", None))), num_hidden_layers=1)
    with hushed():
        write(TARGET, model, tmp_path)
    dynamic = json.loads((tmp_path / "config.json").read_text())["quantization_config"]["dynamic"]
    assert dynamic_get(dynamic, "model.layers.0.mlp.gate_up_proj") is False
    assert dynamic_get(dynamic, "model.layers.0.self_attn.qkv_proj") is None  # int4 in part, which is told


@pytest.mark.parametrize("domain", ["int", "symmetric"])
def test_layers_of_several_group_sizes_come_back_and_forecast_their_bytes(domain, tmp_path):
    model = mixed(domain)
    with hushed():
        write(TARGET, model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    for name, wanted in weights(model).items():
        assert torch.equal(slow_weight(tensors, name), wanted)
    assert len({tensors[f"{name}.scales"].shape[0] for name in weights(model)}) > 1
    back = {part.name: part.weight for part in GptqFolder(tmp_path).parts() if part.weight is not None}
    assert all(torch.equal(back[name].dequantize(), weight) for name, weight in weights(model).items())


def test_the_forecast_is_what_the_tensors_take(tmp_path):
    model = mixed()
    with hushed():
        write(TARGET, model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert TARGET.fit(outline(model)).size_bytes == sum(tensor.nbytes for tensor in tensors.values())


def test_zero_points_carry_a_warning():
    assert any("one too high" in note for note in TARGET.fit(outline(mixed())).notes)
    assert not any("one too high" in note for note in TARGET.fit(outline(mixed("symmetric"))).notes)
