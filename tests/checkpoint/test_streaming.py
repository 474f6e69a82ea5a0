"""Quantizing a folder by streaming gives the checkpoint of the loaded model, whatever the folder calls its tensors."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import workbench as wb
from tests import tiny_models
from tests.stored_models import OTHERWISE, built
from tests.tiny_models import logits
from workbench.checkpoint.save import iter_write_quantized, save_checkpoint
from workbench.coverage.preflight import preflight_source
from workbench.errors import CheckpointError
from workbench.hf.loading import load_checkpoint, load_model
from workbench.hf.skeleton import open_source
from workbench.recipe.recipe import as_recipe
from workbench.safetensors_folder import SINGLE_FILE, SafetensorsFolder

G32 = as_recipe(wb.Int4WeightOnlyConfig(group_size=32))


@pytest.fixture(autouse=True)
def _hushed():
    with tiny_models.hushed():
        yield


def streamed(path, folder, recipe=G32):
    source = open_source(path)
    list(iter_write_quantized(source, preflight_source(source, recipe), recipe, folder))
    return folder


def rewritten(folder, change):
    tensors = load_file(folder / SINGLE_FILE)
    change(tensors)
    save_file(tensors, folder / SINGLE_FILE, metadata={"format": "pt"})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", list(OTHERWISE))
def test_the_streamed_checkpoint_holds_what_the_loaded_model_is_saved_as(name, dtype, tmp_path):
    built(name, dtype).save_pretrained(tmp_path / "dense")
    live, _ = load_model(tmp_path / "dense")
    wb.quantize_(live, G32)
    save_checkpoint(live, tmp_path / "saved")
    streamed(tmp_path / "dense", tmp_path / "streamed")
    saved, stream = SafetensorsFolder(tmp_path / "saved"), SafetensorsFolder(tmp_path / "streamed")
    assert set(saved.names()) == set(stream.names())
    for tensor in saved.names():  # a buffer that transformers keeps in float32 may be stored in bfloat16
        assert torch.equal(saved.read(tensor), stream.read(tensor).to(saved.read(tensor).dtype)), tensor
    loaded, _ = load_checkpoint(tmp_path / "streamed", verify=True)
    assert torch.equal(logits(loaded), logits(live))
    modules = loaded.config.quantization_config.to_dict()["modules"]
    assert modules == live.config.quantization_config["modules"]


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss", "gpt2"])
def test_weights_that_stay_dense_stream_under_the_models_own_names(name, tmp_path):
    recipe = as_recipe(wb.Int4WeightOnlyConfig(group_size=32), exclude={"gpt2": "c_fc"}.get(name, "gate_up_proj"))
    built(name).save_pretrained(tmp_path / "dense")
    live, _ = load_model(tmp_path / "dense")
    wb.quantize_(live, recipe)
    loaded, _ = load_checkpoint(streamed(tmp_path / "dense", tmp_path / "streamed", recipe))
    assert torch.equal(logits(loaded), logits(live))


def test_a_head_that_is_stored_alone_leaves_its_dense_weight_to_the_embedding(tmp_path):
    recipe = as_recipe(wb.Int4WeightOnlyConfig(group_size=32), include="lm_head")
    folder = tiny_models.saved("qwen2", tmp_path)
    rewritten(folder, lambda tensors: tensors.update({"lm_head.weight": tensors.pop("model.embed_tokens.weight")}))
    live, _ = load_model(folder)
    wb.quantize_(live, recipe)
    loaded, _ = load_checkpoint(streamed(folder, tmp_path / "int4", recipe))
    assert isinstance(loaded.lm_head, wb.Int4Linear)
    assert torch.equal(loaded.model.embed_tokens.weight, live.model.embed_tokens.weight)
    assert torch.equal(logits(loaded), logits(live))


def test_tensors_without_a_place_in_the_model_are_not_copied(tmp_path):
    folder = tiny_models.saved("qwen2", tmp_path)
    rewritten(folder, lambda tensors: tensors.update({"model.layers.9.extra.weight": torch.ones(3)}))
    assert "model.layers.9.extra.weight" not in SafetensorsFolder(streamed(folder, tmp_path / "int4"))


def test_a_folder_that_lacks_weights_is_refused(tmp_path):
    folder = tiny_models.saved("qwen2", tmp_path)
    rewritten(folder, lambda tensors: tensors.pop("model.layers.1.input_layernorm.weight"))
    with pytest.raises(CheckpointError, match=r"lacks 1 weights.*first 'model\.layers\.1\.input_layernorm'"):
        streamed(folder, tmp_path / "int4")
    assert not (tmp_path / "int4").exists()


def test_a_dtype_that_config_does_not_name_is_written(tmp_path):
    folder = tiny_models.saved("qwen2", tmp_path, torch.bfloat16)
    config = json.loads((folder / "config.json").read_text())
    del config["dtype"]
    (folder / "config.json").write_text(json.dumps(config))
    loaded, _ = load_checkpoint(streamed(folder, tmp_path / "int4"))
    assert loaded.dtype == torch.bfloat16
    assert json.loads((tmp_path / "int4" / "config.json").read_text())["dtype"] == "bfloat16"
