"""The pieces of a SentencePiece model, read from its protocol buffer without a library.

Fields of sentencepiece_model.proto: ModelProto pieces=1, trainer_spec=2, normalizer_spec=3; SentencePiece piece=1,
score=2, type=3; TrainerSpec model_type=3 (2 is BPE); NormalizerSpec precompiled_charsmap=2, add_dummy_prefix=3,
remove_extra_whitespaces=4.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from workbench.errors import CheckpointError

_BPE = 2
_MAX_BYTES = 64 * 2**20


@dataclass
class Pieces:
    """The vocabulary.

    Attributes:
        texts: Each token's text.
        scores: Its score: the higher, the earlier it is merged.
        types: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte.
        adds_space: Whether a space is put before every text.
    """

    texts: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    adds_space: bool = True


def read_sentencepiece(path: Path) -> Pieces:
    """Read a tokenizer.model.

    Raises:
        CheckpointError: when it is damaged, no BPE model, or changes text in a way that llama.cpp does not.
    """
    data = path.read_bytes() if path.stat().st_size <= _MAX_BYTES else b""
    try:
        pieces, model_type, changes = _read(memoryview(data))
    except (IndexError, struct.error, UnicodeDecodeError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{path.name} cannot be read: {error}.", mend="fetch it again") from None
    if not pieces.texts or model_type != _BPE or changes:
        what = "changes the text" if changes else f"has {len(pieces.texts)} pieces and model_type {model_type}"
        raise CheckpointError(
            f"{path.name} {what}.",
            allowed="a BPE model (model_type 2) of text as it is",
            mend="export to another format",
        )
    return pieces


def _read(data: memoryview) -> tuple[Pieces, int, bool]:
    pieces, model_type, changes = Pieces(), 1, False
    squeezes = True
    for number, value in _fields(data):
        if number == 1:
            _add(pieces, value)
        elif number == 2:
            model_type = next((int(v) for n, v in _fields(value) if n == 3), model_type)
        elif number == 3:
            spec = dict(_fields(value))
            changes = bool(len(spec.get(2, b"")))
            pieces.adds_space, squeezes = bool(spec.get(3, True)), bool(spec.get(4, True))
    return pieces, model_type, changes or squeezes


def _add(pieces: Pieces, data: memoryview) -> None:
    found = dict(_fields(data))
    pieces.texts.append(bytes(found[1]).decode("utf-8"))
    pieces.scores.append(struct.unpack("<f", found.get(2, bytes(4)))[0])
    pieces.types.append(int(found.get(3, 1)))


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield (number, value) of a message: bytes for lengths and fixed sizes, a number for a varint."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value  # type: ignore[misc]
            continue
        size, at = _varint(data, at) if kind == 2 else ({1: 8, 5: 4}.get(kind, len(data) + 1), at)
        if at + size > len(data):
            raise IndexError("it ends too soon")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise IndexError("a number has no end")
