"""compressed-tensors folders: by transformers' own loader, and against a slow reader of the format."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import transformers
from safetensors.torch import load_file

import workbench as wb
from tests.stored_models import built
from tests.targets.exported import (
    SIZES,
    a_weight,
    choice,
    dense_twin,
    hand_made,
    mixed,
    outline,
    quantized,
    stand_for,
    weights,
    write,
    write_named,
)
from tests.tiny_models import hushed, logits
from workbench.checkpoint.model_contents import ModelContents
from workbench.errors import CheckpointError
from workbench.foreign.compressed_tensors import CompressedTensorsFolder
from workbench.hf.reverse_names import NamedContents
from workbench.recipe.recipe import Recipe, Rule
from workbench.targets.compressed_tensors import CompressedTensors
from workbench.targets.folder import max_error

TARGET = CompressedTensors()


@pytest.fixture(autouse=True)
def _hushed():
    with hushed():
        yield


def loaded(model, folder, *, dequantize=True):
    given = {"quantization_config": transformers.CompressedTensorsConfig(dequantize=True)} if dequantize else {}
    return type(model).from_pretrained(folder, **given).eval()


def nibble(word, place):
    return (int(word) >> (4 * place)) & 15


def slow_weight(tensors, name, group_size):
    """W[n, k] = (q - zero) * scale, bit by bit."""
    packed, scale = tensors[f"{name}.weight_packed"], tensors[f"{name}.weight_scale"]
    zeros = tensors.get(f"{name}.weight_zero_point")
    n_all, k_all = tensors[f"{name}.weight_shape"].tolist()
    weight = torch.empty(n_all, k_all)
    for n in range(n_all):
        for k in range(k_all):
            group = k // group_size
            zero = 8 if zeros is None else nibble(zeros[n // 8, group], n % 8)
            weight[n, k] = (nibble(packed[n, k // 8], k % 8) - zero) * float(scale[n, group])
    return weight


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("domain", ["int", "symmetric"])
def test_transformers_loads_the_same_weights_and_logits(domain, dtype, tmp_path):
    model = mixed(domain, dtype)
    written = write(TARGET, model, tmp_path / "ct")
    twin = dense_twin("qwen2", model, tmp_path / "twin", **SIZES)
    found = loaded(twin, tmp_path / "ct", dequantize=domain == "int")  # groups of several sizes in one, or as they are
    assert {layer.name for layer in written} == set(weights(model))
    assert max(layer.max_error for layer in written) == 0
    assert found.dtype == dtype
    assert torch.equal(logits(found), logits(twin))  # what is loaded as it is becomes dense in the first forward pass
    for name, value in twin.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name


@pytest.mark.parametrize("dequantize", [False, True])
def test_a_symmetric_folder_of_one_group_size_loads_either_way(dequantize, tmp_path):
    model = quantized("qwen2", Recipe(choice(64, "symmetric"), (Rule("o_proj", None),)), **SIZES)
    write(TARGET, model, tmp_path / "ct")
    found = loaded(dense_twin("qwen2", model, tmp_path / "twin", **SIZES), tmp_path / "ct", dequantize=dequantize)
    twin = type(found).from_pretrained(tmp_path / "twin").eval()
    assert torch.equal(logits(found), logits(twin))


def test_each_group_size_has_a_config_group_that_names_its_layers(tmp_path):
    model = mixed("symmetric")
    write(TARGET, model, tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    said = {name: one["weights"]["group_size"] for one in settings["config_groups"].values() for name in one["targets"]}
    assert set(said) == set(outline(model).int4)  # no class of layers, which vLLM would take for the fused ones
    assert {one.rpartition(".")[2]: size for one, size in said.items()} == {
        **dict.fromkeys(("q_proj", "k_proj", "v_proj"), 128),
        **dict.fromkeys(("gate_proj", "up_proj"), 64),  # gate_proj has 128: engines fuse it with up_proj
        "down_proj": 64,  # of 192 columns
    }
    tensors = load_file(tmp_path / "model.safetensors")
    for name, size in said.items():
        assert tensors[f"{name}.weight_scale"].shape[1] * size == tensors[f"{name}.weight_shape"][1]
    fit = TARGET.fit(outline(model))
    assert any("groups of several sizes: transformers loads them as they are" in note for note in fit.notes)
    assert "dequantize" not in TARGET.load_lines(tmp_path, outline(model)).python
    back = {part.name: part.weight for part in CompressedTensorsFolder(tmp_path).parts() if part.weight is not None}
    assert all(torch.equal(back[name].dequantize(), weight) for name, weight in weights(model).items())


def test_an_int4_output_head_that_was_tied(tmp_path):
    model = quantized("qwen2", Recipe(choice(32), output_head=True))
    write(TARGET, model, tmp_path / "ct")
    found = type(model).from_pretrained(
        tmp_path / "ct", quantization_config=transformers.CompressedTensorsConfig(dequantize=True)
    )
    assert torch.equal(found.lm_head.weight.float(), weights(model)["lm_head"].bfloat16().float())
    assert torch.equal(found.model.embed_tokens.weight, model.model.embed_tokens.weight)
    assert any("vLLM does not" in note for note in TARGET.fit(outline(model)).notes)


def test_an_encoder_and_decoder_of_several_group_sizes_loads_in_the_smallest(tmp_path):
    rules = (Rule("wo", choice(32, "symmetric")),)
    model = quantized("t5", Recipe(choice(64, "symmetric"), rules, output_head=True))
    write(TARGET, model, tmp_path / "ct")
    assert {form.group_size for form in TARGET.written(outline(model)).int4.values()} == {32}
    assert "dequantize=True" in TARGET.load_lines(tmp_path, outline(model)).python
    found = loaded(model, tmp_path / "ct").state_dict()
    for name, weight in weights(model).items():
        assert torch.equal(found[f"{name}.weight"].float(), weight.to(found[f"{name}.weight"].dtype).float()), name


@pytest.mark.parametrize("domain", ["int", "symmetric"])
def test_the_tensors_are_those_of_the_format(domain, tmp_path):
    model = quantized("llama_odd", Recipe(None, (Rule("q_proj", choice(64, domain)),)), hidden_size=96)
    write(TARGET, model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj"
    assert torch.equal(slow_weight(tensors, name, 32), weights(model)[name])
    assert (f"{name}.weight_zero_point" in tensors) == (domain == "int")
    assert tensors[f"{name}.weight_scale"].dtype == torch.bfloat16
    assert tensors[f"{name}.weight_shape"].tolist() == [96, 96]


def test_the_configuration_is_one_group_and_ignores_what_is_dense(tmp_path):
    write(TARGET, mixed(), tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert list(settings["config_groups"]) == ["group_0"]
    weights_of = settings["config_groups"]["group_0"]["weights"]
    assert (weights_of["group_size"], weights_of["symmetric"], weights_of["num_bits"]) == (64, False, 4)
    assert {"model.layers.0.self_attn.o_proj", "lm_head"} <= set(settings["ignore"])


def test_the_forecast_is_what_the_tensors_take(tmp_path):
    model = mixed()
    write(TARGET, model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert TARGET.fit(outline(model)).size_bytes == sum(tensor.nbytes for tensor in tensors.values())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_float32_scales_are_rounded_to_the_models_dtype(dtype):
    weight = a_weight(scale=torch.full((8, 2), 0.0123456789))
    said = hand_made(weight, dtype)
    stored = TARGET.decode("a", TARGET.encode("a", weight, TARGET.written(said)), said.int4["a"])
    assert TARGET.fit(said).rounds.startswith(f"scales to {dtype}")
    assert torch.equal(stored.codes, weight.codes)
    assert torch.equal(stored.scale, weight.scale.to(getattr(torch, dtype)).float())
    steps = int((weight.codes.int() - weight.zero.int().repeat_interleave(32, dim=1)).abs().max())
    wanted = steps * abs(0.0123456789 - float(stored.scale[0, 0]))
    assert max_error(weight, stored) == pytest.approx(wanted, rel=1e-3)


def test_a_scale_that_float16_cannot_hold_is_refused():
    weight = a_weight(scale=torch.full((8, 2), 1e5, dtype=torch.bfloat16))
    with pytest.raises(CheckpointError, match=r"a has a scale of .* Allowed: up to 65504 in float16"):
        TARGET.encode("a", weight, TARGET.written(hand_made(weight, "float16")))


def test_float_is_refused_with_the_offer_to_solve_again():
    model = quantized("qwen2", Recipe(choice(32), (Rule("o_proj", choice(32, "float")),)))
    fit = TARGET.fit(outline(model))
    assert fit.state == "refused"
    assert fit.change == {f"model.layers.{layer}.self_attn.o_proj": {"domain": "int"} for layer in (0, 1)}
    with pytest.raises(CheckpointError, match="from the original weights"):
        fit.check()


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "deepseek_v3"])
def test_transformers_loads_a_mixture_of_experts(family, tmp_path):
    model = built(family, torch.bfloat16)
    twin = copy.deepcopy(model)
    wb.quantize_(model, Recipe(choice(32, "symmetric")))
    written = write_named(TARGET, model, tmp_path / "ct")
    stand_for(twin, model)
    twin.save_pretrained(tmp_path / "twin")
    twin = type(twin).from_pretrained(tmp_path / "twin").eval()
    found = loaded(twin, tmp_path / "ct")
    assert max(layer.max_error for layer in written) == 0
    for name, value in twin.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name
    assert torch.equal(logits(found), logits(twin))
    tensors = load_file(tmp_path / "ct" / "model.safetensors")
    settings = json.loads((tmp_path / "ct" / "config.json").read_text())["quantization_config"]
    routers = [name.removesuffix(".weight") for name in tensors if name.endswith(".gate.weight")]
    assert routers and set(routers) <= set(settings["ignore"])
    contents = NamedContents(ModelContents(model))
    assert TARGET.fit(contents.outline()).size_bytes == sum(tensor.nbytes for tensor in tensors.values())


def test_experts_with_zero_points_are_refused_with_the_change():
    model = built("mixtral", torch.bfloat16)
    wb.quantize_(model, Recipe(choice(32, "int")))
    fit = TARGET.fit(NamedContents(ModelContents(model)).outline())
    assert fit.state == "refused"
    assert fit.change["model.layers.0.mlp.experts.gate_up_proj"] == {"domain": "symmetric"}
