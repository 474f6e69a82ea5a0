"""Quantizing while transformers loads: the same codes as loading dense and quantizing then, and no dense copy."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn

import workbench as wb
import workbench.hf
from tests.tiny_models import FAMILIES, make
from workbench.errors import ConfigError, WeightError
from workbench.experts import Int4Experts
from workbench.linear import Int4Linear

CONFIG = wb.Int4WeightOnlyConfig(group_size=32, use_hqq=True)


@pytest.fixture
def saved(tmp_path):
    def save(family, **kwargs):
        model = make(family)
        model.save_pretrained(tmp_path / family, **kwargs)
        return type(model), tmp_path / family

    return save


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_codes_are_those_of_quantizing_afterwards(saved, family, dtype):
    kind, folder = saved(family, max_shard_size="40KB")
    found = kind.from_pretrained(folder, dtype=dtype, quantization_config=wb.TransformersConfig(CONFIG))
    expected = kind.from_pretrained(folder, dtype=dtype)
    report = wb.quantize_(expected, CONFIG)
    ours, theirs = found.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert found.hf_quantizer.coverage.rows == report.coverage.rows  # a tied head is counted once


def test_it_is_saved_and_loaded_as_a_native_checkpoint(saved, tmp_path):
    kind, folder = saved("qwen2")
    found = kind.from_pretrained(folder, quantization_config=wb.TransformersConfig(CONFIG, exclude="*down_proj*"))
    found.save_pretrained(tmp_path / "out")
    again, _ = wb.load_checkpoint(tmp_path / "out")
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, found.state_dict()[name]), name
    assert isinstance(again.model.layers[0].mlp.down_proj, nn.Linear)
    assert isinstance(again.model.layers[0].mlp.up_proj, Int4Linear)


def test_never_a_dense_copy(saved, monkeypatch):
    """Each weight is solved while the model holds no other dense weight that becomes int4."""
    import workbench.hf.on_load as on_load

    kind, folder = saved("mixtral")
    dense = []

    def watched(weight, *args, **kwargs):
        live = [layer for layer in models[0].modules() if isinstance(layer, nn.Linear) and not layer.weight.is_meta]
        dense.append([layer for layer in live if layer is not models[0].get_output_embeddings()])
        return solve(weight, *args, **kwargs)

    models, solve, take = [], on_load.solve, on_load.OnLoad.take
    monkeypatch.setattr(on_load, "solve", watched)
    monkeypatch.setattr(
        on_load.OnLoad, "take", lambda self, model, *rest: (models.append(model), take(self, model, *rest))
    )
    found = kind.from_pretrained(folder, quantization_config=wb.TransformersConfig(CONFIG))
    assert dense and all(live == [] for live in dense)
    assert any(isinstance(module, Int4Experts) for module in found.modules())


def test_device_maps_hold(saved):
    kind, folder = saved("qwen2")
    found = kind.from_pretrained(folder, device_map={"": "cpu"}, quantization_config=wb.TransformersConfig(CONFIG))
    assert {parameter.device.type for parameter in found.parameters()} == {"cpu"}
    ids = torch.arange(8)[None]
    assert torch.isfinite(found(input_ids=ids).logits).all()


def test_a_weight_with_nan_is_named(saved):
    kind, folder = saved("qwen2")
    model = kind.from_pretrained(folder)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[3, 5] = torch.nan
    model.save_pretrained(folder)
    with pytest.raises(WeightError, match=r"layers\.0\.mlp\.up_proj"):
        kind.from_pretrained(folder, quantization_config=wb.TransformersConfig(CONFIG))


def test_calibrating_needs_the_model_and_says_so(saved):
    kind, folder = saved("qwen2")
    with pytest.raises(ConfigError, match="quantize_"):
        kind.from_pretrained(folder, quantization_config=wb.TransformersConfig(solver="calibrated"))


def test_a_tied_head_is_refused(saved):
    kind, folder = saved("gpt2")
    with pytest.raises(ConfigError, match="output head"):
        kind.from_pretrained(folder, quantization_config=wb.TransformersConfig(CONFIG, output_head=True))


def test_the_settings_of_a_checkpoint_quantize_nothing(saved):
    kind, folder = saved("qwen2")
    foreign = workbench.hf.quantizer.Int4WorkbenchConfig(group_size=32)
    with pytest.raises(ConfigError, match="TransformersConfig"):
        kind.from_pretrained(folder, quantization_config=foreign)


@pytest.mark.parametrize("settings", [CONFIG, wb.Recipe()], ids=lambda settings: type(settings).__name__)
def test_our_own_settings_in_place_of_it_say_what_to_pass(saved, settings):
    kind, folder = saved("qwen2")
    with pytest.raises(ConfigError, match=rf"is {type(settings).__name__}, .*wb\.TransformersConfig\(config\)"):
        kind.from_pretrained(folder, quantization_config=settings)
    assert not hasattr(settings, "quant_method")


def test_auto_classes_take_it(saved):
    _, folder = saved("qwen2")
    recipe = wb.TransformersConfig(wb.Recipe.preset("balanced"))
    found = transformers.AutoModelForCausalLM.from_pretrained(folder, quantization_config=recipe)
    assert found.config.quantization_config.to_dict()["quant_method"] == "int4_workbench"
