"""PEFT's LoRA over int4 layers: as over dense ones where that is right, refused in words where it is not."""

from __future__ import annotations

import copy
import math
import subprocess
import sys

import peft
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

import workbench as wb
import workbench.hf
from tests.test_adapter import dense_twin, int4_names, learning, loss_of, trained
from tests.tiny_models import logits, make
from workbench.errors import ConfigError, ModelError
from workbench.hf.lora import INITS, Int4LoraLinear, register

G32 = wb.Int4WeightOnlyConfig(group_size=32)
QV = ["q_proj", "v_proj"]


# PEFT asks transformers by names that transformers renames.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def int4(family="qwen2", dtype=torch.float32):
    model = make(family).to(dtype)
    wb.quantize_(model, G32)
    return model


def adapted(model, seed=3, **settings):
    """LoRA of rank 4 with weights that are not zero."""
    found = get_peft_model(model, LoraConfig(**{"r": 4, "target_modules": QV, **settings}))
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            if "lora_" in name and "magnitude" not in name:
                parameter.normal_(std=0.2)
    return found.eval()


def lora_layers(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, Int4LoraLinear)}


# --- what is wrapped ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_new_adapter_changes_nothing_and_lies_where_its_base_does(dtype):
    model = int4(dtype=dtype)
    before = logits(model)
    found = get_peft_model(model, LoraConfig(r=4, target_modules=QV))
    layers = lora_layers(found)
    assert len(layers) == 4 and all(name.endswith(("q_proj", "v_proj")) for name in layers)
    for layer in layers.values():
        assert (layer.in_features, layer.out_features) == (layer.base_layer.in_features, layer.base_layer.out_features)
        assert layer.lora_A["default"].weight.dtype == torch.float32  # PEFT's default over 16 bits too
        assert layer.lora_A["default"].weight.device == layer.base_layer.device
    assert torch.equal(logits(found), before)


@pytest.mark.parametrize("family", ["qwen2", "opt", "t5", "gpt2"])
def test_all_linear_means_the_layers_that_it_means_over_the_dense_model(family):
    config = LoraConfig(r=2, target_modules="all-linear")
    dense = get_peft_model(make(family), copy.deepcopy(config))
    over_int4 = get_peft_model(int4(family), config)
    assert over_int4.peft_config["default"].target_modules == dense.peft_config["default"].target_modules
    assert len(lora_layers(over_int4)) == len(int4_names(over_int4))


def test_all_linear_leaves_an_int4_head_and_reaches_layers_beside_an_adapter():
    model = make("qwen2", tie_word_embeddings=False)
    wb.quantize_(model, G32, include=["*_proj", "lm_head"])
    assert "lm_head" in int4_names(model)
    found = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    found.add_adapter("second", LoraConfig(r=2, target_modules="all-linear"))
    names = {name.removeprefix("base_model.model.") for name in lora_layers(found)}
    assert len(names) == 14 and "lm_head" not in names
    assert all("second" in layer.lora_A for layer in lora_layers(found).values())


def test_a_model_without_int4_layers_is_as_before():
    found = get_peft_model(make("qwen2"), LoraConfig(r=4, init_lora_weights="pissa", target_modules=QV))
    assert type(found.base_model.model.model.layers[0].self_attn.q_proj) is peft.tuners.lora.Linear
    assert found.merge_and_unload() is not None


def test_dense_and_int4_layers_of_one_model_are_adapted_alike():
    model = make("qwen2")
    wb.quantize_(model, G32, exclude="*.v_proj")
    found = adapted(model)
    attention = found.base_model.model.model.layers[0].self_attn
    assert isinstance(attention.q_proj, Int4LoraLinear) and type(attention.v_proj) is peft.tuners.lora.Linear


# --- what is computed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"lora_bias": True}, {"use_dora": True}], ids=str)
def test_the_layer_computes_the_formula(settings):
    layer = adapted(int4(), lora_alpha=3, **settings).base_model.model.model.layers[1].self_attn.q_proj
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(1))
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    scaling = 3 / (math.sqrt(4) if "use_rslora" in settings else 4)
    weight, bias = layer.base_layer.weight, layer.base_layer.bias
    if "use_dora" in settings:  # m (W + s B A) / ||W + s B A||, Liu et al. 2024, over the weight that is multiplied
        whole = weight + scaling * (b @ a)
        magnitude = layer.lora_magnitude_vector["default"].weight
        want = x @ (whole * (magnitude / whole.norm(dim=1))[:, None]).T + bias
    else:
        want = x @ weight.T + bias + scaling * (x @ a.T @ b.T)
    if "lora_bias" in settings:
        want = want + scaling * layer.lora_B["default"].bias
    got = layer(x)
    assert (got - want).norm() / want.norm() < 4e-3


def test_dora_starts_at_the_norms_of_the_int4_weight():
    found = get_peft_model(int4(), LoraConfig(r=4, target_modules=QV, use_dora=True))
    for layer in lora_layers(found).values():
        norms = layer.base_layer.weight.norm(dim=1)
        assert torch.allclose(layer.lora_magnitude_vector["default"].weight, norms)


def test_the_habits_of_conv1d_do_no_harm():
    settings = {"target_modules": ["c_attn"], "fan_in_fan_out": True}  # as PEFT asks for over GPT-2
    model = int4("gpt2")
    layer = adapted(model, **settings).base_model.model.transformer.h[0].attn.c_attn
    assert not layer.fan_in_fan_out
    assert layer.lora_A["default"].weight.shape == (4, 64) and layer.lora_B["default"].weight.shape == (192, 4)
    dense = adapted(make("gpt2"), **settings).base_model.model.transformer.h[0].attn.c_attn
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(1))
    delta, want = layer(x) - layer.base_layer(x), dense(x) - dense.base_layer(x)
    assert torch.allclose(delta, want, atol=1e-5)


@pytest.mark.parametrize("family", ["qwen2", "opt"])
def test_the_model_is_near_its_dense_twin_with_the_same_adapter(family):
    model = int4(family)
    twin = adapted(dense_twin(model))
    found = adapted(model)
    want = logits(twin)
    assert (logits(found) - want).norm() / want.norm() < 6e-3
    with found.disable_adapter(), twin.disable_adapter():
        assert (logits(found) - want).norm() / want.norm() > 0.02  # the adapter does something


@pytest.mark.parametrize("init", INITS)
def test_each_way_to_start_leaves_the_base_as_it_is(init):
    model = int4()
    before = logits(model)
    codes = {name: model.get_submodule(name).quantized_weight().codes for name in int4_names(model)}
    found = get_peft_model(model, LoraConfig(r=4, target_modules=QV, init_lora_weights=init))
    for name, want in codes.items():
        layer = found.base_model.model.get_submodule(name)
        assert torch.equal(getattr(layer, "base_layer", layer).quantized_weight().codes, want)
    with found.disable_adapter():
        assert torch.equal(logits(found), before)


def test_adapters_are_chosen_by_row_of_the_batch():
    model = adapted(int4())
    model.add_adapter("other", LoraConfig(r=2, target_modules=QV, init_lora_weights="gaussian"))
    ids = torch.arange(2, 14)[None]
    with torch.inference_mode():
        mixed = model(input_ids=ids.repeat(2, 1), adapter_names=["default", "__base__"]).logits
        alone = model(input_ids=ids).logits
        with model.disable_adapter():
            base = model(input_ids=ids).logits
    assert torch.allclose(mixed[0], alone[0], atol=2e-3) and torch.allclose(mixed[1], base[0], atol=2e-3)
    assert not torch.allclose(alone, base, atol=1e-2)


# --- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"use_dora": True}, {"lora_dropout": 0.1}], ids=str)
def test_training_lowers_the_loss_and_only_adapters_learn(settings):
    model = int4()
    before = logits(model)
    found = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", **settings)).train()
    losses = trained(found)
    assert losses[-1] < losses[0] - 0.2
    assert {name for name, one in found.named_parameters() if one.grad is not None} == set(learning(found))
    assert all("lora_" in name for name in learning(found))
    with found.disable_adapter():
        assert torch.equal(logits(found), before)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_of_activations_gives_the_same_gradients(reentrant):
    model = int4()
    found = adapted(model).train()
    loss_of(found).backward()
    want = {name: one.grad.clone() for name, one in learning(found).items()}
    found.zero_grad()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    model.enable_input_require_grads()
    loss_of(found).backward()
    assert all(torch.allclose(one.grad, want[name], atol=1e-5) for name, one in learning(found).items())


def test_prepared_for_training_as_other_quantized_models_are():
    found = adapted(peft.prepare_model_for_kbit_training(int4(dtype=torch.bfloat16))).train()
    losses = trained(found)
    assert losses[-1] < losses[0]


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"use_dora": True}, {"target_modules": "all-linear"}], ids=str)
def test_an_adapter_goes_to_a_file_and_back_over_a_checkpoint(settings, tmp_path):
    model = int4()
    wb.save_checkpoint(model, tmp_path / "int4")
    found = adapted(model, **settings)
    found.save_pretrained(tmp_path / "adapter")
    want = logits(found)
    loaded = PeftModel.from_pretrained(wb.load_checkpoint(tmp_path / "int4")[0], tmp_path / "adapter")
    assert torch.equal(logits(loaded), want)
    assert len(lora_layers(loaded)) == len(lora_layers(found))
    assert not learning(loaded)


def test_an_adapter_is_for_the_dense_model_too_and_can_be_merged_there(tmp_path):
    found = adapted(int4())
    found.save_pretrained(tmp_path / "adapter")
    dense = PeftModel.from_pretrained(make("qwen2"), tmp_path / "adapter").merge_and_unload()
    wb.quantize_(dense, G32)
    assert len(int4_names(dense)) == 14


def test_adapters_through_transformers_itself(tmp_path):
    model = int4()
    wb.save_checkpoint(model, tmp_path / "int4")
    model.add_adapter(LoraConfig(r=4, target_modules=QV, init_lora_weights=False))
    want = logits(model)
    model.save_pretrained(tmp_path / "adapter")
    loaded, _ = wb.load_checkpoint(tmp_path / "int4")
    before = logits(loaded)
    loaded.load_adapter(str(tmp_path / "adapter"))
    assert torch.equal(logits(loaded), want)
    loaded.disable_adapters()
    assert torch.equal(logits(loaded), before)


def test_the_adapter_is_taken_off_again():
    model = int4()
    before = logits(model)
    unloaded = adapted(model).unload()
    assert torch.equal(logits(unloaded), before) and not lora_layers(unloaded)
    again = adapted(unloaded)
    again.add_adapter("other", LoraConfig(r=2, target_modules=QV))
    again.delete_adapter("default")
    again.set_adapter("other")
    assert torch.equal(logits(again), before)


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("merge", ["merge_and_unload", "merge_adapter"])
def test_merging_is_refused_before_anything_is_merged(merge):
    model = make("qwen2")
    wb.quantize_(model, G32, exclude="*.layers.0.*")  # the first adapters lie over dense layers
    found = adapted(model)
    want = logits(found)
    with pytest.raises(ModelError, match=r"merged into int4 weights.*To mend it: put the adapter on the dense model"):
        getattr(found, merge)()
    assert torch.equal(logits(found), want)
    with pytest.raises(ModelError, match="merged into int4"):
        next(iter(lora_layers(found).values())).merge()


def test_a_model_with_adapters_is_neither_quantized_nor_saved_as_if_it_had_none(tmp_path):
    dense = adapted(make("qwen2"))
    with pytest.raises(ModelError, match=r"has adapters of PEFT, first over .*q_proj.*quantize first"):
        wb.quantize_(dense, G32)
    found = adapted(int4())
    for model in (found, found.base_model.model):
        with pytest.raises(ModelError, match=r"has adapters of PEFT.*save the adapters with model\.save_pretrained"):
            wb.save_checkpoint(model, tmp_path / "int4")
    wb.save_checkpoint(found.unload(), tmp_path / "int4")
    assert len(int4_names(wb.load_checkpoint(tmp_path / "int4")[0])) == 14


def test_merging_beside_int4_layers_is_not_refused():
    model = make("qwen2", tie_word_embeddings=False)
    wb.quantize_(model, G32)
    found = adapted(model, target_modules=["lm_head"])
    want = logits(found)
    assert torch.allclose(logits(found.merge_and_unload()), want, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"init_lora_weights": "pissa"}, r"init_lora_weights='pissa' would change the base.*Allowed: True, False"),
        ({"init_lora_weights": "olora"}, "'olora' would change"),
        ({"use_qalora": True}, r"use_qalora=True over int4 layers.*use_dora=True"),
        ({"alora_invocation_tokens": [1], "task_type": "CAUSAL_LM"}, r"alora_invocation_tokens=\[1\] over int4"),
    ],
)
def test_what_would_change_the_base_is_refused_and_the_model_left(settings, match):
    model = int4()
    before = logits(model)
    with pytest.raises(ConfigError, match=match):
        get_peft_model(model, LoraConfig(r=4, target_modules=QV, **settings))
    assert not lora_layers(model) and torch.equal(logits(model), before)


def test_experts_in_int4_are_no_parameters_to_adapt():
    for target in ("experts.gate_up_proj", "mlp.experts.down_proj"):
        with pytest.raises(ConfigError, match=r"is an int4 stack of experts.*exclude="):
            get_peft_model(int4("mixtral"), LoraConfig(r=4, target_modules=QV, target_parameters=[target]))
    before = logits(model := int4("mixtral"))
    with pytest.warns(UserWarning, match=r"Experts in int4 get no adapters: down_proj, gate_up_proj\."):
        found = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    assert len(lora_layers(found)) == len(int4_names(found)) == 8
    assert not any("experts" in name for name in learning(found))
    assert torch.equal(logits(found), before)


def test_other_methods_say_that_they_do_not_know_int4_layers():
    with pytest.raises(TypeError, match=r"Int4Linear.*not supported"):
        get_peft_model(int4(), peft.LoHaConfig(target_modules=QV))


# --- how PEFT is taught ---------------------------------------------------------------------------------------------


def fresh(code):
    """Return the lines that a process of its own prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()


KNOWN = "from peft.tuners.lora.model import LoraModel; print(LoraModel._knows_int4)"


def test_peft_is_imported_by_nobody_but_the_person_and_knows_int4_in_any_order():
    look = "import sys, workbench.hf; print('peft' in sys.modules); "
    assert fresh(look + KNOWN)[-2:] == ["False", "True"]
    assert fresh("import peft, workbench.hf; " + KNOWN)[-1] == "True"


def test_without_peft_all_else_works():
    hide = "import sys; sys.modules['peft'] = None; "
    made = fresh(hide + "import workbench as wb; m, t = wb.demo_model(); print(type(m).__name__)")
    assert made[-1].endswith("CausalLM")


def test_a_second_registration_changes_nothing():
    before = peft.tuners.lora.LoraModel._prepare_adapter_config
    register()
    assert peft.tuners.lora.LoraModel._prepare_adapter_config is before


def test_an_int4_layer_in_a_model_of_ones_own():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(32, 48)

        def forward(self, x):
            return self.first(x)

    model = Plain()
    wb.quantize_(model, G32)
    found = adapted(model, target_modules=["first"])
    assert found(torch.randn(2, 32)).shape == (2, 48)
