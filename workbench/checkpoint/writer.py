"""Write a folder whole or not at all, and tensors into shards as they come."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import re
import shutil
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from workbench.errors import CheckpointError
from workbench.sources import INDEX_FILE, SINGLE_FILE

MANIFEST_FILE = "int4_manifest.json"
MAX_SHARD_BYTES = 5_000_000_000
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


@contextlib.contextmanager
def new_directory(target: Path | str, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that becomes `target` at the end; on any error the target stays as it was.

    Raises:
        CheckpointError: when the target exists (and `overwrite` is not set), is not a folder, or cannot be written.
    """
    target = Path(target).absolute()
    _check_target(target, overwrite)
    _clean_leftovers(target)
    temporary = target.parent / f".{target.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
    except OSError as error:
        raise _cannot_write(target, error) from None
    try:
        yield temporary
        for path in temporary.iterdir():
            _sync(path)
        _sync(temporary)
        _put_in_place(temporary, target)
        _sync(target.parent)
    except OSError as error:
        raise _cannot_write(target, error) from error
    except SafetensorError as error:
        raise _cannot_write(target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class ShardWriter:
    """Collects tensors into shards of safetensors; never more than one shard is held in memory.

    Args:
        directory: Where the shards go.
        max_shard_bytes: A shard is written before it would grow beyond this.
    """

    def __init__(self, directory: Path, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
        if max_shard_bytes < 1:
            raise CheckpointError(f"max_shard_bytes={max_shard_bytes}.", allowed="1 or more")
        self.directory = directory
        self.max_shard_bytes = max_shard_bytes
        self.size_bytes = 0
        self._held: dict[str, Tensor] = {}
        self._held_bytes = 0
        self._shards: list[list[str]] = []
        self._hashes: dict[str, dict[str, Any]] = {}

    def add(self, tensors: Mapping[str, Tensor]) -> None:
        """Add tensors that belong together: they go into one shard."""
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        if self._held and self._held_bytes + size > self.max_shard_bytes:
            self._flush()
        for name, tensor in tensors.items():
            if name in self._hashes:
                raise CheckpointError(f"Two tensors are called {name!r}.")
            kept = tensor.detach().to("cpu").contiguous()
            self._hashes[name] = {
                "sha256": tensor_sha256(kept),
                "dtype": str(kept.dtype).removeprefix("torch."),
                "shape": list(kept.shape),
            }
            self._held[name] = kept
        self._held_bytes += size
        self.size_bytes += size

    def finish(self) -> dict[str, dict[str, Any]]:
        """Write the last shard and the index; return name → sha256, dtype and shape of each tensor."""
        if self._held or not self._shards:
            self._flush()
        total = len(self._shards)
        weight_map: dict[str, str] = {}
        for number, names in enumerate(self._shards, start=1):
            final = SINGLE_FILE if total == 1 else f"model-{number:05d}-of-{total:05d}.safetensors"
            (self.directory / _shard_name(number)).rename(self.directory / final)
            weight_map.update(dict.fromkeys(names, final))
        if total > 1:
            index = {"metadata": {"total_size": self.size_bytes}, "weight_map": dict(sorted(weight_map.items()))}
            (self.directory / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        return self._hashes

    def _flush(self) -> None:
        self._shards.append(list(self._held))
        save_file(self._held, self.directory / _shard_name(len(self._shards)), metadata={"format": "pt"})
        self._held, self._held_bytes = {}, 0


def write_manifest(directory: Path, tensors: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the hashes of every tensor and of every file beside it."""
    files = {
        path.name: {"sha256": file_sha256(path), "size_bytes": path.stat().st_size}
        for path in sorted(directory.iterdir())
        if path.name != MANIFEST_FILE
    }
    manifest = {"format_version": "1.0", "tensors": tensors, "files": files}
    text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
    (directory / MANIFEST_FILE).write_text(text, encoding="utf-8")


def tensor_sha256(tensor: Tensor) -> str:
    """Hash the raw bytes of a contiguous CPU tensor, so that it survives being sharded anew."""
    return hashlib.sha256(tensor.reshape(-1).view(torch.uint8).numpy().data).hexdigest()


def file_sha256(path: Path) -> str:
    """Hash a file, block by block."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shard_name(number: int) -> str:
    return f"shard-{number:05d}.safetensors"


def _check_target(target: Path, overwrite: bool) -> None:
    if not target.name:
        raise CheckpointError(f"{str(target)!r} cannot hold a checkpoint.", mend="name a new folder")
    if target.exists() and not target.is_dir():
        raise CheckpointError(f"{str(target)!r} is a file.", mend="name a folder that does not exist yet")
    if target.is_symlink():
        raise CheckpointError(f"{str(target)!r} is a symbolic link.", mend="name the folder itself")
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise CheckpointError(
            f"The folder {str(target)!r} exists and is not empty.",
            mend="choose another folder, or pass overwrite=True (--overwrite)",
        )


def _clean_leftovers(target: Path) -> None:
    """Remove temporary folders of saves to this target whose process is gone."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.(\d+)\.[0-9a-f]{{8}}\.tmp")
    with contextlib.suppress(OSError):
        for path in target.parent.iterdir():
            found = pattern.fullmatch(path.name)
            if found and not _alive(int(found[1])):
                shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
    if sys.platform == "win32":
        return pid == os.getpid()
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _put_in_place(temporary: Path, target: Path) -> None:
    """Make `temporary` the target in one step; where the system cannot exchange folders, in two."""
    if not target.exists():
        temporary.rename(target)
    elif not _exchange(temporary, target):
        old = temporary.with_suffix(".old")
        target.rename(old)
        try:
            temporary.rename(target)
        except OSError:
            old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders atomically (Linux's renameat2); False where that is not possible."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)


def _sync(path: Path) -> None:
    if sys.platform == "win32" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _cannot_write(target: Path, error: Exception) -> CheckpointError:
    full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error) or "os error 28" in str(error)
    mend = "free some disk space, or choose another disk" if full else "choose a folder that you may write to"
    reason = "the disk is full" if full else str(error)
    return CheckpointError(f"The checkpoint {str(target)!r} was not written: {reason}.", mend=mend)
