"""A live model and a folder give the same records and the same weights, headers first and one weight at a time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import workbench as wb
import workbench.sources as sources
from tests import tiny_models
from tests.tiny_models import FAMILIES, make, saved
from workbench.coverage.preflight import preflight_source
from workbench.demo import demo_path
from workbench.errors import ModelError
from workbench.hf.loading import demo_model, load_model
from workbench.hf.skeleton import open_source
from workbench.layers import QUANTIZABLE_KINDS
from workbench.recipe.recipe import as_recipe
from workbench.safetensors_folder import SINGLE_FILE, SafetensorsFolder
from workbench.solving import iter_quantize
from workbench.sources import ModelSource

G32 = as_recipe(wb.Int4WeightOnlyConfig(group_size=32))
FLOATS = [torch.float32, torch.bfloat16, torch.float16]


def both(folder):
    return ModelSource(load_model(folder)[0]), open_source(folder)


# --- the same from a live model and from its folder -----------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", list(FAMILIES))
def test_records_coverage_and_codes_are_the_same(name, dtype, tmp_path):
    live, stored = both(saved(name, tmp_path, dtype))
    assert live.records() == stored.records()
    coverages = [preflight_source(source, G32) for source in (live, stored)]
    assert coverages[0].rows == coverages[1].rows
    for one, other in zip(iter_quantize(live, coverages[0]), iter_quantize(stored, coverages[1]), strict=True):
        assert one.result.name == other.result.name
        assert torch.equal(one.weight.codes, other.weight.codes)
        assert torch.equal(one.weight.scale, other.weight.scale)
        assert torch.equal(one.weight.zero, other.weight.zero)


def test_the_demo_model_is_the_same_from_both():
    live, stored = ModelSource(demo_model()[0]), open_source("demo")
    assert live.records() == stored.records()
    for record in live.records():
        if record.kind in QUANTIZABLE_KINDS:
            assert torch.equal(live.weight(record.name), stored.weight(record.name))


def test_a_tied_head_reads_the_embedding(tmp_path):
    live, stored = both(saved("qwen2", tmp_path))
    head = next(record for record in stored.records() if record.name == "lm_head")
    assert (head.kind, head.tied_to, head.size_bytes) == ("output_head", "model.embed_tokens", 0)
    assert torch.equal(stored.weight("lm_head"), live.weight("model.embed_tokens"))
    assert stored.missing("lm_head") == live.missing("lm_head") == ""


def test_rows_are_read_alone_and_are_those_of_the_weight(monkeypatch, tmp_path):
    live, stored = both(saved("qwen2", tmp_path))
    whole = {name: stored.weight(name) for name in ("model.layers.0.mlp.up_proj", "lm_head")}
    monkeypatch.setattr(SafetensorsFolder, "read", None)
    for name, weight in whole.items():
        for source in (live, stored):
            assert isinstance(source, sources.RowSource)
            assert torch.equal(sources.read_rows(source, name, 3, 5), weight[3:5])


def test_rows_of_a_source_that_reads_none_alone():
    class Plain:
        name = "plain"

        def records(self):
            return []

        def weight(self, name):
            return torch.arange(12.0).view(4, 3)

        def missing(self, name):
            return ""

    assert not isinstance(Plain(), sources.RowSource)
    assert sources.read_rows(Plain(), "a", 1, 2).tolist() == [[3.0, 4.0, 5.0]]


# --- what is read, and when -----------------------------------------------------------------------------------------


class Reads:
    """Counts what is read of a folder, and how many of the weights that were handed out are still held."""

    def __init__(self, monkeypatch):
        self.names = []
        read = SafetensorsFolder.read

        def counted(folder, name):
            self.names.append(name)
            return read(folder, name)

        monkeypatch.setattr(SafetensorsFolder, "read", counted)
        monkeypatch.setattr(SafetensorsFolder, "rows", lambda *_: pytest.fail("rows were read"))


def test_opening_and_preflight_read_no_weight(monkeypatch):
    reads = Reads(monkeypatch)
    source = open_source(demo_path())
    wb.preflight(demo_path())
    preflight_source(source, as_recipe(None, include="mlp"))
    assert [source.missing(record.name) for record in source.records()] == [""] * len(source.records())
    assert reads.names == []


def test_quantizing_reads_each_weight_once_and_none_ahead(monkeypatch):
    source = open_source(demo_path())
    coverage = preflight_source(source, as_recipe(None))
    reads = Reads(monkeypatch)
    for count, step in enumerate(iter_quantize(source, coverage), start=1):
        assert reads.names[-1] == f"{step.result.name}.weight"
        assert len(reads.names) == count


# --- dtypes ---------------------------------------------------------------------------------------------------------


def rewrite(folder, change):
    tensors = load_file(folder / SINGLE_FILE)
    change(tensors)
    save_file(tensors, folder / SINGLE_FILE, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8], ids=str)
def test_a_dtype_that_is_no_plain_float_stays_dense_and_is_named(dtype, tmp_path):
    name = "model.layers.0.mlp.up_proj"
    folder = saved("qwen2", tmp_path)
    rewrite(folder, lambda tensors: tensors.update({f"{name}.weight": tensors[f"{name}.weight"].to(dtype)}))
    row = next(row for row in wb.preflight(folder).rows if row.name == name)
    assert (row.decision, row.reason) == ("dense", f"stored as {str(dtype).removeprefix('torch.')}")
    assert row.before_bytes == 64 * 96


def test_a_folder_of_many_dtypes_says_each(tmp_path):
    def mix(tensors):
        tensors["model.layers.0.mlp.up_proj.weight"] = tensors["model.layers.0.mlp.up_proj.weight"].bfloat16()
        tensors["model.layers.1.mlp.up_proj.weight"] = tensors["model.layers.1.mlp.up_proj.weight"].half()

    source = open_source(rewrite(saved("qwen2", tmp_path), mix))
    dtypes = {record.name: record.dtype for record in source.records()}
    assert [dtypes[f"model.layers.{index}.mlp.up_proj"] for index in range(2)] == ["bfloat16", "float16"]
    assert dtypes["model.layers.0.mlp.down_proj"] == "float32"
    assert source.weight("model.layers.1.mlp.up_proj").dtype == torch.float16


# --- names ----------------------------------------------------------------------------------------------------------


def test_a_base_model_under_other_names_is_read_as_the_model_loads_it(tmp_path):
    make("qwen2").model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["Qwen2ForCausalLM"]}))
    live, stored = both(tmp_path)
    assert live.records() == stored.records()
    assert len(preflight_source(stored, G32).int4_rows) == 14
    for record in stored.records():
        assert torch.equal(stored.weight(record.name), live.weight(record.name))


def test_a_weight_that_is_not_stored_is_said(tmp_path):
    folder = rewrite(saved("qwen2", tmp_path), lambda tensors: tensors.pop("model.layers.0.mlp.up_proj.weight"))
    row = wb.preflight(folder).row("model.layers.0.mlp.up_proj")
    assert (row.decision, row.reason) == ("dense", "not stored in the folder")


def test_a_tied_weight_may_be_stored_under_any_of_its_names(tmp_path):
    def rename(tensors):
        tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")

    live, stored = both(rewrite(saved("qwen2", tmp_path), rename))
    for name in ("model.embed_tokens", "lm_head"):
        assert torch.equal(stored.weight(name), live.weight(name))


def test_a_config_that_does_not_belong_is_refused(tmp_path):
    folder = saved("qwen2", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 128}))
    with pytest.raises(ModelError, match=r"gate_proj.*\[96, 64\].*but \[128, 64\] by its config\.json"):
        open_source(folder)


def test_weights_on_the_meta_device_are_said():
    with torch.device("meta"):
        source = ModelSource(FAMILIES["qwen2"]())
    coverage = preflight_source(source, G32)
    assert coverage.int4_rows == ()
    assert {row.reason for row in coverage.rows if row.kind == "linear"} == {"on the meta device: no values"}


# --- and then --------------------------------------------------------------------------------------------------------


def test_a_shard_that_goes_away_later_is_named(tmp_path):
    folder = saved("qwen2", tmp_path)
    source = open_source(folder)
    Path(folder / SINGLE_FILE).unlink()
    with pytest.raises(ModelError, match="missing"):
        source.weight("model.layers.0.mlp.up_proj")


def test_the_names_of_sources(tmp_path):
    assert open_source("demo").name == "demo"
    assert open_source(saved("qwen2", tmp_path)).name == str(tmp_path / "qwen2")
    assert ModelSource(torch.nn.Sequential(torch.nn.Linear(4, 4))).name == "Sequential"
    assert isinstance(open_source("demo"), sources.Source)
    with tiny_models.hushed():
        assert ModelSource(load_model(tmp_path / "qwen2")[0]).name == str(tmp_path / "qwen2")
