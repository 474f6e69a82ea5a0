"""Check a checkpoint: headers against the configuration, values against their ranges, bytes against the manifest."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from workbench.checkpoint.files import check_config, check_files
from workbench.checkpoint.files import read_json as read_json
from workbench.checkpoint.hashing import iter_hashes
from workbench.checkpoint.manifest import check_sealed, read_manifest, write_manifest
from workbench.checkpoint.native import ModuleFormat, parse
from workbench.checkpoint.pieces import headers, pieces_of, problem, strays
from workbench.checkpoint.pieces import inside as inside
from workbench.errors import CheckpointError, ModelError
from workbench.safetensors_folder import DTYPES, SafetensorsFolder

_NAMES = {"U8": torch.uint8, "BF16": torch.bfloat16, "F32": torch.float32}


@dataclass(frozen=True)
class Checked:
    """One finding of `iter_verify`.

    Attributes:
        what: What was looked at: a tensor, a file, or "headers".
        problem: What is wrong with it, or "".
        done_bytes: Bytes hashed until now.
        total_bytes: Bytes to hash.
    """

    what: str
    problem: str = ""
    done_bytes: int = 0
    total_bytes: int = 0


def read_quantization(directory: Path | str) -> dict[str, Any]:
    """Return the quantization_config of a checkpoint folder, {} for a model that is not quantized."""
    found = read_json(Path(directory) / "config.json").get("quantization_config", {})
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise CheckpointError("quantization_config is no JSON object.", mend="the file is damaged")
    return found


def check_headers(directory: Path | str, modules: dict[str, ModuleFormat]) -> SafetensorsFolder:
    """Hold the headers of all shards against the configuration; no value is read.

    Raises:
        CheckpointError: naming the first tensor that is missing, or has another shape or dtype.
    """
    try:
        folder = SafetensorsFolder(directory)
    except ModelError as error:
        raise CheckpointError(error.what, allowed=error.allowed, mend=error.mend) from None
    for module, form in modules.items():
        for suffix, (dtype, shape) in form.tensors().items():
            name = f"{module}.{suffix}"
            if name not in folder:
                raise CheckpointError(f"The tensor {name!r} is missing.", mend="the checkpoint is incomplete")
            found = _NAMES.get(folder.dtype(name)), folder.shape(name)
            if found != (dtype, shape):
                raise CheckpointError(
                    f"{name!r} is {folder.dtype(name)} {list(folder.shape(name))}.",
                    allowed=f"{dtype} {list(shape)}",
                    mend="the file is damaged: fetch or save it again",
                )
    _refuse_unknown(folder, modules)
    return folder


def torch_dtype(folder: SafetensorsFolder, name: str) -> torch.dtype:
    """Return the dtype of a stored tensor.

    Raises:
        CheckpointError: when PyTorch has none such.
    """
    found = DTYPES.get(folder.dtype(name))
    if found is None:
        raise CheckpointError(f"{name!r} has the dtype {folder.dtype(name)}.", allowed=", ".join(DTYPES))
    return found


def _refuse_unknown(folder: SafetensorsFolder, modules: dict[str, ModuleFormat]) -> None:
    """Refuse a tensor of an int4 module that its form does not have; only a bias may stand beside."""
    for name in folder.names():
        module, _, suffix = name.rpartition(".")
        if module in modules and suffix != "bias" and suffix not in modules[module].tensors():
            raise CheckpointError(
                f"The tensor {name!r} does not belong to a weight of the domain {modules[module].domain!r}.",
                allowed=", ".join([*modules[module].tensors(), "bias"]),
                mend="config.json does not belong to these weights",
            )


def check_before_load(directory: Path) -> SafetensorsFolder:
    """Check everything of a native checkpoint that can be known without reading its values.

    Raises:
        CheckpointError: naming what is damaged, lies outside the folder, or is not what was saved.
    """
    check_files(directory)
    folder = check_headers(directory, parse(read_quantization(directory)))
    check_config(read_json(directory / "config.json"), len(folder.names()))
    check_sealed(directory, folder.header_sha256)
    return folder


def iter_verify(directory: Path | str, *, cancel: threading.Event | None = None) -> Iterator[Checked]:
    """Check everything in a checkpoint: headers, every tensor's bytes and range, every file's hash; on all cores.

    A shard's bytes are read once: its header and its tensors are all of them.

    Raises:
        Cancelled: when `cancel` was set.
        CheckpointError: when there is no manifest, or the headers already disagree.
    """
    directory = Path(directory)
    check_files(directory)
    modules = parse(read_quantization(directory))
    folder = check_headers(directory, modules)
    manifest = read_manifest(directory)
    try:
        pieces = pieces_of(folder, manifest, modules)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{str(directory)!r} cannot be read: {error}.", mend="verify it again") from None
    total, done = sum(piece.stop - piece.start for piece in pieces), 0
    yield Checked("headers", total_bytes=total)
    for name, said in (*headers(folder, manifest), *strays(folder, manifest)):
        yield Checked(name, said, 0, total)
    for found in iter_hashes(pieces, cancel):
        done += found.piece.stop - found.piece.start
        yield Checked(found.piece.what, problem(found, manifest), done, total)


def verify_checkpoint(directory: Path | str, *, cancel: threading.Event | None = None) -> int:
    """Check everything in a checkpoint and return how many things were checked.

    Raises:
        Cancelled: when `cancel` was set.
        CheckpointError: naming each damaged tensor or file.
    """
    found = list(iter_verify(directory, cancel=cancel))
    bad = sorted(f"{one.what}: {one.problem}" for one in found if one.problem)
    if bad:
        raise CheckpointError(
            f"The checkpoint {str(directory)!r} is damaged: {'; '.join(bad[:5])}"
            + (f"; and {len(bad) - 5} more." if len(bad) > 5 else "."),
            mend="fetch or save it again",
        )
    return len(found)


def accept_changes(directory: Path | str) -> list[str]:
    """Take files that a person changed into the manifest, when every tensor is still what was saved.

    Returns:
        The names of the files whose hashes are new.

    Raises:
        CheckpointError: naming each damaged tensor; the manifest then stays as it is.
    """
    directory = Path(directory)
    tensors = read_manifest(directory).tensors
    bad = [one for one in iter_verify(directory) if one.problem]
    lost = sorted(f"{one.what}: {one.problem}" for one in bad if one.what in tensors)
    if lost:
        raise CheckpointError(
            f"Tensors of {str(directory)!r} are damaged: {'; '.join(lost[:5])}.", mend="fetch it again"
        )
    added = set(check_headers(directory, {}).names()) - set(tensors)
    if added:
        raise CheckpointError(f"{min(added)!r} was not saved with {str(directory)!r}.", mend="fetch it again")
    write_manifest(directory, tensors)
    return sorted(one.what for one in bad)
