"""The header of a safetensors file, read with suspicion: every place lies in the file, and every byte has one owner."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.strict_json import parse_object, require_plain_file

# Bits of an element, by the name that a header gives the dtype (safetensors' format description).
BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I8", "U8", "BOOL"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 64 * 2**20
_MAX_SIZE = 2**63
_MAX_DIMENSIONS = 64
_FACTS = {"dtype", "shape", "data_offsets"}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies.

    Attributes:
        dtype: As the header calls it, for instance "BF16".
        shape: Its shape.
        start: First byte, from the beginning of the file.
        stop: The byte after the last.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself.

    Attributes:
        tensors: Name → where it lies, in the order of the file's bytes.
        sha256: Hash of the header's own bytes, its length included.
    """

    tensors: dict[str, StoredTensor]
    sha256: str


def read_header(path: Path) -> Header:
    """Read and check the header of a safetensors file; no tensor's byte is read.

    Raises:
        OSError: when the file cannot be read.
        ValueError: when it is no plain file, is cut, or its header contradicts itself or the file's size.
    """
    size = require_plain_file(path)
    with path.open("rb") as file:
        prefix = file.read(_LENGTH_BYTES)
        if len(prefix) < _LENGTH_BYTES:
            raise ValueError(f"{size} bytes are too few")
        length = int.from_bytes(prefix, "little")
        if length > min(size - _LENGTH_BYTES, _MAX_HEADER_BYTES):
            raise ValueError(f"a header of {length} bytes in a file of {size}")
        text = file.read(length)
    if len(text) != length:
        raise ValueError("the file grew shorter while it was read")
    begin = _LENGTH_BYTES + length
    entries = parse_object(text)
    _check_metadata(entries.pop("__metadata__", {}))
    tensors = {name: _tensor(name, facts, begin) for name, facts in entries.items()}
    ordered = sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop))
    _check_cover([tensor for _, tensor in ordered], begin, size)
    return Header(dict(ordered), hashlib.sha256(prefix + text).hexdigest())


def _check_metadata(metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata are not text by name")


def _tensor(name: str, facts: Any, begin: int) -> StoredTensor:
    if not isinstance(facts, dict) or facts.keys() != _FACTS:
        raise ValueError(f"{name!r} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = facts["dtype"], facts["shape"], facts["data_offsets"]
    bits = BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is None:
        raise ValueError(f"{name!r} has the dtype {_short(dtype)}")
    if not isinstance(shape, list) or len(shape) > _MAX_DIMENSIONS or not all(map(_is_size, shape)):
        raise ValueError(f"{name!r} has the shape {_short(shape)}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):
        raise ValueError(f"{name!r} has the data_offsets {_short(offsets)}")
    start, stop = offsets
    if math.prod(shape) * bits != 8 * (stop - start):
        raise ValueError(f"{name!r} of {dtype} {_short(shape)} cannot lie in {start} to {stop}")
    return StoredTensor(dtype, tuple(shape), begin + start, begin + stop)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MAX_SIZE


def _short(value: Any) -> str:
    return repr(value)[:80]


def _check_cover(tensors: list[StoredTensor], begin: int, size: int) -> None:
    """Every byte after the header belongs to one tensor: no hole, no overlap, nothing beyond the file."""
    place = begin
    for tensor in tensors:
        if tensor.start != place:
            raise ValueError(f"the tensors {'overlap' if tensor.start < place else 'leave a hole'} at byte {place}")
        place = tensor.stop
    if place != size:
        raise ValueError(f"the header speaks of {place} bytes, the file has {size}")
