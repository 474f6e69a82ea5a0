"""An int4 checkpoint as a source: listed from headers as the loaded model lists itself, and never quantized."""

from __future__ import annotations

from dataclasses import replace

import pytest

import workbench as wb
from tests.tiny_models import make
from workbench.conversion import int4_source
from workbench.errors import ModelError
from workbench.int4_source import Int4Source
from workbench.layers import layer_records
from workbench.safetensors_folder import SafetensorsFolder

INT = wb.Int4WeightOnlyConfig(group_size=32, zero_point_domain=wb.ZeroPointDomain.INT)


@pytest.mark.parametrize("family", ["qwen2", "gpt2", "mixtral"])
def test_it_lists_what_the_loaded_model_lists(tmp_path, family):
    model = make(family)
    wb.quantize_(model, INT)
    wb.save_checkpoint(model, tmp_path / "out")
    source = int4_source(tmp_path / "out")
    assert isinstance(source, Int4Source) and source.method == "native"
    loaded = layer_records(wb.load_checkpoint(tmp_path / "out")[0])  # which counts the bytes in memory
    assert [replace(one, size_bytes=0) for one in source.records()] == [replace(one, size_bytes=0) for one in loaded]
    folder = SafetensorsFolder(tmp_path / "out")
    assert sum(one.size_bytes for one in source.records()) == sum(map(folder.size_bytes, folder.names()))


def test_without_the_configuration_s_word_the_headers_say_the_names_and_bytes(tmp_path):
    model = make("qwen2")
    wb.quantize_(model, INT)
    wb.save_checkpoint(model, tmp_path / "out")
    known = int4_source(tmp_path / "out")
    plain = Int4Source(known.contents, tmp_path / "out", name="out", method="native")
    told = {one.name: (one.shape, one.size_bytes, one.int4_form) for one in known.records() if one.tied_to is None}
    assert {one.name: (one.shape, one.size_bytes, one.int4_form) for one in plain.records()} == told


def test_no_weight_of_it_is_quantized(tmp_path):
    model = make("qwen2")
    wb.quantize_(model, INT, include="mlp")
    wb.save_checkpoint(model, tmp_path / "out")
    source = int4_source(tmp_path / "out")
    q_proj = "model.layers.0.self_attn.q_proj"
    assert source.missing(q_proj) == "the model is int4 already"
    with pytest.raises(ModelError, match=r"int4 already.*wb.Workbench"):
        source.weight(q_proj)


def test_what_is_dense_is_none(tmp_path):
    make("qwen2").save_pretrained(tmp_path / "dense")
    assert int4_source(tmp_path / "dense") is None
    with pytest.raises(ModelError, match="does not exist"):
        int4_source(tmp_path / "missing")
