"""The file's layout, read by gguf-py."""

from __future__ import annotations

import gguf
import pytest
import torch

from workbench.errors import CheckpointError
from workbench.targets.gguf_file import F32, Q4_0, GgufWriter, TensorInfo, Value

METADATA = {
    "general.architecture": Value("str", "llama"),
    "a.number": Value("u32", 7),
    "a.fraction": Value("f32", 0.25),
    "a.truth": Value("bool", True),
    "some.words": Value("str", ["one", "zwölf", ""]),
    "some.numbers": Value("i32", [1, -2, 3]),
    "some.fractions": Value("f32", [0.5, -1.5]),
}


def test_gguf_py_reads_what_was_written_in_any_order(tmp_path):
    infos = [TensorInfo("norm", (5,), F32), TensorInfo("experts", (2, 3, 64), Q4_0), TensorInfo("last", (2, 4), F32)]
    data = torch.arange(6 * 36, dtype=torch.int64).to(torch.uint8).view(6, 36)
    writer = GgufWriter(tmp_path / "one.gguf", METADATA, infos)
    writer.write("last", torch.arange(8, dtype=torch.float32).view(2, 4).view(torch.uint8))
    writer.write("experts", data[3:], row=3)
    writer.write("norm", torch.arange(5, dtype=torch.float32).view(1, 5).view(torch.uint8))
    writer.write("experts", data[:3])
    writer.finish()
    reader = gguf.GGUFReader(tmp_path / "one.gguf")
    assert {key: reader.fields[key].contents() for key in METADATA} == {key: one.data for key, one in METADATA.items()}
    norm, experts, last = reader.tensors
    assert [norm.name, experts.name, last.name] == ["norm", "experts", "last"]
    assert norm.data.tolist() == [0, 1, 2, 3, 4] and last.data.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert experts.shape.tolist() == [64, 3, 2] and experts.tensor_type is gguf.GGMLQuantizationType.Q4_0
    assert experts.data.reshape(6, 36).tolist() == data.tolist()
    assert all(int(one.data_offset) % 32 == 0 for one in reader.tensors)


def test_a_tensor_that_is_not_whole_is_named(tmp_path):
    writer = GgufWriter(tmp_path / "one.gguf", {}, [TensorInfo("experts", (2, 3, 64), Q4_0)])
    writer.write("experts", torch.zeros(3, 36, dtype=torch.uint8))
    with pytest.raises(CheckpointError, match="1 tensors were not written whole, first 'experts'"):
        writer.finish()
