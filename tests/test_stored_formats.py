"""FP8 and MXFP4 are dequantized exactly: held against loops over single values, and against transformers' own."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

import workbench.stored_formats as stored_formats
from tests.stored_models import E2M1, to_fp8, to_mxfp4
from workbench.errors import ModelError
from workbench.safetensors_folder import SINGLE_FILE, SafetensorsFolder
from workbench.stored_formats import DequantizedFolder, StoredFormat, dequantize_fp8, dequantize_mxfp4

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(3)


def few_rows(monkeypatch, count):
    monkeypatch.setattr(stored_formats, "_ROWS_AT_ONCE", count)


# --- values ---------------------------------------------------------------------------------------------------------


def slow_fp8(values, scales, block, dtype):
    result = torch.empty(values.shape, dtype=dtype)
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            result[i, j] = values[i, j].float() * scales[i // block[0], j // block[1]].float()
    return result


def slow_mxfp4(blocks, scales, dtype):
    rows = []
    for packed, exponents in zip(blocks, scales, strict=True):
        row = []
        for group, exponent in zip(packed, exponents, strict=True):
            for byte in group.tolist():
                for code in (byte & 15, byte >> 4):
                    value = E2M1[code & 7] * (-1 if code & 8 else 1)
                    row.append(value * 2.0 ** (int(exponent) - 127))
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (32, 64), (33, 70), (5, 200)])
@pytest.mark.parametrize("block", [(16, 32), (128, 128), (7, 3)])
@pytest.mark.parametrize("at_once", [1, 20, 4096])
def test_fp8_is_value_times_scale_of_its_block(dtype, shape, block, at_once, monkeypatch):
    few_rows(monkeypatch, at_once)
    values, scales = to_fp8(torch.randn(shape), block)
    found = dequantize_fp8(values, scales, block, dtype)
    assert found.dtype == dtype and torch.equal(found, slow_fp8(values, scales, block, dtype))


def test_every_fp8_value_and_stacks_of_matrices():
    values = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).view(2, 8, 16)
    scales = torch.rand(2, 2, 2)
    found = dequantize_fp8(values, scales, (4, 8), torch.float32)
    for e in range(2):
        want = slow_fp8(values[e], scales[e], (4, 8), torch.float32)
        assert torch.equal(found[e].nan_to_num(7e9), want.nan_to_num(7e9))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_fp8_is_what_transformers_makes_of_it_where_the_blocks_divide(dtype):
    values, scales = to_fp8(torch.randn(64, 96), (16, 32))
    theirs = Fp8Dequantize(None)._dequantize_one(values, scales, output_dtype=dtype)
    assert torch.equal(dequantize_fp8(values, scales, (16, 32), dtype), theirs)


def test_scales_that_are_powers_of_two_are_read():
    values, _ = to_fp8(torch.randn(4, 4), (4, 4))
    scales = torch.tensor([[0.25]]).to(torch.float8_e8m0fnu)
    assert torch.equal(dequantize_fp8(values, scales, (4, 4), torch.float32), values.float() * 0.25)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "groups"), [(1, 1), (7, 2), (16, 3)])
@pytest.mark.parametrize("at_once", [1, 5, 4096])
def test_mxfp4_is_value_times_power_of_two(dtype, rows, groups, at_once, monkeypatch):
    few_rows(monkeypatch, at_once)
    blocks = torch.randint(256, (rows, groups, 16), dtype=torch.uint8)
    scales = torch.randint(110, 140, (rows, groups), dtype=torch.uint8)
    found = dequantize_mxfp4(blocks, scales, dtype)
    assert found.dtype == dtype and torch.equal(found, slow_mxfp4(blocks, scales, dtype))


def test_mxfp4_is_what_transformers_makes_of_it_at_every_scale():
    blocks = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 255, 16, 16)
    scales = torch.arange(255, dtype=torch.uint8).view(1, 255, 1).expand(1, 255, 16)
    found = dequantize_mxfp4(blocks, scales, torch.bfloat16)
    assert torch.equal(found.transpose(1, 2), convert_moe_packed_tensors(blocks, scales, dtype=torch.bfloat16))


def test_what_mxfp4_can_hold_comes_back():
    weight = (
        torch.tensor([*E2M1, *(-value for value in E2M1)]).repeat(3, 2, 4)
        * torch.tensor([0.5, 2.0, 8.0])[:, None, None]
    )
    assert torch.equal(dequantize_mxfp4(*to_mxfp4(weight), torch.float32), weight)


# --- folders --------------------------------------------------------------------------------------------------------


def folder(path, tensors, config=FP8, dtype=torch.bfloat16):
    save_file(tensors, path / SINGLE_FILE)
    return DequantizedFolder(SafetensorsFolder(path), StoredFormat.of(config), dtype)


def test_a_folder_in_fp8_reads_as_a_dense_one(tmp_path):
    values, scales = to_fp8(torch.randn(40, 64), (16, 32))
    plain = torch.randn(3, 4)
    found = folder(
        tmp_path,
        {"a.weight": values, "a.weight_scale_inv": scales, "b.weight": plain},
        {**FP8, "weight_block_size": [16, 32]},
    )
    want = slow_fp8(values, scales, (16, 32), torch.bfloat16)
    assert sorted(found.names()) == ["a.weight", "b.weight"] and "a.weight_scale_inv" not in found
    assert (found.shape("a.weight"), found.dtype("a.weight")) == ((40, 64), "BF16")
    assert found.size_bytes("a.weight") == 40 * 64 + 4 * 3 * 2
    assert (found.stored_format("a.weight"), found.stored_format("b.weight")) == ("FP8", "")
    assert torch.equal(found.read("a.weight"), want) and torch.equal(found.read("b.weight"), plain)
    for start, stop in ((0, 40), (15, 17), (16, 32), (37, 40), (20, 21)):
        assert torch.equal(found.rows("a.weight", start, stop), want[start:stop])
    assert torch.equal(found.rows("a.weight", 5, 40, dim=1), want[:, 5:40])
    assert torch.equal(found.rows("b.weight", 1, 2), plain[1:2])
    assert found.notes() == ["1 tensors are stored in FP8: dequantized to bfloat16 on the way"]


def test_rows_of_fp8_read_the_blocks_that_they_are_in(tmp_path, monkeypatch):
    values, scales = to_fp8(torch.randn(64, 64), (16, 32))
    found = folder(tmp_path, {"a": values, "a_scale_inv": scales}, {**FP8, "weight_block_size": [16, 32]})
    asked, rows = [], SafetensorsFolder.rows
    monkeypatch.setattr(SafetensorsFolder, "read", None)
    monkeypatch.setattr(SafetensorsFolder, "rows", lambda self, *place: asked.append(place) or rows(self, *place))
    found.rows("a", 20, 30)
    assert asked == [("a", 16, 30), ("a_scale_inv", 1, 2)]


def test_a_folder_in_mxfp4_reads_as_transformers_keeps_it(tmp_path):
    blocks = torch.randint(256, (3, 8, 2, 16), dtype=torch.uint8)
    scales = torch.randint(120, 130, (3, 8, 2), dtype=torch.uint8)
    found = folder(tmp_path, {"up_blocks": blocks, "up_scales": scales}, {"quant_method": "mxfp4"})
    want = convert_moe_packed_tensors(blocks, scales)
    assert found.names() == ["up"] and found.shape("up") == (3, 64, 8) == tuple(want.shape)
    assert found.stored_format("up") == "MXFP4" and found.size_bytes("up") == 3 * 8 * 2 * 17
    assert torch.equal(found.read("up"), want)
    assert torch.equal(found.rows("up", 1, 3), want[1:3])
    assert torch.equal(found.rows("up", 1, 3, dim=2), want[:, :, 1:3])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"a_scale_inv": None}, "has no scales 'a_scale_inv'"),
        ({"a_scale_inv": torch.ones(2, 2)}, r"is \[130, 64\] and its scales are F32 \[2, 2\], not float \[2, 1\]"),
        ({"a_scale_inv": torch.ones(2, 1, dtype=torch.uint8)}, r"scales are U8 \[2, 1\]"),
        ({"a": torch.ones(130, dtype=torch.float8_e4m3fn)}, "has no scales"),
    ],
)
def test_fp8_whose_scales_do_not_fit_is_refused(change, match, tmp_path):
    tensors = {"a": torch.ones(130, 64, dtype=torch.float8_e4m3fn), "a_scale_inv": torch.ones(2, 1), **change}
    with pytest.raises(ModelError, match=match):
        folder(tmp_path, {name: tensor for name, tensor in tensors.items() if tensor is not None})


@pytest.mark.parametrize(
    ("blocks", "scales", "match"),
    [
        ((2, 4, 1, 16), None, "has no scales 'a_scales'"),
        ((2, 4, 1, 16), (2, 4, 2), r"scales are U8 \[2, 4, 2\].*K/32, 16"),
        ((2, 4, 1, 15), (2, 4, 1), r"is U8 \[2, 4, 1, 15\]"),
        ((4, 1, 16), (4, 1), r"is U8 \[4, 1, 16\]"),
    ],
)
def test_mxfp4_whose_scales_do_not_fit_is_refused(blocks, scales, match, tmp_path):
    tensors = {"a_blocks": torch.zeros(blocks, dtype=torch.uint8)}
    if scales is not None:
        tensors["a_scales"] = torch.zeros(scales, dtype=torch.uint8)
    with pytest.raises(ModelError, match=match):
        folder(tmp_path, tensors, {"quant_method": "mxfp4"})


# --- the configuration ----------------------------------------------------------------------------------------------


def test_the_formats_that_are_read():
    assert StoredFormat.of({"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}) == StoredFormat("mxfp4")
    assert StoredFormat.of({**FP8, "weight_block_size": [64, 32]}) == StoredFormat("fp8", (64, 32))
    deepseek = {**FP8, "activation_scheme": "dynamic", "fmt": "e4m3", "scale_fmt": "ue8m0"}
    assert StoredFormat.of(deepseek) == StoredFormat("fp8", (128, 128))
    for method in ("gptq", "awq", "bitsandbytes", None, 3):
        assert StoredFormat.of({"quant_method": method}) is None


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"weight_block_size": None}, "weight_block_size None"),
        ({"weight_block_size": [128]}, r"\[128\]"),
        ({"weight_block_size": [0, 128]}, r"\[0, 128\].*two positive numbers"),
        ({"weight_block_size": [128, True]}, "weight_block_size"),
        ({"weight_block_size": "128"}, "weight_block_size"),
        ({"fmt": "e5m2"}, "fmt 'e5m2'.*'e4m3'"),
        ({"expert_dtype": "fp4"}, "expert_dtype 'fp4'"),
        ({"scale_fmt": "other"}, "scale_fmt 'other'"),
        ({"activation_scheme": "odd"}, "activation_scheme 'odd'"),
    ],
)
def test_an_fp8_that_is_stored_otherwise_is_refused(change, match):
    with pytest.raises(ModelError, match=match):
        StoredFormat.of({**FP8, **change})
