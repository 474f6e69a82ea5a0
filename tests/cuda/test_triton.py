"""The Triton kernels on the GPU: to the bit where values are exact, and at every block size of the tables."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.oracles import random_weight
from workbench.layout import Layout
from workbench.packed import pack_weight
from workbench.packing import unpack
from workbench.tiles import dequantize_plain
from workbench.triton.blocks import LARGE, SMALL, Blocks
from workbench.triton.kernels import dequantize_rows, fused_linear, triton_available, triton_note

GROUP_SIZES = [32, 64, 128, 256]
INNER_K_TILES = [2, 4, 8]


@pytest.fixture
def triton_gpu(gpu):
    if not triton_available(gpu):
        pytest.skip(triton_note(gpu))
    return gpu


def packed_weight(n, k, group_size, inner_k_tiles, device):
    weight = random_weight(n, k, group_size)
    return weight, pack_weight(weight, device, inner_k_tiles)


def poisoned(*shape, device, dtype=torch.bfloat16):
    return torch.full(shape, float("nan"), dtype=dtype, device=device)


def test_triton_runs_where_torch_brings_it(gpu):
    """Torch's CUDA builds for Linux bring Triton: if it does not run on this machine, the reason must be seen."""
    pytest.importorskip("triton")
    assert triton_available(gpu), triton_note(gpu)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("group_size", GROUP_SIZES)
@pytest.mark.parametrize("inner_k_tiles", INNER_K_TILES)
def test_dequantized_rows_are_exact(inner_k_tiles, group_size, dtype, triton_gpu):
    n, k = 264, 768
    weight, packed = packed_weight(n, k, group_size, inner_k_tiles, triton_gpu)
    tensors = (packed.packed, packed.scales_and_zeros, group_size, inner_k_tiles)
    exact = weight.dequantize(dtype)
    for start, rows in ((0, n), (8, 40), (256, 8)):
        found = dequantize_rows(*tensors, start, rows, poisoned(rows, k, device=triton_gpu, dtype=dtype))
        assert torch.equal(found.cpu(), exact[start : start + rows])


def assert_product(found, x, weight):
    """Sums of exact products in float32, rounded once to bfloat16."""
    dense = weight.to(x.device).dequantize(torch.bfloat16).double()
    exact = x.double() @ dense.t()
    room = 2**-8 * exact.abs() + 1e-5 * (x.double().abs() @ dense.abs().t())
    assert ((found.double() - exact).abs() <= room).all()


SIZES = {f"large {most}": size for most, size in LARGE.items()} | {f"small {most}": s for most, s in SMALL.items()}


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("name", SIZES)
def test_the_product_at_every_block_size(name, splits, triton_gpu):
    size = replace(SIZES[name], splits=splits)
    if name.startswith("large") and torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("these sizes are for Hopper")
    n, k = 200, 768
    weight, packed = packed_weight(n, k, 64, 8, triton_gpu)
    for m in (1, size.m - 1, size.m + 1, 9 * size.m + 5):
        x = torch.randn(m, k, device=triton_gpu).to(torch.bfloat16)
        found = fused_linear(x, packed.packed, packed.scales_and_zeros, 64, 8, blocks=size)
        assert_product(found, x, weight)


@pytest.mark.parametrize("m", [1, 8, 16, 32, 64, 128, 300])
def test_whole_numbers_are_exact_over_a_long_k(m, triton_gpu):
    """Sums of whole numbers below 2^24 have no rounding but the last: not one weight may be missed or late."""
    n, k, layout = 512, 14336, Layout("cuda", 8)
    generator = torch.Generator(triton_gpu).manual_seed(m)
    words = torch.randint(-(2**31), 2**31, (n // 8, k // 128, 32, 4), generator=generator, device=triton_gpu)
    pairs = torch.randint(1, 4, (k // 64, n, 2), generator=generator, device=triton_gpu).to(torch.bfloat16)
    x = torch.randint(-2, 3, (m, k), generator=generator, device=triton_gpu).to(torch.bfloat16)
    words = words.to(torch.int32)
    dense = dequantize_plain(words, pairs, 64, layout, 0, poisoned(n, k, device=triton_gpu))
    exact = (x.double() @ dense.double().t()).to(torch.bfloat16)
    for _ in range(5):
        assert torch.equal(fused_linear(x, words, pairs, 64, 8), exact)


@pytest.mark.parametrize("group_size", GROUP_SIZES)
@pytest.mark.parametrize("inner_k_tiles", INNER_K_TILES)
def test_the_product_for_every_group_size_and_tile(inner_k_tiles, group_size, triton_gpu):
    weight, packed = packed_weight(136, 768, group_size, inner_k_tiles, triton_gpu)
    for m in (5, 40):
        x = torch.randn(m, 768, device=triton_gpu).to(torch.bfloat16)
        found = fused_linear(x, packed.packed, packed.scales_and_zeros, group_size, inner_k_tiles)
        assert_product(found, x, weight)


@pytest.mark.parametrize(("inner_k_tiles", "k", "group_size"), [(2, 32, 32), (2, 96, 32), (4, 192, 64), (8, 384, 128)])
def test_the_product_over_k_that_large_steps_do_not_divide(inner_k_tiles, k, group_size, triton_gpu):
    weight, packed = packed_weight(24, k, group_size, inner_k_tiles, triton_gpu)
    x = torch.randn(3, k, device=triton_gpu).to(torch.bfloat16)
    assert_product(fused_linear(x, packed.packed, packed.scales_and_zeros, group_size, inner_k_tiles), x, weight)


def test_weights_beyond_32_bit_offsets(triton_gpu):
    """More than 2^31 codes: the last rows are those of the formula, and take part in products."""
    if torch.cuda.get_device_properties(0).total_memory < 30 * 2**30:
        pytest.skip("needs 30 GB of GPU memory")
    layout, (n, k) = Layout("cuda", 8), (2**17 + 64, 2**14)
    generator = torch.Generator(triton_gpu).manual_seed(0)
    words = torch.randint(-(2**31), 2**31, (n // 8, k // 128, 32, 4), generator=generator, device=triton_gpu)
    words = words.to(torch.int32)
    pairs = torch.rand(k // 256, n, 2, generator=generator, device=triton_gpu).to(torch.bfloat16)
    last = unpack(words[-8:].contiguous(), layout, 64, k)
    plain = dequantize_plain(words, pairs, 256, layout, n - 64, poisoned(64, k, device=triton_gpu))
    exact = (last.double().view(64, -1, 256) - 8) * pairs[:, -64:, 0].t().double()[..., None]
    exact = (exact + pairs[:, -64:, 1].t().double()[..., None]).view(64, k)
    assert torch.equal(plain, exact.float().to(torch.bfloat16))
    ours = dequantize_rows(words, pairs, 256, 8, n - 64, 64, poisoned(64, k, device=triton_gpu))
    assert torch.equal(ours, plain)
    x = torch.randn(3, k, device=triton_gpu).to(torch.bfloat16)
    found = fused_linear(x, words, pairs, 256, 8)[:, -64:].double()
    wanted = x.double() @ plain.double().t()
    assert ((found - wanted).abs() <= 2**-8 * wanted.abs() + 1e-5 * (x.double().abs() @ plain.double().abs().t())).all()


def test_many_rows_of_activations(triton_gpu):
    weight, packed = packed_weight(64, 128, 64, 8, triton_gpu)
    x = torch.randn(70_001, 128, device=triton_gpu).to(torch.bfloat16)
    assert_product(fused_linear(x, packed.packed, packed.scales_and_zeros, 64, 8), x, weight)


def chain(x, weights, between=lambda: None):
    """Products of which each takes what the one before it made; after every second comes another kernel."""
    for place, packed in enumerate(weights):
        x = fused_linear(x, packed.packed, packed.scales_and_zeros, 64, 8)
        between()
        if place % 2:
            x = x / x.float().norm(dim=1, keepdim=True).to(x.dtype)
            between()
    return x


@pytest.mark.parametrize("m", [1, 8, 16, 40, 130])
def test_products_in_a_row_wait_for_one_another(m, triton_gpu):
    """A kernel may be set up while the one before it runs, but not read what that one has still to write."""
    weights = [packed_weight(1024, 1024, 64, 8, triton_gpu)[1] for _ in range(6)]
    given = [torch.randn(m, 1024, device=triton_gpu).to(torch.bfloat16) for _ in range(4)]
    apart = [chain(x, weights, torch.cuda.synchronize) for x in given]
    assert all(bool(x.isfinite().all()) for x in apart)
    for _ in range(10):
        assert all(torch.equal(chain(x, weights), wanted) for x, wanted in zip(given, apart, strict=True))
    held, graph = given[0].clone(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = chain(held, weights)
    for _ in range(10):
        for x, wanted in zip(given, apart, strict=True):
            held.copy_(x)
            graph.replay()
            assert torch.equal(made, wanted)


@pytest.mark.parametrize(("parts", "stages"), [(4, 4), (8, 3)])
@pytest.mark.parametrize("k", [32, 768, 1024, 11008])
def test_few_rows_over_a_k_that_no_step_divides(k, parts, stages, triton_gpu):
    tiles = 8 if k % 128 == 0 else 2
    weight, packed = packed_weight(40, k, 32, tiles, triton_gpu)
    size = Blocks(8, 16, min(128, k), 4, stages, parts=parts)
    for m in (1, 8, 9):
        x = torch.randn(m, k, device=triton_gpu).to(torch.bfloat16)
        assert_product(fused_linear(x, packed.packed, packed.scales_and_zeros, 32, tiles, blocks=size), x, weight)


def test_on_the_second_gpu(triton_gpu):
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    weight, packed = packed_weight(64, 128, 64, 8, "cuda:1")
    x = torch.randn(3, 128, device="cuda:1").to(torch.bfloat16)
    sizes = Blocks(16, 64, 128, 4, 4)
    assert_product(fused_linear(x, packed.packed, packed.scales_and_zeros, 64, 8, blocks=sizes), x, weight)
