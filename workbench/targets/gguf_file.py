"""A GGUF file: what its header says, and tensors written into their places in any order.

Layout (version 3, little-endian; https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): "GGUF", version u32,
number of tensors u64, number of metadata entries u64, the entries, one record per tensor, then the data, each tensor
at a multiple of 32 bytes from where the data begin.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import torch
from torch import Tensor

from workbench.errors import CheckpointError

MAGIC, VERSION, ALIGNMENT = b"GGUF", 3, 32
Kind = Literal["u32", "i32", "f32", "bool", "str"]
KIND_NUMBERS: dict[str, int] = {"u32": 4, "i32": 5, "f32": 6, "bool": 7, "str": 8}
_ARRAY = 9
_FORMATS = {"u32": "<I", "i32": "<i", "f32": "<f", "bool": "<?"}
_LETTERS = {"u32": "I", "i32": "i", "f32": "f", "bool": "?"}


@dataclass(frozen=True)
class TensorType:
    """How the values of a tensor are stored.

    Attributes:
        name: As llama.cpp calls it.
        number: As it stands in the file.
        block: Weights that are stored together.
        size: Bytes of a block.
    """

    name: str
    number: int
    block: int
    size: int


F32, F16, BF16 = TensorType("F32", 0, 1, 4), TensorType("F16", 1, 1, 2), TensorType("BF16", 30, 1, 2)
Q4_0, Q4_1 = TensorType("Q4_0", 2, 32, 18), TensorType("Q4_1", 3, 32, 20)
DENSE_TYPES = {torch.float32: F32, torch.float16: F16, torch.bfloat16: BF16}


@dataclass(frozen=True)
class Value:
    """A value of the metadata.

    Attributes:
        kind: Its type, or that of its elements.
        data: A number, a string, or a sequence of them.
    """

    kind: Kind
    data: Any

    def pack(self) -> bytes:
        """Return the value as it stands in the file, its type first."""
        if not isinstance(self.data, list | tuple):
            return struct.pack("<I", KIND_NUMBERS[self.kind]) + self._packed(self.data)
        head = struct.pack("<IIQ", _ARRAY, KIND_NUMBERS[self.kind], len(self.data))
        if self.kind == "str":
            return head + b"".join(map(_string, self.data))
        return head + struct.pack(f"<{len(self.data)}{_LETTERS[self.kind]}", *self.data)

    def _packed(self, one: Any) -> bytes:
        return _string(one) if self.kind == "str" else struct.pack(_FORMATS[self.kind], one)


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of the file.

    Attributes:
        name: As llama.cpp calls it.
        shape: Outermost dimension first, as torch has it; the last one is K.
        type: How it is stored.
    """

    name: str
    shape: tuple[int, ...]
    type: TensorType

    @property
    def row_bytes(self) -> int:
        """Bytes of K values."""
        return self.shape[-1] // self.type.block * self.type.size

    @property
    def rows(self) -> int:
        """Number of rows of K values."""
        return math.prod(self.shape[:-1])

    @property
    def size_bytes(self) -> int:
        """Bytes of all values."""
        return self.rows * self.row_bytes


class GgufWriter:
    """Writes a file whose tensors are known beforehand; their values come in any order and are never held.

    Args:
        path: The file, which must not exist.
        metadata: Key → value.
        tensors: What the file will hold.
    """

    def __init__(self, path: Path, metadata: dict[str, Value], tensors: Sequence[TensorInfo]) -> None:
        self._left = {info.name: info.size_bytes for info in tensors}
        self._places: dict[str, tuple[TensorInfo, int]] = {}
        records, offset = b"", 0
        for info in tensors:
            self._places[info.name] = (info, offset)
            records += _string(info.name) + struct.pack("<I", len(info.shape))
            records += struct.pack(f"<{len(info.shape)}Q", *reversed(info.shape))
            records += struct.pack("<IQ", info.type.number, offset)
            offset = aligned(offset + info.size_bytes)
        head = MAGIC + struct.pack("<IQQ", VERSION, len(tensors), len(metadata))
        head += b"".join(_string(key) + value.pack() for key, value in metadata.items()) + records
        self._start = aligned(len(head))
        self._file: BinaryIO = path.open("xb")
        self._file.write(head)
        self._file.truncate(self._start + offset)

    def write(self, name: str, data: Tensor, row: int = 0) -> None:
        """Write rows of a tensor, from the given row on: uint8 [rows, bytes of a row]."""
        info, offset = self._places[name]
        assert data.dtype == torch.uint8 and data.shape[1] == info.row_bytes and row + len(data) <= info.rows
        self._file.seek(self._start + offset + row * info.row_bytes)
        self._file.write(data.contiguous().numpy().data)
        self._left[name] -= data.numel()

    def finish(self) -> None:
        """Close the file.

        Raises:
            CheckpointError: when a tensor was not written whole.
        """
        self.close()
        missing = [name for name, left in self._left.items() if left]
        if missing:
            raise CheckpointError(
                f"{len(missing)} tensors were not written whole, first {missing[0]!r}.",
                mend="the model lacks weights: fetch or save it again",
            )

    def close(self) -> None:
        """Close the file as it is."""
        self._file.close()


def aligned(offset: int) -> int:
    """Return the next place where a tensor may begin."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


def _string(text: str | bytes) -> bytes:
    raw = text if isinstance(text, bytes) else text.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw
