"""Every path on the GPU against an oracle in float64, and against cuBLAS on the dequantized weight."""

from __future__ import annotations

import functools

import pytest
import torch
from torch.nn import functional

from tests.oracles import assert_close, oracle_weight, random_weight
from workbench.choice import available_paths, chosen_path
from workbench.kernels import int4_linear
from workbench.packed import pack_weight
from workbench.triton.kernels import triton_available

GROUP_SIZES = [32, 64, 128, 256]
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
BATCHES = [0, 1, 7, 16, 17, 64, 513]
PATHS = ["op", "dequantize", "fused", None]


@functools.cache
def case(n, k, group_size, domain="float"):
    weight = random_weight(n, k, group_size, domain)
    return weight, oracle_weight(weight)


def make_input(m, k, device, dtype):
    return torch.randn(m, k, generator=torch.Generator().manual_seed(m + 1)).to(device, dtype)


def skip_without(path, device):
    if path is not None and path not in available_paths(device):
        pytest.skip(f"no {path} path here")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("group_size", GROUP_SIZES)
def test_every_path_at_every_batch(group_size, path, dtype, device):
    skip_without(path, device)
    weight, dense = case(136, 512, group_size)
    packed = pack_weight(weight, device)
    for m in BATCHES:
        x = make_input(m, 512, device, dtype)
        found = int4_linear(x, packed, path=path)
        assert found.dtype == dtype and found.shape == (m, 136) and found.device == x.device
        assert_close(found.cpu(), x.cpu(), dense)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("inner_k_tiles", [2, 4, 8])
@pytest.mark.parametrize("shape", [(17, 333), (8, 32), (1, 1), (100, 300)])
@pytest.mark.parametrize("domain", ["float", "int", "symmetric"])
def test_shapes_that_do_not_divide(domain, shape, inner_k_tiles, path, device):
    skip_without(path, device)
    weight, dense = case(*shape, 64, domain)
    packed = pack_weight(weight, device, inner_k_tiles)
    for m in (1, 17):
        x = make_input(m, shape[1], device, torch.bfloat16)
        assert_close(int4_linear(x, packed, path=path).cpu(), x.cpu(), dense)


@pytest.mark.parametrize("m", [1, 16, 17, 128, 513])
def test_the_paths_agree_with_cublas(m, device):
    """Products of the same bfloat16 weight: only the order of sums differs, and how partial ones are rounded."""
    weight, _ = case(1024, 2048, 64)
    packed = pack_weight(weight, device)
    x = make_input(m, 2048, device, torch.bfloat16)
    dense = weight.to(device).dequantize(torch.bfloat16)
    wanted = functional.linear(x, dense)
    typical = (x.float().square() @ dense.float().square().t()).sqrt()
    room = 2**-7 * wanted.abs().float() + 2**-6 * typical
    for path in available_paths(device):
        found = int4_linear(x, packed, path=path)
        assert ((found - wanted).abs().float() <= room).all(), path


@pytest.mark.parametrize("path", PATHS)
def test_the_same_input_gives_the_same_bits(path, device):
    skip_without(path, device)
    packed = pack_weight(case(1024, 2048, 64)[0], device)
    for m in (4, 64, 300):
        x = make_input(m, 2048, device, torch.bfloat16)
        first = int4_linear(x, packed, path=path)
        assert all(torch.equal(int4_linear(x, packed, path=path), first) for _ in range(3))


@pytest.mark.parametrize("path", PATHS)
def test_nan_stays_in_its_row(path, device):
    skip_without(path, device)
    packed = pack_weight(case(136, 512, 64)[0], device)
    x = make_input(20, 512, device, torch.bfloat16)
    clean = int4_linear(x, packed, path=path)
    x[3, 5] = float("nan")
    dirty = int4_linear(x, packed, path=path)
    others = [row for row in range(20) if row != 3]
    assert dirty[3].isnan().all() and torch.equal(dirty[others], clean[others])


@pytest.mark.parametrize("path", PATHS)
def test_leading_dimensions_and_strides(path, device):
    skip_without(path, device)
    packed = pack_weight(case(136, 512, 64)[0], device)
    x = make_input(24, 512, device, torch.bfloat16)
    flat = int4_linear(x, packed, path=path)
    assert torch.equal(int4_linear(x.view(2, 3, 4, 512), packed, path=path).view(24, 136), flat)
    strided = x.t().contiguous().t()
    assert torch.equal(int4_linear(strided, packed, path=path), flat)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(136, 512), (17, 100)])
def test_the_gradient_for_x(shape, dtype, device):
    weight, dense = case(*shape, 64)
    packed = pack_weight(weight, device)
    for m in (0, 3, 64):
        x = make_input(m, shape[1], device, dtype).requires_grad_()
        upstream = make_input(m, shape[0], device, dtype)
        int4_linear(x, packed).backward(upstream)
        assert x.grad.dtype == dtype and x.grad.shape == x.shape
        assert_close(x.grad.cpu(), upstream.cpu(), dense.t())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_gives_its_dtype(dtype, device):
    weight, dense = case(136, 512, 64)
    packed = pack_weight(weight, device)
    x = make_input(5, 512, device, torch.float32)
    with torch.autocast(device, dtype):
        found = int4_linear(x, packed)
    assert found.dtype == dtype
    assert_close(found.cpu(), x.to(dtype).cpu(), dense)


def test_the_choice_is_one_of_the_paths(device):
    packed = pack_weight(case(136, 512, 64)[0], device)
    paths = available_paths(device)
    assert "op" in paths and "dequantize" in paths
    assert {chosen_path(packed, m, torch.bfloat16) for m in (1, 64, 4096)} <= set(paths)
    assert chosen_path(packed, 1, torch.bfloat16) in ("op", "fused")  # never a weight made dense for one row


@pytest.mark.parametrize("path", ["dequantize", "fused"])
def test_scratch_is_bounded(path, gpu):
    """However large the weight: no full dense copy, and none is kept."""
    skip_without(path, gpu)
    n, k, m = 14336, 8192, 32  # 235 MB in bfloat16
    packed = pack_weight(random_weight(n, k, 128), gpu)
    x = make_input(m, k, gpu, torch.bfloat16)
    int4_linear(x, packed, path=path)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = int4_linear(x, packed, path=path)
    torch.cuda.synchronize()
    held = result.numel() * result.element_size()
    assert torch.cuda.memory_allocated() - before <= held + 2**20
    room = 72 if triton_available(gpu) else 72 + 50  # MiB: torch's operations take 50 beside the scratch
    assert torch.cuda.max_memory_allocated() - before <= held + room * 2**20
