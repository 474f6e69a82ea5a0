"""The manifest: every file but itself, and what is held against it before a value is read."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from safetensors.torch import save_file

from workbench.checkpoint.manifest import MANIFEST_FILE, check_sealed, read_manifest, write_manifest
from workbench.checkpoint.writer import file_sha256, size_on_disk
from workbench.errors import CheckpointError
from workbench.safetensors_folder import SINGLE_FILE, SafetensorsFolder


def test_the_manifest_holds_every_file_but_itself(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "b.txt").write_bytes(b"x" * 3_000_000)
    write_manifest(tmp_path, {"t": {"sha256": "0"}})
    manifest = json.loads((tmp_path / MANIFEST_FILE).read_text())
    assert set(manifest["files"]) == {"a.json", "inner/b.txt"}
    assert manifest["files"]["inner/b.txt"]["sha256"] == hashlib.sha256(b"x" * 3_000_000).hexdigest()
    assert manifest["files"]["a.json"] == {"sha256": file_sha256(tmp_path / "a.json"), "size_bytes": 2}
    assert manifest["tensors"] == {"t": {"sha256": "0"}}
    assert size_on_disk(tmp_path) == 3_000_002 + (tmp_path / MANIFEST_FILE).stat().st_size
    own = manifest.pop("manifest_sha256")
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    assert own == hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def folder(tmp_path):
    save_file({"a": torch.arange(6)}, tmp_path / SINGLE_FILE)
    (tmp_path / "config.json").write_text("{}")
    write_manifest(tmp_path, {})
    return tmp_path


def sealed(folder):
    check_sealed(folder, SafetensorsFolder(folder).header_sha256)


def edit(folder, change):
    path = folder / MANIFEST_FILE
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_a_shards_header_is_hashed_with_its_length(folder):
    data = (folder / SINGLE_FILE).read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    facts = read_manifest(folder).files[SINGLE_FILE]
    assert facts["header_sha256"] == hashlib.sha256(data[:end]).hexdigest()
    sealed(folder)


@pytest.mark.parametrize("key", ["manifest_sha256", "files", "tensors", "format_version"])
def test_any_change_of_the_manifest_is_seen(key, folder):
    edit(folder, lambda data: data.pop(key))
    with pytest.raises(CheckpointError, match="manifest"):
        sealed(folder)


def test_manifests_from_before_there_were_hashes_of_headers_are_read(folder):
    def older(data):
        data.pop("manifest_sha256")
        data["files"][SINGLE_FILE].pop("header_sha256")
        data["format_version"] = "1.0"

    edit(folder, older)
    sealed(folder)
    (folder / "config.json").write_text("{ }")
    with pytest.raises(CheckpointError, match=r"config\.json is not the file that was saved"):
        sealed(folder)


def test_another_major_version_is_refused(folder):
    edit(folder, lambda data: data.update(format_version="2.0"))
    with pytest.raises(CheckpointError, match=r"format_version '2\.0'"):
        read_manifest(folder)


def test_a_folder_without_a_manifest_is_not_held_against_one(folder):
    (folder / MANIFEST_FILE).unlink()
    sealed(folder)


def test_values_are_not_read(folder):
    data = bytearray((folder / SINGLE_FILE).read_bytes())
    data[-1] ^= 1
    (folder / SINGLE_FILE).write_bytes(data)
    sealed(folder)
