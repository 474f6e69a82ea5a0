"""Write tensors into shards as they come, with a hash of each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from workbench.errors import CheckpointError
from workbench.safetensors_folder import INDEX_FILE, SINGLE_FILE

MAX_SHARD_BYTES = 1_000_000_000  # held in memory until it is written


class ShardWriter:
    """Collects tensors into shards of safetensors; never more than one shard is held in memory.

    Args:
        directory: Where the shards go.
        max_shard_bytes: A shard is written before it would grow beyond this.
        metadata: Returns what a shard's header says, by the names of its tensors.
    """

    def __init__(
        self,
        directory: Path,
        max_shard_bytes: int = MAX_SHARD_BYTES,
        *,
        metadata: Callable[[list[str]], dict[str, str]] = lambda names: {"format": "pt"},
    ) -> None:
        if max_shard_bytes < 1:
            raise CheckpointError(f"max_shard_bytes={max_shard_bytes}.", allowed="1 or more")
        self.directory = directory
        self.max_shard_bytes = max_shard_bytes
        self.size_bytes = 0
        self._metadata = metadata
        self._held: dict[str, Tensor] = {}
        self._held_bytes = 0
        self._storages: set[int] = set()
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
            kept = self._owned(tensor)
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
        path = self.directory / _shard_name(len(self._shards))
        path.touch()
        mode = path.stat().st_mode & 0o777  # what the person's umask allows; safetensors would make it private
        save_file(self._held, path, metadata=self._metadata(list(self._held)))
        path.chmod(mode)
        self._held, self._held_bytes, self._storages = {}, 0, set()

    def _owned(self, tensor: Tensor) -> Tensor:
        """Return a contiguous CPU tensor that shares its storage with no other held one: safetensors takes no views."""
        kept = tensor.detach().to("cpu").contiguous()
        storage = kept.untyped_storage()
        if storage.nbytes() != kept.numel() * kept.element_size() or storage.data_ptr() in self._storages:
            kept = kept.clone()
        self._storages.add(kept.untyped_storage().data_ptr())
        return kept


def size_on_disk(directory: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def tensor_sha256(tensor: Tensor) -> str:
    """Hash the raw bytes of a contiguous CPU tensor, so that it survives being sharded anew."""
    return hashlib.sha256(tensor.reshape(-1).view(torch.uint8).numpy().data).hexdigest()


def file_sha256(path: Path) -> str:
    """Hash a file, block by block."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shard_name(number: int) -> str:
    return f"shard-{number:05d}.safetensors"
