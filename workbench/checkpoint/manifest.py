"""The manifest: a hash of every tensor, of every file, of every shard's header, and of the manifest itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.checkpoint.files import read_json
from workbench.checkpoint.native import check_version
from workbench.checkpoint.writer import file_sha256
from workbench.errors import CheckpointError
from workbench.safetensors_folder import INDEX_FILE
from workbench.safetensors_header import read_header

MANIFEST_FILE = "int4_manifest.json"
MANIFEST_VERSION = "1.1"  # 1.0 had no hashes of headers and none of itself
_OWN_HASH = "manifest_sha256"
_READ_BY_LOADERS = ("config.json", INDEX_FILE)


@dataclass(frozen=True)
class Manifest:
    """What was saved.

    Attributes:
        tensors: Name → sha256 of its bytes, dtype and shape.
        files: Name → sha256 and size_bytes; of a shard also header_sha256.
    """

    tensors: dict[str, Any]
    files: dict[str, Any]


def write_manifest(directory: Path, tensors: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the hashes of every tensor and of every file beside it."""
    files = {
        path.relative_to(directory).as_posix(): _facts(path)
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != MANIFEST_FILE
    }
    manifest = {"format_version": MANIFEST_VERSION, "tensors": tensors, "files": files}
    text = json.dumps(manifest | {_OWN_HASH: _own_hash(manifest)}, indent=1, sort_keys=True) + "\n"
    (directory / MANIFEST_FILE).write_text(text, encoding="utf-8")


def read_manifest(directory: Path) -> Manifest:
    """Read the manifest of a checkpoint folder.

    Raises:
        CheckpointError: when it is missing, damaged, or of another version.
    """
    if directory.is_dir() and not (directory / MANIFEST_FILE).exists():
        mend = "it loads unchecked; one with hashes is written by: workbench export DIR --format native --out NEW"
        raise CheckpointError(f"{str(directory)!r} has no {MANIFEST_FILE}, where the hashes stand.", mend=mend)
    data = read_json(directory / MANIFEST_FILE)
    version = data.get("format_version")
    check_version("manifest", version, MANIFEST_VERSION)
    told = data.pop(_OWN_HASH, None)
    if (told is not None or version != "1.0") and told != _own_hash(data):
        raise CheckpointError(
            "The manifest is not the one that was saved.",
            mend=f"fetch or save the checkpoint again; without {MANIFEST_FILE} it loads unchecked",
        )
    tensors, files = data.get("tensors"), data.get("files")
    if not isinstance(tensors, dict) or not isinstance(files, dict):
        raise CheckpointError("The manifest lists no tensors.", mend="the manifest is damaged")
    return Manifest(tensors, files)


def check_sealed(directory: Path, header_sha256: Mapping[str, str]) -> None:
    """Hold headers, index and configuration against the manifest; no value is read, and nothing without a manifest.

    Args:
        directory: The checkpoint.
        header_sha256: Shard → hash of its header, as it is now.

    Raises:
        CheckpointError: naming the first file that is not what was saved.
    """
    if not (directory / MANIFEST_FILE).exists():
        return
    files = read_manifest(directory).files
    for name, found in header_sha256.items():
        saved = _saved(files, name)
        if (directory / name).stat().st_size != saved.get("size_bytes"):
            raise _changed(name)
        if saved.get("header_sha256", found) != found:
            raise _changed(name)
    for name in _READ_BY_LOADERS:
        if (directory / name).exists() and file_sha256(directory / name) != _saved(files, name).get("sha256"):
            raise _changed(name)


def _facts(path: Path) -> dict[str, Any]:
    facts: dict[str, Any] = {"sha256": file_sha256(path), "size_bytes": path.stat().st_size}
    if path.suffix == ".safetensors":
        facts["header_sha256"] = read_header(path).sha256
    return facts


def _own_hash(manifest: Mapping[str, Any]) -> str:
    try:
        text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    except RecursionError:
        return "nested too deep"
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _saved(files: Mapping[str, Any], name: str) -> dict[str, Any]:
    facts = files.get(name)
    if not isinstance(facts, dict):
        raise _changed(name)
    return facts


def _changed(name: str) -> CheckpointError:
    return CheckpointError(
        f"{name} is not the file that was saved with this checkpoint.",
        mend="fetch or save the checkpoint again, or accept what you changed yourself: workbench verify DIR --accept",
    )
