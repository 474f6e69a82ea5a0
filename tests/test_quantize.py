"""quantize_: all or nothing, one layer at a time, every step told."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from torch import nn

import workbench as wb
import workbench.quantize as quantize
from tests.tiny_models import QUANTIZABLE, logits, make
from workbench.errors import Cancelled, ConfigError, ModelError, WeightError
from workbench.layers import model_device
from workbench.recipe.recipe import Recipe
from workbench.sources import ModelSource

G32 = wb.Int4WeightOnlyConfig(group_size=32)


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def unchanged(model, before):
    now = model.state_dict()
    assert list(now) == list(before) and all(torch.equal(now[name], before[name]) for name in before)
    assert not any(isinstance(module, wb.Int4Linear) for module in model.modules())
    assert not hasattr(model, "int4_recipe")
    assert getattr(model.config, "quantization_config", None) is None


@pytest.mark.parametrize("name", QUANTIZABLE)
def test_layers_hold_what_the_solver_gives_for_their_weight(name):
    model, dense = make(name), make(name)
    report = wb.quantize_(model, G32)
    assert [layer.name for layer in report.layers] == [row.name for row in report.coverage.int4_rows]
    for row in report.coverage.int4_rows:
        if row.kind == "experts":
            continue
        layer, linear = model.get_submodule(row.name), dense.get_submodule(row.name)
        alone = wb.quantize_weight(linear.weight, G32)
        assert torch.equal(layer.quantized_weight().codes, alone.codes)
        assert (layer.bias is None) == (linear.bias is None)
        assert layer.bias is None or torch.equal(layer.bias, linear.bias)
        assert layer.dtype == linear.weight.dtype
        assert not layer.training
    assert (logits(model) - logits(dense)).abs().max() < 0.5


def test_the_model_is_near_its_dense_self():
    model, _ = wb.demo_model()
    dense = logits(model).float()
    wb.quantize_(model, wb.Int4WeightOnlyConfig(group_size=32, use_hqq=True))
    near = logits(model).float()
    assert torch.nn.functional.cosine_similarity(near, dense, dim=-1).min() > 0.98


def test_hqq_is_never_worse_than_nearest_in_the_report():
    model, _ = wb.demo_model()
    report = wb.quantize_(model, wb.Int4WeightOnlyConfig(group_size=64, use_hqq=True), include="layers.0")
    assert all(layer.solver == "hqq" for layer in report.layers)
    assert all(layer.error <= layer.rtn_error for layer in report.layers)


def test_progress_is_monotone_and_its_totals_are_right():
    model, seen = make("qwen2"), []
    report = wb.quantize_(model, G32, progress=seen.append)
    total = sum(row.parameters for row in report.coverage.int4_rows)
    assert [step.label for step in seen] == [layer.name for layer in report.layers]
    done = [step.done for step in seen]
    assert done == sorted(set(done)) and done[-1] == total
    assert {step.total for step in seen} == {total}
    elapsed = [step.elapsed_s for step in seen]
    assert elapsed == sorted(elapsed) and seen[-1].remaining_s == 0
    assert "solved 14 layers" in str(report)
    assert len(report.to_json()["layers"]) == 14


@pytest.mark.parametrize("after", [0, 1, 9])
def test_cancelling_leaves_the_model_as_it_was(after):
    model, cancel, seen = make("qwen2"), threading.Event(), []
    before = state(model)

    def count(progress):
        seen.append(progress)
        if len(seen) == after:
            cancel.set()

    if after == 0:
        cancel.set()
    with pytest.raises(Cancelled):
        wb.quantize_(model, G32, progress=count, cancel=cancel)
    assert len(seen) == after
    unchanged(model, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_no_number_is_named_and_nothing_changed(value):
    model = make("qwen2")
    model.model.layers[1].self_attn.o_proj.weight.data[17, 33] = value
    before = model.state_dict()["model.layers.0.mlp.up_proj.weight"].clone()
    with pytest.raises(WeightError, match=r"model\.layers\.1\.self_attn\.o_proj\[17, 33\] is (nan|-?inf)"):
        wb.quantize_(model, G32)
    assert torch.equal(model.model.layers[0].mlp.up_proj.weight, before)
    wb.quantize_(model, G32, exclude="layers.1.self_attn.o_proj")


def test_a_failing_progress_callback_changes_nothing():
    model = make("qwen2")
    before = state(model)
    with pytest.raises(ZeroDivisionError):
        wb.quantize_(model, G32, progress=lambda step: 1 / 0)
    unchanged(model, before)


def test_a_tied_head_is_untied_and_the_embedding_kept():
    model = make("qwen2")
    embedding = model.model.embed_tokens.weight.clone()
    wb.quantize_(model, G32, include="lm_head")
    assert isinstance(model.lm_head, wb.Int4Linear)
    assert torch.equal(model.model.embed_tokens.weight, embedding)
    assert model.config.tie_word_embeddings is False
    model.tie_weights()
    assert isinstance(model.lm_head, wb.Int4Linear)


def test_a_shared_layer_becomes_int4_under_both_names_and_the_tied_head_stays_tied(tmp_path):
    model = make("qwen2")
    model.model.layers[1].mlp = model.model.layers[0].mlp
    report = wb.quantize_(model, G32)
    first, second = (f"model.layers.{i}.mlp.up_proj" for i in (0, 1))
    assert f"{second} shares its weight with {first}: each gets an int4 copy of its own" in report.coverage.notes
    assert all(isinstance(model.get_submodule(name), wb.Int4Linear) for name in (first, second))
    assert model.config.tie_word_embeddings is True
    loaded, _ = wb.load_checkpoint(wb.save_checkpoint(model, tmp_path / "out"))
    assert torch.equal(logits(loaded), logits(model))


def test_a_second_pass_takes_what_the_first_left():
    model = make("qwen2")
    wb.quantize_(model, G32, include="mlp")
    want = model.model.layers[0].mlp.up_proj.quantized_weight().codes
    report = wb.quantize_(model, G32, domain="int")
    assert len(report.layers) == 8
    assert torch.equal(model.model.layers[0].mlp.up_proj.quantized_weight().codes, want)
    assert len(model.config.quantization_config["modules"]) == 14
    assert len(wb.quantize_(model, G32).layers) == 0


@pytest.mark.parametrize("tied", [True, False])
def test_the_output_head_is_a_choice_of_its_own(tied):
    model = make("qwen2", tied=tied)
    assert "lm_head" not in [row.name for row in wb.quantize_(make("qwen2", tied=tied), G32).coverage.int4_rows]
    report = wb.quantize_(model, G32, output_head=True)
    assert isinstance(model.lm_head, wb.Int4Linear)
    assert isinstance(model.get_input_embeddings().weight, nn.Parameter)
    assert any("lm_head is untied" in note for note in report.coverage.notes) == tied
    assert not model.config.tie_word_embeddings


def test_the_output_head_is_not_asked_for_twice():
    for given in ({"include": "mlp"}, {"recipe": Recipe()}):
        with pytest.raises(ConfigError, match="output"):
            wb.quantize_(make("qwen2"), given.pop("recipe", G32), output_head=True, **given)


def test_the_recipe_of_a_model_that_was_quantized_in_parts_makes_all_of_it():
    model, whole = make("qwen2"), make("qwen2")
    wb.quantize_(model, G32, include=["q_proj"])
    wb.quantize_(model, wb.Int4WeightOnlyConfig(group_size=64), exclude=["down_proj"])
    assert "q_proj" in str(model.int4_recipe.to_json()["rules"])
    assert model.config.quantization_config["recipe"] == model.int4_recipe.to_json()
    wb.quantize_(whole, model.int4_recipe)
    assert torch.equal(logits(model), logits(whole))
    again = model.int4_recipe
    wb.quantize_(model, wb.Int4WeightOnlyConfig(group_size=64), exclude=["down_proj"])
    assert model.int4_recipe == again


def test_least_coverage_stops_before_any_work(monkeypatch):
    monkeypatch.setattr(quantize, "iter_quantize", lambda *_, **__: pytest.fail("the work began"))
    model = make("llama_wide")
    with pytest.raises(ConfigError, match="would become int4"):
        wb.quantize_(model, G32, min_coverage=0.99)


def test_a_model_on_the_meta_device_says_that_nothing_is_int4():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(64, 64))
    report = wb.quantize_(model, G32)
    assert report.layers == ()
    assert "on the meta device" in str(report)


def test_a_bare_module_of_torch_is_taken():
    model = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 33, bias=False))
    x = torch.randn(5, 64)
    dense = model(x)
    wb.quantize_(model, G32)
    assert [type(module).__name__ for module in model] == ["Int4Linear", "ReLU", "Int4Linear"]
    assert torch.nn.functional.cosine_similarity(model(x), dense).min() > 0.95


def test_settings_of_later_versions_are_refused():
    with pytest.raises(ConfigError, match="calibration"):
        wb.quantize_(make("qwen2"), G32, calibration="text")


def test_the_device_of_a_model():
    model = nn.Sequential(nn.Linear(64, 64, bias=False))
    assert model_device(model) == torch.device("cpu")
    wb.quantize_(model, G32)
    assert model_device(model) == torch.device("cpu")
    assert model_device(nn.ReLU()) == torch.device("cpu")
    assert ModelSource(model).records()[0].kind == "int4_linear"


@pytest.mark.parametrize("given", ["demo", Path("demo"), None])
def test_what_is_no_model_is_said_to_be_none(given):
    with pytest.raises(ModelError, match=r"is a \w+, no model.*wb\.load_model\(path\)"):
        wb.quantize_(given)


def test_a_layer_without_a_model_around_it_is_refused():
    with pytest.raises(ModelError, match=r"one linear layer.*wb\.quantize_weight"):
        wb.quantize_(nn.Linear(64, 64))
