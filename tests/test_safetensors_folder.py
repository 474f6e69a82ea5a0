"""The tensors of a folder by header and slice, and folders that are none."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from tests.tiny_models import make
from workbench.errors import ModelError
from workbench.safetensors_folder import INDEX_FILE, SINGLE_FILE, SafetensorsFolder


def test_sharded_and_single_folders_are_the_same(tmp_path):
    model = make("qwen2")
    model.save_pretrained(tmp_path / "single")
    model.save_pretrained(tmp_path / "sharded", max_shard_size="40KB")
    assert (tmp_path / "sharded" / INDEX_FILE).is_file()
    single, sharded = SafetensorsFolder(tmp_path / "single"), SafetensorsFolder(tmp_path / "sharded")
    assert set(single.names()) == set(sharded.names())
    for name in single.names():
        assert torch.equal(single.read(name), sharded.read(name))
        assert torch.equal(single.rows(name, 1, 3), single.read(name)[1:3])
        assert single.shape(name) == tuple(single.read(name).shape)
        assert torch.equal(single.rows(name, 1, 3, dim=single.read(name).ndim - 1), single.read(name)[..., 1:3])
        assert single.size_bytes(name) == single.read(name).nbytes


# --- folders that are no model ----------------------------------------------------------------------------------------


def refused(folder, match):
    with pytest.raises(ModelError, match=match):
        SafetensorsFolder(folder)


def test_a_folder_that_is_none_or_holds_none_is_refused(tmp_path):
    refused(tmp_path / "nowhere", "does not exist")
    refused(tmp_path, "No safetensors weights")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    refused(tmp_path, r"pickled \.bin weights are never read")


@pytest.mark.parametrize("content", [b"", b"\x00" * 7, b"\xff" * 64, b"PK\x03\x04" + b"0" * 400, b"hello " * 99])
def test_a_file_that_is_no_safetensors_is_named(content, tmp_path):
    (tmp_path / SINGLE_FILE).write_bytes(content)
    refused(tmp_path, r"model\.safetensors.*no readable safetensors file")


def test_every_cut_of_a_file_is_refused(tmp_path):
    save_file({"a": torch.arange(40.0), "b": torch.arange(3)}, tmp_path / SINGLE_FILE)
    whole = (tmp_path / SINGLE_FILE).read_bytes()
    for end in range(len(whole)):
        (tmp_path / SINGLE_FILE).write_bytes(whole[:end])
        refused(tmp_path, "no readable safetensors file")


def sharded(folder, weight_map, text=None):
    save_file({"a": torch.zeros(2)}, folder / "one.safetensors")
    save_file({"b": torch.zeros(2)}, folder / "two.safetensors")
    (folder / INDEX_FILE).write_text(text or json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize(
    ("weight_map", "match"),
    [
        ({"a": "one.safetensors", "b": "gone.safetensors"}, r"gone\.safetensors.*missing"),
        ({"a": "one.safetensors", "b": "../one.safetensors"}, "outside its folder"),
        ({"a": "one.safetensors", "b": "/etc/hosts"}, "outside its folder"),
        ({"a": "one.safetensors", "c": "two.safetensors"}, r"no shard holds, first 'c'"),
        ({"a": "one.safetensors", "b": 3}, "damaged"),
        ({}, "damaged"),
        (["a"], "damaged"),
    ],
)
def test_an_index_that_cannot_be_is_refused(weight_map, match, tmp_path):
    sharded(tmp_path, weight_map)
    refused(tmp_path, match)


@pytest.mark.parametrize(
    "text", ["{", "[]", "null", '{"weight_map": {"a": "one.safetensors", "a": "two.safetensors"}}']
)
def test_an_index_that_is_no_index_is_refused(text, tmp_path):
    sharded(tmp_path, {}, text)
    refused(tmp_path, "damaged")


def test_a_name_in_two_shards_is_refused(tmp_path):
    sharded(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    save_file({"a": torch.zeros(2), "b": torch.zeros(2)}, tmp_path / "two.safetensors")
    refused(tmp_path, "stands in both")


def test_a_file_that_cannot_be_mapped_into_memory_is_named(monkeypatch, tmp_path):
    def refuses(*_, **__):
        raise RuntimeError("unable to mmap 99 bytes")

    save_file({"a": torch.zeros(2)}, tmp_path / SINGLE_FILE)
    monkeypatch.setattr("workbench.safetensors_folder.safe_open", refuses)
    refused(tmp_path, r"model\.safetensors.*unable to mmap")
