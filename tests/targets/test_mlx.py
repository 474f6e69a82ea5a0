"""MLX: every number by formula, and mlx-lm itself, which gives the logits of the dequantized model."""

from __future__ import annotations

import copy
import json
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import workbench as wb
from tests.oracles import random_weight
from tests.targets.mlx_zoo import ZOO, dense_twin, made
from tests.tiny_models import make
from workbench.checkpoint.contents import Outline
from workbench.checkpoint.model_contents import ModelContents
from workbench.checkpoint.native import ModuleFormat
from workbench.errors import CheckpointError
from workbench.recipe.recipe import as_recipe
from workbench.targets.folder import max_error
from workbench.targets.mlx import Mlx
from workbench.targets.mlx_models import TRIED, with_mlx_keys

MLX = Mlx()
G32, G64 = (as_recipe(wb.Int4WeightOnlyConfig(group_size=size)) for size in (32, 64))
IDS = torch.arange(2, 14)[None]
IN_EVERY_RUN = ["llama", "qwen2", "mixtral", "gemma3_text"]  # rotary scaling; ties and biases; experts; sliding windows


def outline(form, dtype=torch.bfloat16, kind="linear", name="layer", model_type="llama"):
    dense = {"norm.weight": (dtype, (4,))}
    return Outline("a", {"model_type": model_type}, {name: form}, {name: kind}, (), dense)


def exported(model, folder):
    contents = ModelContents(model)
    folder.mkdir()
    return list(MLX.write(contents, contents.outline(), folder))


# --- by formula -----------------------------------------------------------------------------------------------------


def slow(tensors, group_size):
    """What mlx's documentation says: bits 4i of a word hold code i, w = q * scale + bias."""
    words, scales, biases = (tensors[f"layer.{name}"] for name in ("weight", "scales", "biases"))
    n, width = words.shape
    out = torch.zeros(n, 8 * width, dtype=torch.float64)
    for row in range(n):
        for column in range(8 * width):
            code = int(words[row, column // 8]) >> 4 * (column % 8) & 15
            group = column // group_size
            out[row, column] = code * float(scales[row, group]) + float(biases[row, group])
    return out


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("domain", ["float", "int", "symmetric"])
def test_each_number_stands_where_the_format_says(domain, dtype):
    weight = random_weight(5, 96, 32, domain=domain)
    said = outline(ModuleFormat.of(weight), dtype)
    tensors = MLX.encode("layer", weight, said)
    assert tensors["layer.weight"].dtype == torch.uint32 and tensors["layer.weight"].shape == (5, 12)
    assert {tensors["layer.scales"].dtype, tensors["layer.biases"].dtype} == {dtype}
    stored = MLX.decode("layer", tensors, ModuleFormat.of(weight))
    assert torch.equal(stored.codes, weight.codes)
    found, error = slow(tensors, 32), max_error(weight, stored)
    assert torch.allclose(found, stored.dequantize().double(), rtol=0, atol=2**-20 * float(found.abs().max()))
    assert MLX.rounds(said) or error == 0
    assert sum(t.numel() * t.element_size() for t in tensors.values()) + 4 * dtype.itemsize == MLX.size_bytes(said)


def test_what_is_rounded_is_said():
    forms = {domain: ModuleFormat(8, 64, 32, domain, "bfloat16") for domain in ("float", "int", "symmetric")}
    said = {domain: MLX.rounds(outline(form)) for domain, form in forms.items()}
    assert said == {"float": "biases to bfloat16", "int": "biases to bfloat16", "symmetric": ""}
    said = {domain: MLX.rounds(outline(form, torch.float32)) for domain, form in forms.items()}
    assert said == {"float": "biases to float32", "int": "", "symmetric": ""}
    assert MLX.rounds(outline(ModuleFormat(8, 64, 32, "symmetric", "float32"))) == "scales and biases to bfloat16"


def test_a_scale_beyond_float16_is_refused():
    weight = random_weight(5, 96, 32)
    large = wb.QuantizedWeight(weight.codes, weight.scale * 1e6, weight.zero, 32, "float")
    with pytest.raises(CheckpointError, match=r"outside float16.*bfloat16 or float32"):
        MLX.encode("layer", large, outline(ModuleFormat.of(large), torch.float16))


# --- what does not fit ----------------------------------------------------------------------------------------------


def test_groups_that_mlx_lacks_get_the_largest_that_divides():
    fit = MLX.fit(outline(ModuleFormat(8, 320, 256, "float", "bfloat16")))
    assert fit.state == "refused" and fit.change == {"layer": {"group_size": 64}}
    assert "group_size 256" in str(fit)
    fit = MLX.fit(outline(ModuleFormat(8, 96, 64, "float", "bfloat16")))
    assert fit.change == {"layer": {"group_size": 32}} and "in_features 96" in str(fit)
    fit = MLX.fit(outline(ModuleFormat(8, 77, 32, "float", "bfloat16")))
    assert fit.state == "refused" and not fit.change and "leave these layers dense" in str(fit)


def test_other_kinds_and_unknown_experts_are_refused():
    form = ModuleFormat(8, 64, 32, "float", "bfloat16")
    assert "kind conv1d" in str(MLX.fit(outline(form, kind="conv1d")))
    stack = ModuleFormat(8, 64, 32, "float", "bfloat16", experts=4)
    name = "model.layers.0.mlp.experts.down_proj"
    assert MLX.fit(outline(stack, kind="experts", name=name, model_type="mixtral")).state == "rounded"
    fit = MLX.fit(outline(stack, kind="experts", name=name, model_type="gpt_oss"))
    assert "experts of model_type 'gpt_oss'" in str(fit) and "mixtral" in str(fit)


def test_a_model_type_that_was_not_tried_is_noted():
    form = ModuleFormat(8, 64, 32, "float", "bfloat16")
    assert MLX.fit(outline(form)).notes == ()
    assert "'opt'" in MLX.fit(outline(form, model_type="opt")).notes[0]
    assert set(ZOO) == TRIED


# --- config.json ----------------------------------------------------------------------------------------------------


def test_the_base_of_rotary_embeddings_is_written_where_mlx_lm_reads_it():
    plain = {"rope_parameters": {"rope_type": "default", "rope_theta": 5.0, "partial_rotary_factor": 0.5}}
    assert with_mlx_keys(plain) == {**plain, "rope_theta": 5.0, "partial_rotary_factor": 0.5, "rope_scaling": None}
    linear = {"rope_parameters": {"rope_type": "linear", "rope_theta": 5.0, "factor": 2.0}}
    assert with_mlx_keys(linear)["rope_scaling"] == {**linear["rope_parameters"], "type": "linear"}
    nested = {"rope_parameters": {"full_attention": {"rope_theta": 5.0}, "sliding_attention": {"rope_theta": 6.0}}}
    assert (with_mlx_keys(nested)["rope_theta"], with_mlx_keys(nested)["rope_local_base_freq"]) == (5.0, 6.0)
    assert with_mlx_keys({"text_config": plain})["text_config"]["rope_theta"] == 5.0
    assert with_mlx_keys({"model_type": "gpt2"}) == {"model_type": "gpt2"}


def test_the_order_of_sliding_layers_is_written_where_mlx_lm_reads_it():
    sliding, full = "sliding_attention", "full_attention"
    written = {
        (sliding, sliding, full, sliding): 3,
        (sliding, full, sliding, full): 2,
        (full, sliding, full): None,
        (sliding, full, full): None,
        (full, full): None,
    }
    for layers, pattern in written.items():
        assert with_mlx_keys({"layer_types": list(layers)}).get("sliding_window_pattern") == pattern


# --- mlx-lm ---------------------------------------------------------------------------------------------------------


def loaded(folders):
    """Return what mlx-lm makes of each folder: logits, and int4 weights by name."""
    if sys.platform != "linux" and platform.machine() != "arm64":  # elsewhere the test extra brings it
        pytest.skip("no mlx for this platform")
    script = Path(__file__).with_name("mlx_loading.py")
    subprocess.run([sys.executable, script, *folders], check=True, capture_output=True, timeout=300)
    return [dict(np.load(f"{folder}.npz")) for folder in folders]


def compared(name, folder, recipe=G32):
    """Export a model type; return the model, what was written, and the logits of its dense twin."""
    model = made(name)
    dense = copy.deepcopy(model)
    wb.quantize_(model, recipe)
    with torch.inference_mode():
        logits = dense_twin(dense, model)(input_ids=IDS).logits
    return model, exported(model, folder), logits.numpy()


def mixed_llama():
    """A bfloat16 Llama of mixed groups with an int4 head and a dense layer in each block."""
    model = make("llama_wide").to(torch.bfloat16)
    recipe = G64.with_rule("*.q_proj", G32.default).with_rule("*.v_proj", None).with_rule("lm_head", G64.default)
    wb.quantize_(model, recipe)
    return model


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """Everything that mlx-lm loads, in one process of it: name → (model, written, logits wanted, what mlx-lm has)."""
    root = tmp_path_factory.mktemp("mlx")
    said = {name: compared(name, root / name) for name in IN_EVERY_RUN}
    said["dense experts"] = compared("qwen3_moe", root / "dense experts", G32.with_rule("*.experts.*", None))
    mixed = mixed_llama()
    said["mixed"] = mixed, exported(mixed, root / "mixed"), None
    return root, {name: (*said[name], one) for name, one in zip(said, loaded([root / n for n in said]), strict=True)}


def check_logits(written, wanted, found):
    assert max(layer.max_error for layer in written) < 1e-8
    assert np.abs(found["logits"] - wanted).max() < 1e-5 * wanted.std() + 1e-6


@pytest.mark.parametrize("name", [*IN_EVERY_RUN, "dense experts"])
def test_mlx_lm_gives_the_logits_of_the_dequantized_model(seen, name):
    check_logits(*seen[1][name][1:])


@pytest.mark.soak
def test_mlx_lm_gives_the_logits_of_every_model_type_tried(tmp_path):
    said = {name: compared(name, tmp_path / name) for name in sorted(TRIED)}
    for name, found in zip(said, loaded([tmp_path / name for name in said]), strict=True):
        check_logits(*said[name][1:], found)


def test_mixed_groups_and_dense_layers_stand_in_the_config(seen):
    config = json.loads((seen[0] / "mixed" / "config.json").read_text())
    assert config["quantization"] == config["quantization_config"]
    assert config["quantization"] == {
        **{"group_size": 64, "bits": 4, "mode": "affine", "model.layers.0.self_attn.v_proj": False},
        "model.layers.0.self_attn.q_proj": {"group_size": 32, "bits": 4, "mode": "affine"},
    }


def test_mlx_dequantizes_to_our_weights_but_for_the_rounding_that_is_reported(seen):
    model, written, _, found = seen[1]["mixed"]
    names = {name for name, module in model.named_modules() if isinstance(module, wb.Int4Linear)}
    assert names == set(found) - {"logits"} == {layer.name for layer in written} and "lm_head" in names
    for layer in written:
        ours = model.get_submodule(layer.name).quantized_weight()
        difference = np.abs(found[layer.name] - ours.dequantize().numpy()).max()
        assert difference == pytest.approx(layer.max_error, abs=1e-7)
        assert 0 < layer.max_error <= 2**-8 * float(ours.minimum().abs().max())


def test_stacks_of_experts_are_cut_into_gate_up_and_down(seen):
    model, _, _, found = seen[1]["mixtral"]
    whole = model.get_submodule("model.layers.0.mlp.experts.gate_up_proj").quantized_weight().dequantize()
    gate, up = whole.view(4, 2, 96, 64).numpy().swapaxes(0, 1)
    prefix = "model.layers.0.block_sparse_moe.switch_mlp"
    assert np.allclose(found[f"{prefix}.gate_proj"], gate, atol=1e-7)
    assert np.allclose(found[f"{prefix}.up_proj"], up, atol=1e-7)
