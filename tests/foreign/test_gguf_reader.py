"""A GGUF file that lies is refused before anything is allocated for it."""

from __future__ import annotations

import random
import struct

import pytest
import torch

from tests.foreign.test_gguf import foreign_file
from workbench.errors import WorkbenchError
from workbench.foreign import open_int4
from workbench.foreign.gguf_reader import GgufFile
from workbench.targets.gguf_file import F32, GgufWriter, TensorInfo, Value

ARRAY, STRING = 9, 8


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def head(tensors=0, entries=0, version=3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, entries)


def record(name=b"a", shape=(32,), kind=0, offset=0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def entry(name=b"a", kind=4, value=b"\1\0\0\0") -> bytes:
    return text(name) + struct.pack("<I", kind) + value


ALIGNED_64 = entry(b"general.alignment", 4, struct.pack("<I", 64))
LIES = {
    "empty": (b"", "cut short"),
    "no GGUF": (b"PK\3\4" + bytes(40), "is no GGUF file"),
    "version 1": (head(version=1), "has GGUF version 1"),
    "big endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "has GGUF version 50331648"),
    "many tensors": (head(tensors=2**60), "lies about sizes"),
    "many entries": (head(entries=2**40), "lies about sizes"),
    "long key": (head(entries=1) + struct.pack("<Q", 2**63) + bytes(16), "lies about sizes"),
    "long array": (head(entries=1) + entry(kind=ARRAY, value=struct.pack("<IQ", 4, 2**50)), "lies about sizes"),
    "long list": (head(entries=1) + entry(kind=ARRAY, value=struct.pack("<IQ", STRING, 2**50)), "lies about sizes"),
    "array in array": (head(entries=1) + entry(kind=ARRAY, value=struct.pack("<IQ", ARRAY, 1)), "array of type 9"),
    "unknown value": (head(entries=1) + entry(kind=77), "value of type 77"),
    "twice": (head(entries=2) + entry() + entry(), "has 'a' twice"),
    "no UTF-8": (head(entries=1) + entry(name=b"\xff\xfe"), "no UTF-8"),
    "odd alignment": (head(entries=1) + entry(name=b"general.alignment", value=struct.pack("<I", 48)), "alignment 48"),
    "five dimensions": (head(tensors=1) + record(shape=(1, 1, 1, 1, 1)) + bytes(64), "of 5 dimensions"),
    "no dimension": (head(tensors=1) + record(shape=()) + bytes(64), "of 0 dimensions"),
    "unknown type": (head(tensors=1) + record(kind=99) + bytes(256), "in type 99"),
    "huge": (head(tensors=1) + record(shape=(2**62, 4)) + bytes(256), "of shape"),
    "half a block": (head(tensors=1) + record(shape=(48, 1), kind=2) + bytes(256), "of shape [1, 48] in Q4_0"),
    "beyond": (head(tensors=1) + record(shape=(64,)) + bytes(200), "beyond its end"),
    "offset": (head(tensors=1) + record(shape=(4,), offset=2**63) + bytes(64), "beyond its end"),
    "unaligned": (head(tensors=1) + record(shape=(4,), offset=4) + bytes(256), "beyond its end or unaligned"),
    "shared": (head(tensors=2) + record() + record(b"b") + bytes(256), "in the same place"),
    "aligned anew": (head(tensors=1, entries=1) + ALIGNED_64 + record(shape=(4,), offset=32) + bytes(512), "unaligned"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_named(tmp_path, name):
    data, said = LIES[name]
    path = tmp_path / "lie.gguf"
    path.write_bytes(data)
    with pytest.raises(WorkbenchError) as raised:
        GgufFile(path)
    assert said in str(raised.value) and str(path) in str(raised.value)


def test_what_is_well_formed_is_read(tmp_path):
    path = tmp_path / "one.gguf"
    values = torch.arange(64, dtype=torch.float32).view(2, 32)
    writer = GgufWriter(
        path, {"a": Value("f32", [1.5, 2.5]), "b": Value("bool", True)}, [TensorInfo("x", (2, 32), F32)]
    )
    writer.write("x", values.view(torch.uint8))
    writer.finish()
    file = GgufFile(path)
    assert list(file.metadata["a"]) == [1.5, 2.5] and file.metadata["b"] is True
    assert torch.equal(file.read("x").view(torch.float32), values)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(WorkbenchError, match="ends within 'x'"):
        file.read("x")


def test_mutated_files_are_read_or_refused_in_words(tmp_path):
    path, _ = foreign_file(tmp_path / "theirs.gguf")
    whole = path.read_bytes()
    chance = random.Random(5)
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(2200)] = chance.choice([0, 1, 127, 128, 255, chance.randrange(256)])
        if chance.random() < 0.2:
            del data[chance.randrange(len(data)) :]
        path.write_bytes(data)
        try:
            contents = open_int4(path)
            contents.outline()
            for part in contents.parts():
                assert part.weight is None or bool(torch.isfinite(part.weight.scale).all())
        except WorkbenchError as error:
            assert str(error)
