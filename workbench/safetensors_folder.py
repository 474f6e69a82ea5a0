"""The tensors of a folder of safetensors: headers first, values on demand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from workbench.errors import ModelError
from workbench.safetensors_header import BITS, Header, read_header
from workbench.strict_json import read_object

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"


class StoredTensors(Protocol):
    """Tensors of a model folder by name; shapes and dtypes are known without reading any."""

    @property
    def path(self) -> Path:
        """The folder."""
        ...

    def names(self) -> list[str]:
        """Names of all tensors."""
        ...

    def __contains__(self, name: str) -> bool:
        """Say whether there is a tensor of that name."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the tensor that `read` returns."""
        ...

    def dtype(self, name: str) -> str:
        """Dtype of the tensor that `read` returns, as safetensors calls it, for instance "BF16"."""
        ...

    def size_bytes(self, name: str) -> int:
        """Bytes on disk."""
        ...

    def read(self, name: str) -> Tensor:
        """Read one tensor."""
        ...

    def rows(self, name: str, start: int, stop: int, dim: int = 0) -> Tensor:
        """Read places start..stop of one tensor along one of its dimensions."""
        ...

    def stored_format(self, name: str) -> str:
        """Format that a tensor is dequantized from, for instance "MXFP4"; "" for one that is read as it lies."""
        ...

    def notes(self) -> list[str]:
        """What a person should know of tensors that are not read."""
        ...


class SafetensorsFolder:
    """The tensors of a folder of safetensors, sharded or not: headers first, values on demand.

    Attributes:
        path: The folder.
        header_sha256: Shard → hash of its header.

    Raises:
        ModelError: when the folder, an index or a shard is missing or damaged, naming the file.
    """

    def __init__(self, path: Path | str) -> None:
        """Read the headers of every shard in `path`."""
        self.path = Path(path)
        self.header_sha256: dict[str, str] = {}
        self._file_of: dict[str, str] = {}
        self._headers: dict[str, tuple[tuple[int, ...], str]] = {}
        same: dict[tuple[tuple[int, ...], str], tuple[tuple[int, ...], str]] = {}  # thousands have the same
        for file in shard_files(self.path):
            found = self._header(file)
            self.header_sha256[file] = found.sha256
            for name, tensor in found.tensors.items():
                if name in self._file_of:
                    raise ModelError(f"{name!r} stands in both {self._file_of[name]!r} and {file!r}.")
                self._file_of[name] = file
                header = tensor.shape, tensor.dtype
                self._headers[name] = same.setdefault(header, header)
        self._check_index()

    def names(self) -> list[str]:
        """Names of all tensors."""
        return list(self._file_of)

    def __contains__(self, name: str) -> bool:
        """Say whether a tensor of that name is stored."""
        return name in self._file_of

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape in the header."""
        return self._headers[name][0]

    def dtype(self, name: str) -> str:
        """Dtype in the header, for instance "BF16"."""
        return self._headers[name][1]

    def size_bytes(self, name: str) -> int:
        """Bytes of a tensor, from its header."""
        shape, dtype = self._headers[name]
        return math.prod(shape) * BITS[dtype] // 8

    def read(self, name: str) -> Tensor:
        """Read one tensor."""
        with self._open(self._file_of[name]) as shard:
            tensor: Tensor = shard.get_tensor(name)
            return tensor

    def rows(self, name: str, start: int, stop: int, dim: int = 0) -> Tensor:
        """Read places start..stop of one tensor along dimension `dim`, and nothing else of it."""
        with self._open(self._file_of[name]) as shard:
            piece: Tensor = shard.get_slice(name)[(slice(None),) * dim + (slice(start, stop),)]
            return piece

    def stored_format(self, name: str) -> str:
        """Every tensor is read as it lies."""
        return ""

    def notes(self) -> list[str]:
        """Nothing is left aside."""
        return []

    def _header(self, file: str) -> Header:
        """Read a shard's header, and have safetensors map the file: what it refuses is refused here."""
        try:
            header = read_header(self.path / file)
        except FileNotFoundError:
            raise self._missing(file) from None
        except (OSError, ValueError) as error:
            raise self._unreadable(file, error) from None
        with self._open(file):
            return header

    def _open(self, file: str) -> safe_open:
        try:
            return safe_open(str(self.path / file), framework="pt")
        except FileNotFoundError:
            raise self._missing(file) from None
        except (SafetensorError, OSError, RuntimeError) as error:  # RuntimeError: it cannot be mapped into memory
            raise self._unreadable(file, error) from None

    def _missing(self, file: str) -> ModelError:
        path = str(self.path / file)
        return ModelError(f"The shard {path!r} is missing.", mend="download or copy the folder again")

    def _unreadable(self, file: str, error: Exception) -> ModelError:
        return ModelError(
            f"{str(self.path / file)!r} is no readable safetensors file ({error}).",
            mend="the file is truncated, damaged or of another format: download or copy it again",
        )

    def _check_index(self) -> None:
        index = self.path / INDEX_FILE
        if not index.exists():
            return
        lost = sorted(set(_weight_map(index)) - set(self._file_of))
        if lost:
            raise ModelError(
                f"{str(index)!r} names {len(lost)} tensors that no shard holds, first {lost[0]!r}.",
                mend="download or copy the folder again",
            )


DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}

DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def shard_files(folder: Path) -> list[str]:
    """Names of the safetensors files that make up the model in `folder`.

    Raises:
        ModelError: when there are none, or the index is damaged or points outside the folder.
    """
    if not folder.is_dir():
        raise ModelError(f"The model folder {str(folder)!r} does not exist.", mend="check the path")
    index = folder / INDEX_FILE
    if index.exists():
        files = sorted(set(_weight_map(index).values()))
        for file in files:
            if Path(file).name != file or "\\" in file:
                raise ModelError(f"{str(index)!r} points outside its folder: {file!r}.", allowed="plain file names")
        return files
    if (folder / SINGLE_FILE).exists():
        return [SINGLE_FILE]
    raise ModelError(
        f"No safetensors weights in {str(folder)!r}.",
        allowed=f"{SINGLE_FILE}, or shards with {INDEX_FILE}",
        mend="save the model with save_pretrained (pickled .bin weights are never read)",
    )


def _weight_map(index: Path) -> dict[str, str]:
    try:
        found = read_object(index)["weight_map"]
        if not found or not all(isinstance(k, str) and isinstance(v, str) for k, v in found.items()):
            raise TypeError("weight_map is empty, or holds something other than names")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"The index {str(index)!r} is damaged ({error!r}).", mend="download or copy it again"
        ) from None
    return dict(found)
