"""The Triton kernels, run by Triton's interpreter on the CPU: the values are those that a GPU must give.

The interpreter cuts a float32 off when it becomes a bfloat16, and multiplies bfloat16 matrices as if their bits were
integers (Triton 3.6, 3.7): both are mended here to what a GPU does, rounding to nearest even and real products. It has
no assembler either: what the one piece of assembly does, by its formula, stands in; tests/cuda run the piece itself.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when it is imported; conftest.py sets it before other tests

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from tests.oracles import random_weight
from workbench.errors import KernelError
from workbench.layout import Layout
from workbench.packing import pack
from workbench.tiles import dequantize_plain
from workbench.triton import kernels as triton_kernels
from workbench.triton import launch as triton_launch
from workbench.triton.blocks import Blocks
from workbench.triton.kernels import dequantize_rows, fused_linear

GROUP_SIZES = [32, 64, 128, 256]
INNER_K_TILES = [2, 4, 8]
DTYPES = [torch.bfloat16, torch.float16, torch.float32]


@pytest.fixture(autouse=True)
def interpreter_like_a_gpu(monkeypatch):
    multiply, cut = InterpreterBuilder.create_dot, InterpreterBuilder.create_fp_trunc

    def to_float32(handle):
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return TensorHandle(
            torch.from_numpy(np.ascontiguousarray(handle.data)).view(torch.bfloat16).float().numpy(), tl.float32
        )

    def rounded(self, handle, dtype):
        if dtype.scalar != tl.bfloat16:
            return cut(self, handle, dtype)
        bits = torch.from_numpy(handle.data).to(torch.bfloat16).view(torch.uint16)
        return TensorHandle(bits.numpy(), dtype.scalar)

    def assembled(self, text, constraints, values, *rest):
        words, pairs = (torch.from_numpy(np.ascontiguousarray(value.data)).int() for value in values)
        scale, zero = ((bits.view(torch.float32)).double() for bits in (pairs << 16, pairs & -65536))
        codes = ((words >> (16 * p + 4 * r) & 15).double() - 8 for r in range(4) for p in range(2))
        made = ((code * scale + zero).float().to(torch.bfloat16).view(torch.uint16).numpy() for code in codes)
        outputs = [TensorHandle(weights, tl.bfloat16) for weights in made]
        return SimpleNamespace(get_result=outputs.__getitem__)

    monkeypatch.setattr(InterpreterBuilder, "create_inline_asm", assembled)
    monkeypatch.setattr(
        InterpreterBuilder, "create_dot", lambda self, a, b, *rest: multiply(self, to_float32(a), to_float32(b), *rest)
    )
    monkeypatch.setattr(InterpreterBuilder, "create_fp_trunc", rounded)


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch):
    """What a kernel leaves unwritten is NaN."""
    monkeypatch.setattr(torch, "empty", lambda *shape, **kinds: torch.full(shape, float("nan"), **kinds))


def packed_weight(n, k, group_size, inner_k_tiles, seed=0):
    """A weight as it is and as the kernels read it; also one of symmetric codes, whose zeros are 0."""
    weight = random_weight(n, k, group_size, "float" if seed % 2 == 0 else "symmetric", seed=seed)
    zero = weight.zero_in_weight_units().to(torch.bfloat16)
    pairs = torch.stack((weight.scale.t(), zero.t()), dim=-1).contiguous()
    return weight, pack(weight.codes, Layout("cuda", inner_k_tiles)), pairs


def poisoned(*shape, dtype=torch.bfloat16):
    return torch.full(shape, float("nan"), dtype=dtype)


def same_bits(first, second):
    return torch.equal(first.view(torch.uint8), second.contiguous().view(torch.uint8))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("group_size", GROUP_SIZES)
@pytest.mark.parametrize("inner_k_tiles", INNER_K_TILES)
@pytest.mark.parametrize("shape", [(8, 256), (40, 768), (72, 256)])
def test_dequantized_rows_are_exact(shape, inner_k_tiles, group_size, dtype):
    weight, packed, pairs = packed_weight(*shape, group_size, inner_k_tiles, seed=shape[0] // 8)
    found = dequantize_rows(packed, pairs, group_size, inner_k_tiles, 0, shape[0], poisoned(*shape, dtype=dtype))
    assert same_bits(found, weight.dequantize(dtype))


@pytest.mark.parametrize(("inner_k_tiles", "k", "group_size"), [(2, 32, 32), (2, 96, 32), (4, 192, 64), (8, 384, 128)])
def test_columns_that_do_not_fill_a_block(inner_k_tiles, k, group_size):
    weight, packed, pairs = packed_weight(40, k, group_size, inner_k_tiles)
    found = dequantize_rows(packed, pairs, group_size, inner_k_tiles, 0, 40, poisoned(40, k))
    assert same_bits(found, weight.dequantize(torch.bfloat16))


@pytest.mark.parametrize("inner_k_tiles", INNER_K_TILES)
@pytest.mark.parametrize(("start", "rows"), [(0, 8), (8, 40), (64, 32), (88, 8), (24, 0)])
def test_a_range_of_rows(start, rows, inner_k_tiles):
    weight, packed, pairs = packed_weight(96, 256, 64, inner_k_tiles)
    found = dequantize_rows(packed, pairs, 64, inner_k_tiles, start, rows, poisoned(rows, 256))
    assert same_bits(found, weight.dequantize(torch.bfloat16)[start : start + rows])


def test_zeros_far_larger_than_the_scale_and_scales_of_all_sizes():
    weight, packed, pairs = packed_weight(16, 128, 32, 8)
    pairs[0, :, 1] = 1.0
    pairs[1, :, 0] = torch.logspace(-38, 38, 16).to(torch.bfloat16)
    pairs[1, :, 1] = 0
    pairs[2, :, 0] = 0
    found = dequantize_rows(packed, pairs, 32, 8, 0, 16, poisoned(16, 128, dtype=torch.float32))
    plain = dequantize_plain(packed, pairs, 32, Layout("cuda", 8), 0, poisoned(16, 128, dtype=torch.float32))
    exact = (weight.codes.double().view(16, 4, 32) - 8) * pairs[..., 0].t().double()[..., None]
    exact = (exact + pairs[..., 1].t().double()[..., None]).view(16, 128).float()
    assert same_bits(found, exact) and same_bits(plain, exact)


def assert_product(found, x, weight):
    """Sums of exact products in float32, rounded once to bfloat16."""
    dense = weight.dequantize(torch.bfloat16).double()
    exact = x.double() @ dense.t()
    room = 2**-8 * exact.abs() + 1e-6 * (x.double().abs() @ dense.abs().t())
    assert found.dtype == torch.bfloat16 and found.shape == exact.shape
    assert ((found.double() - exact).abs() <= room).all()


def activations(m, k):
    return torch.randn(m, k, generator=torch.Generator().manual_seed(m)).to(torch.bfloat16)


@pytest.mark.parametrize("m", [1, 8, 16, 17, 64])
@pytest.mark.parametrize("group_size", GROUP_SIZES)
@pytest.mark.parametrize("inner_k_tiles", INNER_K_TILES)
def test_the_product(m, inner_k_tiles, group_size):
    n, k = 136, 512
    weight, packed, pairs = packed_weight(n, k, group_size, inner_k_tiles, seed=m)
    x = activations(m, k)
    assert_product(fused_linear(x, packed, pairs, group_size, inner_k_tiles), x, weight)


SIZES = [
    Blocks(16, 64, 128, 4, 4, splits=2),
    Blocks(16, 64, 128, 4, 4, splits=3),
    Blocks(32, 128, 128, 8, 3),
    Blocks(64, 128, 256, 8, 2),
    Blocks(16, 256, 128, 8, 2, splits=6),
    Blocks(128, 128, 128, 8, 3),
    Blocks(8, 16, 128, 4, 4, parts=4),
    Blocks(8, 16, 128, 4, 3, parts=8),
    Blocks(16, 32, 128, 4, 3, splits=2, parts=4),
]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("n", [8, 64, 200])
def test_block_sizes_and_splits_of_k(n, sizes):
    m, k = 33, 768
    weight, packed, pairs = packed_weight(n, k, 64, 8)
    x = activations(m, k)
    assert_product(fused_linear(x, packed, pairs, 64, 8, blocks=sizes), x, weight)


def test_blocks_of_m_in_several_rounds(monkeypatch):
    monkeypatch.setattr(triton_launch, "_TOGETHER", 2)
    weight, packed, pairs = packed_weight(200, 128, 128, 8)
    x = activations(5 * 16, 128)
    for sizes in (Blocks(16, 64, 128, 4, 2), Blocks(8, 32, 128, 4, 2, parts=4)):
        assert_product(fused_linear(x, packed, pairs, 128, 8, blocks=sizes), x, weight)


def test_both_orders_of_k_give_the_product(monkeypatch):
    weight, packed, pairs = packed_weight(64, 512, 64, 8)
    x = activations(19, 512)
    for swaps in (False, True):
        monkeypatch.setattr(triton_launch, "_swaps", lambda device, swaps=swaps: swaps)
        assert_product(fused_linear(x, packed, pairs, 64, 8), x, weight)


@pytest.mark.parametrize(("inner_k_tiles", "k", "group_size"), [(2, 32, 32), (2, 96, 32), (4, 192, 64), (8, 384, 128)])
def test_the_product_over_k_that_large_steps_do_not_divide(inner_k_tiles, k, group_size):
    weight, packed, pairs = packed_weight(24, k, group_size, inner_k_tiles)
    x = activations(3, k)
    assert_product(fused_linear(x, packed, pairs, group_size, inner_k_tiles), x, weight)


def test_the_trial_on_a_gpu_finds_right_values_right_and_wrong_ones_wrong(monkeypatch):
    assert triton_kernels._is_right(torch.device("cpu"))
    for wrong in ("dequantize_rows", "fused_linear"):
        real = getattr(triton_kernels, wrong)
        monkeypatch.setattr(triton_kernels, wrong, lambda *given, real=real: real(*given).mul_(1.01))
        assert not triton_kernels._is_right(torch.device("cpu"))
        monkeypatch.setattr(triton_kernels, wrong, real)


def test_no_rows_of_activations():
    _, packed, pairs = packed_weight(16, 128, 64, 8)
    assert fused_linear(activations(0, 128), packed, pairs, 64, 8).shape == (0, 16)


def test_nan_and_infinity_stay_in_their_row():
    _, packed, pairs = packed_weight(16, 128, 64, 8)
    x = activations(4, 128)
    clean = fused_linear(x, packed, pairs, 64, 8)
    x[1, 5], x[2, 7] = float("nan"), float("inf")
    found = fused_linear(x, packed, pairs, 64, 8)
    assert torch.equal(found[[0, 3]], clean[[0, 3]])
    assert found[1].isnan().all() and not found[2].isfinite().any()


BAD = [
    ({"group_size": 48}, "group_size=48"),
    ({"inner_k_tiles": 3}, "inner_k_tiles"),
    ({"inner_k_tiles": 4}, r"packed is torch.int32 \[2, 1, 32, 4\]"),
    ({"x": torch.zeros(3, 128)}, "x is torch.float32"),
    ({"x": torch.zeros(3, 64, dtype=torch.bfloat16)}, r"\[M, 128\]"),
    ({"x": torch.zeros(128, 3, dtype=torch.bfloat16).t()}, "not contiguous"),
    ({"x": torch.zeros(3, 128, dtype=torch.bfloat16, device="meta")}, "one device"),
    ({"scales_and_zeros": torch.zeros(2, 16, 2)}, "scales_and_zeros is torch.float32"),
    ({"scales_and_zeros": torch.zeros(16, 2, 2).bfloat16().transpose(0, 1)}, "not contiguous"),
    ({"scales_and_zeros": torch.zeros(1, 16, 2).bfloat16()}, "whole tiles"),
    ({"scales_and_zeros": torch.zeros(0, 16, 2).bfloat16()}, "with elements"),
    ({"scales_and_zeros": torch.zeros(4, 16, 2).bfloat16()}, "packed is"),
    ({"scales_and_zeros": torch.zeros(2, 12, 2).bfloat16()}, "N a multiple of 8"),
    ({"scales_and_zeros": torch.zeros(65).bfloat16()[1:].view(2, 16, 2)}, "middle of a word"),
    ({"packed": torch.zeros(2, 1, 32, 4)}, "packed is torch.float32"),
    ({"packed": torch.zeros(4, 1, 32, 4, dtype=torch.int32)[::2]}, "not contiguous"),
    ({"packed": torch.zeros(2, 1, 32, 4, dtype=torch.int32, device="meta")}, "one device"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_what_the_kernels_leave_unchecked_is_refused(change, message):
    _, packed, pairs = packed_weight(16, 128, 64, 8)
    good = {"x": activations(3, 128), "packed": packed, "scales_and_zeros": pairs, "group_size": 64, "inner_k_tiles": 8}
    fused_linear(**good)
    with pytest.raises(KernelError, match=message):
        fused_linear(**{**good, **change})


@pytest.mark.parametrize(
    ("start", "rows", "out", "message"),
    [
        (4, 8, (8, 128), "start=4"),
        (0, 12, (12, 128), "rows=12"),
        (8, 16, (16, 128), "within 0 to 16"),
        (-8, 8, (8, 128), "start=-8"),
        (0, 8, (16, 128), "out is"),
    ],
)
def test_rows_that_are_no_whole_tiles_are_refused(start, rows, out, message):
    _, packed, pairs = packed_weight(16, 128, 64, 8)
    with pytest.raises(KernelError, match=message):
        dequantize_rows(packed, pairs, 64, 8, start, rows, poisoned(*out))


def test_an_output_of_another_dtype_or_that_is_strided_is_refused():
    _, packed, pairs = packed_weight(16, 128, 64, 8)
    for out in (poisoned(16, 128, dtype=torch.float64), poisoned(128, 16).t()):
        with pytest.raises(KernelError, match="out is"):
            dequantize_rows(packed, pairs, 64, 8, 0, 16, out)


def test_without_the_interpreter_a_cpu_is_refused(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    _, packed, pairs = packed_weight(16, 128, 64, 8)
    with pytest.raises(KernelError, match=r"does not run on cpu.*int4_linear"):
        fused_linear(activations(3, 128), packed, pairs, 64, 8)
