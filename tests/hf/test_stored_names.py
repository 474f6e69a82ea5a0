"""A folder goes by the model's own names: whatever transformers would load, from the same stored tensors."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import transformers.conversion_mapping as conversion_mapping
import transformers.core_model_loading as loading
from safetensors.torch import load_file, save_file

import workbench as wb
from tests.stored_models import OTHERWISE, built
from workbench.errors import ModelError
from workbench.hf.loading import load_model
from workbench.hf.skeleton import open_source, skeleton
from workbench.hf.stored_names import StoredNames
from workbench.kinds import QUANTIZABLE_KINDS
from workbench.safetensors_folder import SINGLE_FILE, SafetensorsFolder
from workbench.sources import ModelSource

UP = "model.layers.0.mlp.experts.gate_up_proj"
STORED = "model.layers.0.block_sparse_moe.experts.{}.w{}.weight"


def saved(name, path):
    built(name).save_pretrained(path)
    return path


def names_of(path):
    return StoredNames(SafetensorsFolder(path), skeleton(path))


def reads_of(monkeypatch):
    asked, read = [], SafetensorsFolder.read
    monkeypatch.setattr(SafetensorsFolder, "read", lambda self, name: asked.append(name) or read(self, name))
    return asked


@pytest.mark.parametrize("name", list(OTHERWISE))
def test_every_tensor_is_the_one_that_transformers_loads(name, tmp_path):
    names = names_of(saved(name, tmp_path))
    state = load_model(tmp_path)[0].state_dict()
    assert set(state) - set(names.names()) <= {"lm_head.weight"}  # tied
    for own in names.names():
        assert own in names and names.shape(own) == tuple(state[own].shape), own
        assert names.dtype(own) == "BF16" and names.size_bytes(own) == 2 * state[own].numel()
        assert torch.equal(names.read(own), state[own]), own
        last = state[own].ndim - 1
        assert torch.equal(names.rows(own, 1, 3), state[own][1:3])
        assert torch.equal(names.rows(own, 1, 3, dim=last), state[own].narrow(last, 1, 2))
    assert names.notes() == []


@pytest.mark.parametrize("name", list(OTHERWISE))
def test_a_source_gives_the_records_weights_and_rows_of_the_loaded_model(name, tmp_path):
    live, stored = ModelSource(load_model(saved(name, tmp_path))[0]), open_source(tmp_path)
    assert live.records() == stored.records()
    for record in live.records():
        weight = live.weight(record.name)
        assert torch.equal(stored.weight(record.name), weight), record.name
        if record.kind not in QUANTIZABLE_KINDS:
            continue
        for start, stop in ((0, 1), (len(weight) // 3, len(weight) // 3 * 2), (0, len(weight))):
            assert torch.equal(stored.rows(record.name, start, stop), weight[start:stop])


def test_an_expert_is_read_from_its_own_tensors(monkeypatch, tmp_path):
    source = open_source(saved("mixtral", tmp_path))
    asked = reads_of(monkeypatch)
    source.rows(UP, 2 * 192, 3 * 192)
    assert asked == [STORED.format(2, 1), STORED.format(2, 3)]
    asked.clear()
    source.rows(UP, 192 + 5, 2 * 192 + 1)
    assert asked == [STORED.format(e, w) for w in (1, 3) for e in (1, 2)]
    asked.clear()
    source.weight(UP)
    assert sorted(asked) == sorted(STORED.format(e, w) for w in (1, 3) for e in range(4))


def test_nothing_is_read_to_learn_names_and_shapes(monkeypatch, tmp_path):
    saved("mixtral", tmp_path)
    asked = reads_of(monkeypatch)
    wb.preflight(tmp_path)
    assert asked == []


def test_tensors_that_the_model_has_no_place_for_are_said(tmp_path):
    saved("deepseek_v3", tmp_path)
    tensors = load_file(tmp_path / SINGLE_FILE)
    more = {f"model.layers.2.mlp.experts.{e}.up_proj.weight": torch.ones(2, 2) for e in range(2)}
    more["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file({**tensors, **more}, tmp_path / SINGLE_FILE, metadata={"format": "pt"})
    names = names_of(tmp_path)
    assert not any("layers.2" in name or "inv_freq" in name for name in names.names())
    (note,) = names.notes()
    assert note.startswith("3 stored tensors have no place in the model and are left out, first 'model.layers.0.self")
    assert note in wb.preflight(tmp_path).notes


# --- one tensor that becomes several --------------------------------------------------------------------------------


class Cut:
    """Stands for a model that transformers splits a stored tensor for."""

    base_model_prefix = "model"
    config = None

    def state_dict(self):
        return {f"a.{part}.weight": torch.empty(2, 3, device="meta") for part in "qkv"}


@pytest.fixture
def cut(monkeypatch, tmp_path):
    rule = loading.WeightConverter("qkv.weight", [f"{part}.weight" for part in "qkv"], [loading.Chunk(dim=0)])
    monkeypatch.setattr(conversion_mapping, "get_model_conversion_mapping", lambda model: [rule])
    save_file({"a.qkv.weight": torch.arange(18.0).view(6, 3)}, tmp_path / SINGLE_FILE)
    return StoredNames(SafetensorsFolder(tmp_path), Cut())


def test_a_tensor_is_split_into_those_of_the_model(cut):
    assert cut.names() == ["a.q.weight", "a.k.weight", "a.v.weight"]
    for index, part in enumerate("qkv"):
        want = torch.arange(18.0).view(6, 3)[2 * index : 2 * index + 2]
        assert cut.shape(f"a.{part}.weight") == (2, 3) and cut.size_bytes(f"a.{part}.weight") == 24
        assert torch.equal(cut.read(f"a.{part}.weight"), want)
        assert torch.equal(cut.rows(f"a.{part}.weight", 1, 2), want[1:])


def test_what_was_converted_serves_the_next_of_it(cut, monkeypatch):
    asked = reads_of(monkeypatch)
    for part in "qkv":
        cut.read(f"a.{part}.weight")
        cut.rows(f"a.{part}.weight", 0, 1)
    assert asked == ["a.qkv.weight"]


# --- a transformers that changed ------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", ["rename_source_key", "dot_natural_key", "WeightConverter"])
def test_a_transformers_that_changed_is_said_and_never_guessed(function, monkeypatch, tmp_path):
    saved("mixtral", tmp_path)
    monkeypatch.delattr(loading, function)
    with pytest.raises(ModelError, match=r"cannot be mapped by transformers \d.*wb\.load_model"):
        open_source(tmp_path)


def test_tensors_that_cannot_be_merged_are_refused(tmp_path):
    saved("mixtral", tmp_path)
    tensors = load_file(tmp_path / SINGLE_FILE)
    tensors[STORED.format(1, 3)] = torch.ones(5, 64)
    save_file(tensors, tmp_path / SINGLE_FILE, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="cannot be mapped"):
        open_source(tmp_path)


def test_a_model_of_no_transformers_class_is_refused(tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / SINGLE_FILE)
    with pytest.raises(ModelError, match="cannot be mapped"):
        StoredNames(SafetensorsFolder(tmp_path), SimpleNamespace())
