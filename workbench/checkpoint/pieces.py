"""What verifying a checkpoint hashes, and what each finding means."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from workbench.checkpoint.hashing import Hashed, Piece
from workbench.checkpoint.manifest import MANIFEST_FILE, Manifest
from workbench.checkpoint.native import ModuleFormat
from workbench.safetensors_folder import DTYPES, SafetensorsFolder
from workbench.safetensors_header import StoredTensor, read_header

# The bits of the exponent, all of which NaN and infinity have (IEEE 754; bfloat16 is the upper half of a float32).
_EXPONENTS = {"BF16": ("<u2", 0x7F80), "F32": ("<u4", 0x7F800000)}
_READ_BY_PROGRAMS = {".safetensors", ".json", ".jinja", ".model", ".txt", ".py", ".bin", ".pt", ".pth", ".gguf"}


def inside(name: str) -> bool:
    """Say whether a relative name stays in its folder on every system; what it links to is not asked."""
    parts = re.split(r"[/\\]", name)
    return bool(name) and ":" not in name and not {"", ".", ".."} & set(parts)


def pieces_of(folder: SafetensorsFolder, manifest: Manifest, modules: dict[str, ModuleFormat]) -> list[Piece]:
    """Return all that is hashed: every tensor, and every file whose bytes are not those of a header and its tensors.

    Raises:
        OSError: when a file cannot be read.
        ValueError: when a header is damaged.
    """
    pieces = []
    for file in folder.header_sha256:
        if "header_sha256" not in _saved(manifest, file):
            pieces.append(_file(folder.path, file))
        for name, tensor in read_header(folder.path / file).tensors.items():
            module, _, suffix = name.rpartition(".")
            look = _look_at(suffix, tensor) if module in modules else None
            pieces.append(Piece(name, folder.path / file, tensor.start, tensor.stop, tensor, look))
    beside = sorted(name for name in manifest.files if inside(name) and name not in folder.header_sha256)
    return pieces + [_file(folder.path, name) for name in beside if (folder.path / name).is_file()]


def headers(folder: SafetensorsFolder, manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield (shard, problem) by its header: whose own bytes are right, and its tensors', is right as a whole."""
    for file, found in folder.header_sha256.items():
        saved = _saved(manifest, file)
        size_bytes = (folder.path / file).stat().st_size
        if not saved:
            yield file, "not in the manifest"
        elif saved.get("size_bytes") != size_bytes:
            yield file, f"has {size_bytes} bytes, saved with {saved.get('size_bytes')}"
        elif saved.get("header_sha256", found) != found:
            yield file, "its header is not the one that was saved"
        elif "header_sha256" in saved:
            yield file, ""


def strays(folder: SafetensorsFolder, manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield (what, problem) of all that stands in the manifest only, and of files that programs read beside it."""
    for name in sorted(set(manifest.tensors) - set(folder.names())):
        yield name, "in the manifest, but in no shard"
    for name in sorted(manifest.files):
        if not inside(name):
            yield name, "named outside the folder"
        elif not (folder.path / name).is_file():
            yield name, "missing"
    for path in sorted(folder.path.rglob("*")):
        parts = path.relative_to(folder.path).parts
        name = "/".join(parts)
        read = path.suffix in _READ_BY_PROGRAMS and not any(part.startswith(".") for part in parts)
        if read and name not in {*manifest.files, *folder.header_sha256, MANIFEST_FILE} and path.is_file():
            yield name, "not in the manifest"


def problem(found: Hashed, manifest: Manifest) -> str:
    """Return what is wrong with a piece, "" for nothing."""
    piece, size_bytes = found.piece, found.piece.stop - found.piece.start
    if not found.sha256:
        return found.problem
    saved = (manifest.files if piece.tensor is None else manifest.tensors).get(piece.what)
    if not isinstance(saved, dict):
        return "not in the manifest"
    if piece.tensor is None and saved.get("size_bytes") != size_bytes:
        return f"has {size_bytes} bytes, saved with {saved.get('size_bytes')}"
    facts: dict[str, Any] = {"sha256": found.sha256}
    if piece.tensor is not None:
        dtype = str(DTYPES.get(piece.tensor.dtype)).removeprefix("torch.")
        facts |= {"dtype": dtype, "shape": list(piece.tensor.shape)}
    if any(saved.get(key) != value for key, value in facts.items()):
        place = "" if piece.tensor is None else f" in {piece.path.name}"
        return f"its bytes{place} are not those that were saved"
    return found.problem


def _saved(manifest: Manifest, file: str) -> dict[str, Any]:
    facts = manifest.files.get(file)
    return facts if isinstance(facts, dict) else {}


def _file(directory: Path, name: str) -> Piece:
    return Piece(name, directory / name, 0, (directory / name).stat().st_size)


def _look_at(suffix: str, tensor: StoredTensor) -> Callable[[bytearray], str] | None:
    """Return what checks the values of a zero point or a scale, on the thread that hashes them and no other."""

    def zero_point(data: bytearray) -> str:
        highest = int(np.frombuffer(data, np.uint8).max(initial=0))
        return f"holds the zero point {highest}, allowed: 0 to 15" if highest > 15 else ""

    def scale(data: bytearray) -> str:
        kind, exponent = _EXPONENTS[tensor.dtype]
        return "holds NaN or infinity" if bool((np.frombuffer(data, kind) & exponent == exponent).any()) else ""

    return {"weight_zp": zero_point, "weight_scale": scale, "weight_zero": scale}.get(suffix)
