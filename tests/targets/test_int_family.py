"""What compressed-tensors, GPTQ and AWQ have in common."""

from __future__ import annotations

import pytest
import torch

import workbench as wb
from tests.stored_models import built
from tests.targets.exported import a_weight, choice, hand_made, mixed, outline, quantized
from tests.tiny_models import hushed
from workbench.checkpoint.native import ModuleFormat
from workbench.recipe.recipe import Recipe, Rule
from workbench.targets import int_family
from workbench.targets.awq import Awq
from workbench.targets.compressed_tensors import CompressedTensors
from workbench.targets.gptq import Gptq

FAMILY = [CompressedTensors(), Awq(), Gptq()]


@pytest.fixture(autouse=True)
def _hushed():
    with hushed():
        yield


def by_name(target):
    return target.name


@pytest.mark.parametrize("target", FAMILY, ids=by_name)
def test_such_a_k_is_refused_by_name(target):
    fit = target.fit(outline(quantized("llama_odd", Recipe(choice(32)))))
    assert fit.state == "refused"
    assert fit.change == {}
    assert {misfit.what for misfit in fit.misfits} >= {"in_features 56", "in_features 77"}


@pytest.mark.parametrize("target", FAMILY, ids=by_name)
def test_conv1d_layers_are_refused(target):
    fit = target.fit(outline(quantized("gpt2", Recipe(choice(32)))))
    assert "Conv1D" in str(fit)


@pytest.mark.parametrize("target", FAMILY, ids=by_name)
def test_stacked_experts_without_their_names_are_refused(target):
    model = built("mixtral", torch.bfloat16)
    wb.quantize_(model, Recipe(choice(32, "symmetric")))
    fit = target.fit(outline(model))
    assert any("experts" in misfit.what for misfit in fit.misfits)
    assert "leave the experts dense" in str(fit)


@pytest.mark.parametrize("target", FAMILY, ids=by_name)
def test_repeated_scales_are_said_with_what_they_cost(target):
    notes = " ".join(target.fit(outline(mixed())).notes)
    all_in_one = "5 layers have larger groups; all are written in groups of 64"
    some = "2 layers are written in smaller groups than they have"  # gate_proj beside up_proj, and 192 columns
    assert f"{some if target.name == 'gptq' else all_in_one} with their scales repeated: the same weights" in notes


@pytest.mark.parametrize("target", FAMILY, ids=by_name)
def test_experts_are_written_in_one_size(target):
    sizes = {"model.layers.0.mlp.experts.0.up_proj": 32, "model.layers.0.self_attn.q_proj": 128}
    forms = {name: ModuleFormat(128, 128, size, "symmetric", "bfloat16") for name, size in sizes.items()}
    kinds = dict.fromkeys(forms, "linear") | {next(iter(forms)): "experts"}
    said = hand_made(a_weight(), int4=forms, kinds=kinds)
    assert {form.group_size for form in target.written(said).int4.values()} == {32}


@pytest.mark.parametrize("target", [FAMILY[1], FAMILY[2]], ids=by_name)
def test_rows_must_fill_words(target):
    assert "out_features 12" in str(target.fit(hand_made(a_weight(n=12))))


def test_awq_refuses_a_dense_path_within_an_int4_one():
    form = ModuleFormat.of(a_weight())
    said = hand_made(a_weight(), int4={"a.gate_proj": form}, kinds={"a.gate_proj": "linear"}, dense_layers=("a.gate",))
    assert "a.gate dense" in str(Awq().fit(said))
    assert Gptq().fit(said).state != "refused"


def test_sets_that_an_engine_fuses_are_told_of_when_they_are_int4_in_part():
    parted = quantized("qwen2", Recipe(choice(32), (Rule("v_proj", None), Rule("o_proj", None))))
    (note,) = [note for note in FAMILY[0].fit(outline(parted)).notes if "fuses" in note]
    assert note.startswith("2 sets of layers that vLLM fuses are int4 in part, first model.layers.0.self_attn.q_proj")
    assert not any("fuses" in note for note in FAMILY[0].fit(outline(mixed())).notes)


def test_the_models_dtype_is_what_the_configuration_says_else_that_of_most_tensors():
    weight = a_weight()
    assert int_family.model_dtype(hand_made(weight, "float16")) == torch.float16
    nested = hand_made(weight, config={"text_config": {"torch_dtype": "float32"}})
    assert int_family.model_dtype(nested) == torch.float32
    dense = {"n": (torch.float16, (4,)), "i": (torch.int64, (4,)), "j": (torch.int64, (4,))}
    assert int_family.model_dtype(hand_made(weight, config={}, dense=dense)) == torch.float16
    assert int_family.model_dtype(hand_made(weight, config={})) == torch.bfloat16


def test_what_is_dense_is_ignored_by_its_path():
    model = quantized("qwen2", Recipe(choice(32), (Rule("v_proj", None),)))
    found = int_family.ignored(outline(model))
    assert {"model.layers.0.self_attn.v_proj", "lm_head"} <= set(found)
    assert not set(found) & set(outline(model).int4)


@pytest.mark.parametrize("target", FAMILY, ids=by_name)
def test_the_lines_that_load_it(target, tmp_path):
    lines = target.load_lines(tmp_path, hand_made(a_weight(), config={"architectures": ["Qwen2ForCausalLM"]}))
    own = "GPTQModel.load" if target.name in ("gptq", "awq") else "AutoModelForCausalLM.from_pretrained"
    assert own in lines.python
    assert "from_pretrained" in target.load_lines(tmp_path, hand_made(a_weight())).python
    assert lines.shell == f"vllm serve {tmp_path}"
    compile(lines.python, "lines", "exec")
