"""Folders in FP8 and MXFP4 open and load as the dense models that they stand for."""

from __future__ import annotations

import json

import pytest
import torch
import transformers

import workbench as wb
from tests import tiny_models
from tests.stored_models import built, saved_fp8, saved_mxfp4
from workbench.checkpoint.save import iter_write_quantized
from workbench.coverage.preflight import preflight_source
from workbench.errors import ModelError
from workbench.hf.loading import load_checkpoint, load_model
from workbench.hf.skeleton import open_source
from workbench.recipe.recipe import as_recipe
from workbench.sources import ModelSource

G32 = as_recipe(wb.Int4WeightOnlyConfig(group_size=32))
FP8 = {"deepseek_v3": saved_fp8, "qwen3_moe": saved_fp8}
MADE = {**FP8, "gpt_oss": saved_mxfp4}


def made(name, path, dtype=torch.bfloat16):
    return MADE[name](built(name, dtype), path / name)


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    config = {key: value for key, value in {**config, **changes}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("name", list(MADE))
def test_a_source_gives_what_the_loaded_model_has(name, tmp_path):
    folder = made(name, tmp_path)
    live, stored = load_model(folder)[0], open_source(folder)
    assert live.dtype == torch.bfloat16 and getattr(live.config, "quantization_config", None) is None
    assert live.config._name_or_path == live.name_or_path == str(folder)
    for record in ModelSource(live).records():
        weight = ModelSource(live).weight(record.name)
        assert torch.equal(stored.weight(record.name), weight), record.name
        assert torch.equal(stored.rows(record.name, 1, len(weight) - 1), weight[1:-1]), record.name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("name", list(MADE))
def test_the_dtype_is_the_configurations_or_the_asked_one(name, dtype, tmp_path):
    folder = made(name, tmp_path, dtype)
    assert load_model(folder)[0].lm_head.weight.dtype == dtype
    assert load_model(folder, dtype=torch.bfloat16)[0].dtype == torch.bfloat16
    assert load_model(folder, dtype="float32")[0].dtype == torch.float32
    edit_config(folder, dtype=None)
    assert load_model(folder)[0].dtype == dtype
    records = {record.name: record for record in open_source(folder).records()}
    assert {record.dtype for record in records.values()} == {str(dtype).removeprefix("torch.")}


def theirs(folder, config):
    kind = transformers.AutoModelForCausalLM
    return kind.from_pretrained(folder, dtype="auto", quantization_config=config).state_dict()


@pytest.mark.parametrize("name", ["gpt_oss", "qwen3_moe"])
def test_transformers_own_dequantizing_gives_the_same_where_it_can(name, tmp_path):
    folder = made(name, tmp_path)
    fp8 = transformers.FineGrainedFP8Config(dequantize=True, weight_block_size=(16, 32))
    want = theirs(folder, transformers.Mxfp4Config(dequantize=True) if name == "gpt_oss" else fp8)
    state = load_model(folder)[0].state_dict()
    assert set(state) == set(want) and all(torch.equal(state[key], want[key]) for key in want)


@pytest.mark.parametrize("name", list(MADE))
def test_streaming_gives_the_codes_and_logits_of_the_loaded_model(name, tmp_path):
    folder = made(name, tmp_path)
    source = open_source(folder)
    list(iter_write_quantized(source, preflight_source(source, G32), G32, tmp_path / "int4"))
    live = load_model(folder)[0]
    wb.quantize_(live, G32)
    streamed, _ = load_checkpoint(tmp_path / "int4", verify=True)
    own, other = live.state_dict(), streamed.state_dict()
    assert set(own) == set(other) and all(torch.equal(own[key], other[key]) for key in own)
    assert torch.equal(tiny_models.logits(streamed), tiny_models.logits(live))
    assert streamed.config.quantization_config.quant_method == "int4_workbench"


# --- what is said ---------------------------------------------------------------------------------------------------


def test_fp8_says_what_it_is_stored_in_and_counts_those_bytes(tmp_path):
    coverage = wb.preflight(made("deepseek_v3", tmp_path), G32)
    row = coverage.row("model.layers.0.mlp.down_proj")
    assert (row.before_bytes, row.decision) == (64 * 96 + 4 * 3 * 4, "int4")
    assert row.reason.endswith("; stored in FP8: dequantized to bfloat16 on the way")
    experts = coverage.row("model.layers.1.mlp.experts.gate_up_proj")
    assert experts.before_bytes == 4 * 2 * (32 * 64 + 4 * 2 * 2) and "stored in FP8" in experts.reason
    assert any(note.endswith("are stored in FP8: dequantized to bfloat16 on the way") for note in coverage.notes)


def test_mxfp4_becomes_int4_though_that_is_larger_and_says_so(tmp_path):
    coverage = wb.preflight(made("gpt_oss", tmp_path), G32)
    row = coverage.row("model.layers.0.mlp.experts.gate_up_proj")
    assert row.decision == "int4" and row.after_bytes > row.before_bytes == 4 * 64 * 64 // 32 * 17
    assert row.reason.endswith("; stored in MXFP4: dequantized to bfloat16 on the way, 1.18 times its bytes")


def test_what_stays_dense_grows_and_says_so(tmp_path):
    folder = made("gpt_oss", tmp_path)
    coverage = wb.preflight(folder, as_recipe(None, exclude="experts"))
    row = coverage.row("model.layers.0.mlp.experts.down_proj")
    assert (row.decision, row.after_bytes, row.bits_per_weight) == ("dense", 4 * 64 * 32 * 2, 16.0)
    assert row.reason.startswith("left out by 'experts'") or "experts" in row.reason
    assert row.reason.endswith("; stored in MXFP4: dequantized to bfloat16 on the way, 3.76 times its bytes")


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["gptq", "compressed-tensors", None])
def test_other_formats_are_refused_as_before(method, tmp_path):
    folder = made("qwen3_moe", tmp_path)
    edit_config(folder, quantization_config={"quant_method": method, "bits": 4})
    with pytest.raises(ModelError, match=r"quantized already.*FP8 \(by blocks\) or MXFP4"):
        open_source(folder)


@pytest.mark.parametrize("load", [open_source, load_model])
def test_an_fp8_by_other_blocks_is_refused(load, tmp_path):
    folder = made("qwen3_moe", tmp_path)
    edit_config(folder, quantization_config={"quant_method": "fp8", "weight_block_size": None})
    with pytest.raises(ModelError, match="weight_block_size None"):
        load(folder)
    edit_config(folder, quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]})
    with pytest.raises(ModelError, match="its scales are"):
        load(folder)
