"""Blocks of GGUF against a slow oracle, and against gguf-py."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch

from workbench.affine import QuantizedWeight
from workbench.config import DOMAINS
from workbench.errors import CheckpointError
from workbench.targets.gguf_blocks import decode_blocks, encode_blocks, paired_rows, rounding_error

SHAPES = [(5, 320, 32), (3, 320, 64), (2, 96, 128), (4, 512, 256)]


def weight(domain: str, n: int, k: int, group: int, dtype: torch.dtype = torch.bfloat16) -> QuantizedWeight:
    generator = torch.Generator().manual_seed(3)
    groups = -(-k // group)
    codes = torch.randint(0, 16, (n, k), generator=generator, dtype=torch.uint8)
    scale = (torch.rand(n, groups, generator=generator) * 0.02 + 1e-3).to(dtype)
    zero = {
        "float": torch.randn(n, groups, generator=generator).mul(0.05).to(dtype),
        "int": torch.randint(0, 16, (n, groups), generator=generator, dtype=torch.uint8),
        "symmetric": None,
    }[domain]
    return QuantizedWeight(codes, scale, zero, group, domain)


def slowly(w: QuantizedWeight) -> bytes:
    """Every block byte by byte."""
    found = b""
    minimum = w.minimum()
    for row in range(w.shape[0]):
        for start in range(0, w.shape[1], 32):
            group = start // w.group_size
            found += np.float16(w.scale[row, group].float()).tobytes()
            if w.domain != "symmetric":
                found += np.float16(minimum[row, group]).tobytes()
            for j in range(16):
                found += bytes([int(w.codes[row, start + j]) | int(w.codes[row, start + j + 16]) << 4])
    return found


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("n, k, group", SHAPES)
def test_bytes_are_those_of_the_oracle(domain, n, k, group):
    w = weight(domain, n, k, group)
    assert encode_blocks("layer", w).data.numpy().tobytes() == slowly(w)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("n, k, group", SHAPES)
def test_codes_come_back_bit_for_bit_and_values_as_gguf_py_has_them(domain, n, k, group):
    w = weight(domain, n, k, group)
    blocks = encode_blocks("layer", w)
    back = decode_blocks(blocks.data, symmetric=domain == "symmetric")
    kind = gguf.GGMLQuantizationType.Q4_0 if domain == "symmetric" else gguf.GGMLQuantizationType.Q4_1
    theirs = torch.from_numpy(gguf.dequantize(blocks.data.numpy(), kind))
    assert torch.equal(back.codes, w.codes)
    assert torch.allclose(back.dequantize(), theirs, rtol=0, atol=1e-7)  # gguf-py adds m to q d, we zero to (q - 8) d
    error = float((theirs.double() - values(w)).abs().max())
    assert rounding_error(w, blocks) == pytest.approx(error, abs=1e-8)


def values(w: QuantizedWeight) -> torch.Tensor:
    """The weight in float64."""
    spread = [one.double().repeat_interleave(w.group_size, 1)[:, : w.shape[1]] for one in (w.scale, w.minimum())]
    return w.codes.double() * spread[0] + spread[1]


def test_what_float16_holds_is_exact():
    w = weight("symmetric", 4, 128, 64)
    assert rounding_error(w, encode_blocks("layer", w)) == 0.0
    assert torch.equal(decode_blocks(encode_blocks("layer", w).data, symmetric=True).dequantize(), w.dequantize())


def test_a_second_pass_changes_nothing():
    first = encode_blocks("layer", weight("float", 4, 128, 64))
    again = encode_blocks("layer", decode_blocks(first.data, symmetric=False))
    assert torch.equal(first.data, again.data)


def test_scales_that_float16_cannot_hold():
    large = weight("symmetric", 2, 64, 32, torch.float32)
    large.scale[1, 1] = 70_000
    with pytest.raises(CheckpointError, match=r"layer has a scale of 70000.*65504.*leave this layer dense"):
        encode_blocks("layer", large)
    small = weight("symmetric", 2, 64, 32, torch.float32)
    small.scale[:] = 1e-8  # becomes 0
    assert rounding_error(small, encode_blocks("layer", small)) == pytest.approx(8e-8, rel=0.2)
    with pytest.raises(CheckpointError, match="in_features=80"):
        encode_blocks("layer", weight("int", 2, 80, 32))


def test_rows_of_q_and_k_as_llama_cpp_wants_them():
    values = torch.randn(3 * 8, 5)
    wanted = values.reshape(3, 2, 4, 5).swapaxes(1, 2).reshape(24, 5)
    order = paired_rows(24, 3)
    assert torch.equal(values[order], wanted)
    assert torch.equal(wanted[order.argsort()], values)
