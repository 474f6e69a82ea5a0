"""Shards: every tensor once, in the shard where it belongs, with the hash of its bytes."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file

from workbench.checkpoint.writer import (
    ShardWriter,
    tensor_sha256,
)
from workbench.errors import CheckpointError
from workbench.safetensors_folder import INDEX_FILE, SINGLE_FILE, SafetensorsFolder

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.uint8, torch.int64, torch.bool, torch.float8_e4m3fn]


def test_one_shard_needs_no_index(tmp_path):
    writer = ShardWriter(tmp_path)
    writer.add({"a": torch.arange(6)})
    writer.finish()
    assert [path.name for path in tmp_path.iterdir()] == [SINGLE_FILE]


def test_shards_are_cut_before_they_grow_beyond_their_limit(tmp_path):
    writer = ShardWriter(tmp_path, max_shard_bytes=10)
    groups = [{"a": 4, "b": 4}, {"c": 2}, {"d": 1}, {"e": 30, "f": 1}, {"g": 5}]
    for group in groups:
        writer.add({name: torch.zeros(size, dtype=torch.uint8) for name, size in group.items()})
    writer.finish()
    index = json.loads((tmp_path / INDEX_FILE).read_text())
    shard = {name: int(file[6:11]) for name, file in index["weight_map"].items()}
    assert shard == {"a": 1, "b": 1, "c": 1, "d": 2, "e": 3, "f": 3, "g": 4}
    assert index["metadata"]["total_size"] == writer.size_bytes == 47
    assert set(SafetensorsFolder(tmp_path).names()) == set("abcdefg")


def test_no_more_than_one_shard_is_ever_held(tmp_path):
    writer = ShardWriter(tmp_path, max_shard_bytes=100)
    for number in range(50):
        writer.add({f"t{number}": torch.zeros(30, dtype=torch.uint8)})
        assert sum(tensor.nbytes for tensor in writer._held.values()) <= 100


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 5), (2, 0, 3)])
def test_every_dtype_and_shape_is_written_and_hashed(dtype, shape, tmp_path):
    tensor = (torch.rand(shape) * 9).to(dtype)
    writer = ShardWriter(tmp_path)
    writer.add({"a": tensor})
    facts = writer.finish()["a"]
    back = load_file(tmp_path / SINGLE_FILE)["a"]
    assert back.dtype == dtype and back.shape == tensor.shape
    raw = bytes(tensor.flatten().view(torch.uint8).tolist())
    assert facts == {
        "sha256": hashlib.sha256(raw).hexdigest(),
        "dtype": str(dtype).removeprefix("torch."),
        "shape": list(shape),
    }
    assert tensor_sha256(back) == facts["sha256"]


def test_views_are_written_as_they_look(tmp_path):
    base = torch.arange(24.0).view(4, 6)
    views = {
        "t": base.t(),
        "row": base[1],
        "step": base[:, ::2],
        "whole": base,
        "again": base,
        "wide": base[:1].expand(3, 6),
    }
    writer = ShardWriter(tmp_path)
    writer.add(views)
    writer.finish()
    back = load_file(tmp_path / SINGLE_FILE)
    assert all(torch.equal(back[name], view) for name, view in views.items())


def test_a_name_twice_and_a_limit_of_nothing_are_refused(tmp_path):
    writer = ShardWriter(tmp_path, max_shard_bytes=1)
    writer.add({"a": torch.zeros(3)})
    writer.add({"b": torch.zeros(3)})
    with pytest.raises(CheckpointError, match="'a'"):
        writer.add({"a": torch.zeros(3)})
    with pytest.raises(CheckpointError, match="max_shard_bytes=0"):
        ShardWriter(tmp_path, 0)
