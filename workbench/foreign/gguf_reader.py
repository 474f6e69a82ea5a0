"""Read a GGUF file that nobody vouches for: every count, length and offset is held against the size of the file.

Nothing is mapped or executed; of a tensor only the bytes that the header gives it are read.
"""

from __future__ import annotations

import array
import math
import os
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from workbench.errors import CheckpointError
from workbench.strict_json import require_plain_file
from workbench.targets.gguf_file import ALIGNMENT, BF16, F16, F32, MAGIC, Q4_0, Q4_1, TensorType

_VERSIONS = (2, 3)
_MAX_HEADER = 64 * 2**20  # the largest vocabularies take 15
_MAX_DIMENSIONS, _MAX_NAME = 4, 256
_STRING, _ARRAY = 8, 9
# Number of a value's type → how it is packed.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
# Types of values whose layout gguf-py knows: number → (name, values of a block, bytes of a block), as ggml.h has them.
_QUANTIZED = {
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    20: ("IQ4_NL", 32, 18),
    23: ("IQ4_XS", 256, 136),
}
TYPES = {one.number: one for one in (F32, F16, BF16, Q4_0, Q4_1)}
TYPES |= {number: TensorType(name, number, block, size) for number, (name, block, size) in _QUANTIZED.items()}


@dataclass(frozen=True)
class Stored:
    """A tensor of the file.

    Attributes:
        name: As llama.cpp calls it.
        shape: Outermost dimension first; the last one is K.
        type: How it is stored.
        start: Where its bytes begin in the file.
    """

    name: str
    shape: tuple[int, ...]
    type: TensorType
    start: int

    @property
    def row_bytes(self) -> int:
        """Bytes of K values."""
        return self.shape[-1] // self.type.block * self.type.size

    @property
    def size_bytes(self) -> int:
        """Bytes of all values."""
        return math.prod(self.shape[:-1]) * self.row_bytes


class GgufFile:
    """The header of a GGUF file, and its tensors by name.

    Attributes:
        path: The file.
        metadata: Key → number, string, list of strings, or array of numbers.
        tensors: Name → tensor.

    Raises:
        CheckpointError: when it is no GGUF file, cut short, or its header says what cannot be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            require_plain_file(path)
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                header = _Header(file, size, str(path))
                self.metadata, self.tensors = header.read()
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{str(path)!r} cannot be read: {error}.", mend="check the path") from None

    def read(self, name: str) -> Tensor:
        """Read a tensor's bytes: uint8 [rows, bytes of a row].

        Raises:
            CheckpointError: when the file has become shorter.
        """
        stored = self.tensors[name]
        data = torch.empty(stored.size_bytes, dtype=torch.uint8)
        with self.path.open("rb") as file:
            file.seek(stored.start)
            count = file.readinto(data.numpy().data)
        if count != stored.size_bytes:
            raise CheckpointError(f"{str(self.path)!r} ends within {name!r}.", mend="fetch it again")
        return data.view(-1, stored.row_bytes)


class _Header:
    def __init__(self, file: BinaryIO, size: int, path: str) -> None:
        self.file, self.size, self.path = file, size, path
        self.left = min(size, _MAX_HEADER)

    def read(self) -> tuple[dict[str, Any], dict[str, Stored]]:
        """Read metadata and tensors, and hold them against each other."""
        if self.take(4) != MAGIC:
            raise self.wrong("is no GGUF file")
        (version,) = self.numbers("I")
        if version not in _VERSIONS:
            raise self.wrong(f"has GGUF version {version}", f"{_VERSIONS[0]} or {_VERSIONS[1]}, little-endian")
        tensors, entries = self.numbers("QQ")
        self.fits(tensors, 24)
        self.fits(entries, 13)
        metadata = self.unique(entries, self.entry)
        alignment = metadata.get("general.alignment", ALIGNMENT)
        if type(alignment) is not int or not 1 <= alignment <= 2**16 or alignment & (alignment - 1):
            raise self.wrong(f"has general.alignment {alignment!r}", "a power of two up to 65536")
        records = self.unique(tensors, self.record)
        return metadata, self.placed(records, alignment)

    def entry(self) -> tuple[str, Any]:
        """Read a key and its value."""
        name = self.string()
        (kind,) = self.numbers("I")
        if kind != _ARRAY:
            return name, self.value(kind)
        inner, count = self.numbers("IQ")
        if inner == _STRING:
            self.fits(count, 8)
            return name, [self.string() for _ in range(count)]
        if inner not in _SCALARS:
            raise self.wrong(f"has an array of type {inner} in {name!r}", "numbers, truth values or strings")
        self.fits(count, struct.calcsize(_SCALARS[inner]))
        values = array.array("B" if inner == 7 else _SCALARS[inner])
        values.frombytes(self.take(count * values.itemsize))
        if sys.byteorder == "big":
            values.byteswap()
        return name, values

    def value(self, kind: int) -> Any:
        """Read a number, a truth value or a string."""
        if kind == _STRING:
            return self.string()
        if kind not in _SCALARS:
            raise self.wrong(f"has a value of type {kind}", "0 to 12")
        return self.numbers(_SCALARS[kind])[0]

    def record(self) -> tuple[str, tuple[tuple[int, ...], int, int]]:
        """Read what the header says about a tensor: name, (shape, type, offset)."""
        name = self.string()
        (dimensions,) = self.numbers("I")
        if not 1 <= dimensions <= _MAX_DIMENSIONS or len(name) > _MAX_NAME:
            raise self.wrong(f"has a tensor {name[:64]!r} of {dimensions} dimensions", f"1 to {_MAX_DIMENSIONS}")
        shape = self.numbers(f"{dimensions}Q")[::-1]
        kind, offset = self.numbers("IQ")
        return name, (shape, kind, offset)

    def placed(self, records: dict[str, tuple[tuple[int, ...], int, int]], alignment: int) -> dict[str, Stored]:
        """Check that every tensor has its own bytes within the file."""
        start = -(-self.file.tell() // alignment) * alignment
        found = {}
        for name, (shape, kind, offset) in records.items():
            if kind not in TYPES:
                raise self.wrong(f"holds {name!r} in type {kind}", ", ".join(one.name for one in TYPES.values()))
            if not all(0 < side <= self.size for side in shape) or shape[-1] % TYPES[kind].block:
                raise self.wrong(f"holds {name!r} of shape {list(shape)} in {TYPES[kind].name}")
            stored = Stored(name, shape, TYPES[kind], start + offset)
            if offset % alignment or stored.start + stored.size_bytes > self.size:
                raise self.wrong(
                    f"holds {name!r} at offset {offset}, {stored.size_bytes} bytes, beyond its end or unaligned"
                )
            found[name] = stored
        end, last = 0, ""
        for stored in sorted(found.values(), key=lambda one: one.start):
            if stored.start < end:
                raise self.wrong(f"holds {stored.name!r} and {last!r} in the same place")
            end, last = stored.start + stored.size_bytes, stored.name
        return found

    def unique(self, count: int, read: Callable[[], tuple[str, Any]]) -> dict[str, Any]:
        """Read that many named things; a name that comes twice is refused."""
        found: dict[str, Any] = {}
        for _ in range(count):
            name, value = read()
            if name in found:
                raise self.wrong(f"has {name[:64]!r} twice")
            found[name] = value
        return found

    def string(self) -> str:
        """Read a string."""
        (length,) = self.numbers("Q")
        self.fits(length, 1)
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError:
            raise self.wrong("has a string that is no UTF-8") from None

    def numbers(self, layout: str) -> tuple[Any, ...]:
        """Read numbers of that layout."""
        return struct.unpack(f"<{layout}", self.take(struct.calcsize(f"<{layout}")))

    def take(self, count: int) -> bytes:
        """Read bytes of the header."""
        self.fits(count, 1)
        data = self.file.read(count)
        if len(data) != count:
            raise self.wrong("is cut short")
        self.left -= count
        return data

    def fits(self, count: int, item: int) -> None:
        """Refuse a count of things that the rest of the file cannot hold."""
        if count * item > self.left:
            raise self.wrong("is cut short, or its header lies about sizes", f"{self.left} bytes are left")

    def wrong(self, what: str, allowed: str | None = None) -> CheckpointError:
        """Return an error about this file."""
        return CheckpointError(f"{self.path!r} {what}.", allowed=allowed, mend="fetch or export the file again")
