"""Dequantizing: every form gives the bits of the plain formula, for every layout, group size and dtype."""

import threading

import pytest
import torch

import workbench.dequantize as dequantize
import workbench.packed as packed_module
from tests.oracles import assert_close, oracle_weight, random_weight
from workbench.dequantize import block_rows, blockwise_gradient, blockwise_linear, dequantized, iter_blocks
from workbench.layout import CPU_VARIANTS, Layout
from workbench.native import native_kernels
from workbench.packed import PackedWeight, pack_weight
from workbench.packing import pack

SHAPES = [(16, 256), (64, 256), (80, 512), (208, 256), (17, 33), (100, 300)]
GPU_LAYOUTS = [Layout(kind, tiles) for kind in ("cuda", "rocm") for tiles in (2, 4, 8)]
FORMS = ["native", "plain"]


@pytest.fixture(params=FORMS)
def form(request, monkeypatch):
    """With the compiled kernels, where there is a compiler, and without."""
    if request.param == "native" and native_kernels() is None:
        pytest.skip("no C compiler")
    if request.param == "plain":
        monkeypatch.setattr(dequantize, "native_kernels", lambda: None)
    return request.param


def in_layout(weight, layout):
    """Pack a weight whose shape the layout takes as it is."""
    float_pairs = torch.stack((weight.scale.t(), weight.zero_in_weight_units().to(torch.bfloat16).t()), dim=-1)
    return PackedWeight(pack(weight.codes, layout), float_pairs.contiguous(), layout, *weight.shape, weight.group_size)


def reference(packed, dtype):
    return packed.quantized().dequantize(dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("group_size", [32, 64, 128, 256])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_the_whole_weight_bit_for_bit(shape, group_size, dtype, form):
    packed = pack_weight(random_weight(*shape, group_size), "cpu")
    assert torch.equal(dequantized(packed, dtype), reference(packed, dtype))


@pytest.mark.parametrize("variant", CPU_VARIANTS)
@pytest.mark.parametrize("rows", [16, 48, 64, 80, 112, 192])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_every_cpu_layout_with_its_tails(variant, rows, dtype, form):
    packed = in_layout(random_weight(rows, 128, 32), Layout("cpu", variant=variant))
    assert torch.equal(dequantized(packed, dtype), reference(packed, dtype))


@pytest.mark.parametrize("layout", GPU_LAYOUTS, ids=str)
def test_gpu_layouts_by_plain_operations(layout, monkeypatch):
    packed = in_layout(random_weight(160, 256, 64), layout)
    assert torch.equal(dequantized(packed), reference(packed, torch.bfloat16))
    monkeypatch.setitem(dequantize.SCRATCH_BYTES, "cpu", 64 * 256 * 2)
    assert torch.equal(dequantized(packed), reference(packed, torch.bfloat16))


@pytest.mark.parametrize("shape", [(208, 256), (100, 300), (17, 33)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("scratch", [1, 64 * 512 * 2, 2**30])
def test_products_block_by_block(shape, dtype, scratch, monkeypatch, form):
    monkeypatch.setitem(dequantize.SCRATCH_BYTES, "cpu", scratch)
    weight = random_weight(*shape)
    packed = pack_weight(weight, "cpu")
    generator = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(5, side, generator=generator).to(dtype) for side in (shape[1], shape[0]))
    result = blockwise_linear(x, packed, dtype)
    assert (result.dtype, result.shape) == (dtype, (5, shape[0]))
    assert_close(result, x, oracle_weight(weight))
    back = blockwise_gradient(grad, packed, dtype)
    assert (back.dtype, back.shape) == (dtype, (5, shape[1])) and back.is_contiguous()
    assert_close(back, grad, oracle_weight(weight).t())


@pytest.mark.parametrize("shape", [(17, 33), (130, 64)])
def test_products_without_a_layout(shape, monkeypatch):
    monkeypatch.setattr(packed_module, "INT4_OPS", {})
    monkeypatch.setitem(dequantize.SCRATCH_BYTES, "cpu", 1)
    weight = random_weight(*shape, 32)
    packed = pack_weight(weight, "cpu")
    assert packed.layout is None
    x, grad = torch.randn(3, shape[1]), torch.randn(3, shape[0])
    assert_close(blockwise_linear(x, packed, torch.float32), x, oracle_weight(weight))
    assert_close(blockwise_gradient(grad, packed, torch.float32), grad, oracle_weight(weight).t())


def test_no_dense_copy_is_kept_and_all_layers_share_one_scratch(monkeypatch):
    monkeypatch.setitem(dequantize.SCRATCH_BYTES, "cpu", 64 * 256 * 2)
    monkeypatch.setattr(dequantize, "_shared", threading.local())
    layers = [pack_weight(random_weight(640, 256), "cpu") for _ in range(2)]
    seen = [block for layer in layers for _, block in iter_blocks(layer, torch.bfloat16)]
    assert len(seen) == 20
    assert len({block.untyped_storage().data_ptr() for block in seen}) == 1
    assert seen[0].untyped_storage().nbytes() == 256 * (64 + 32) * 2


def test_blocks_are_of_one_size(monkeypatch):
    monkeypatch.setitem(dequantize.SCRATCH_BYTES, "cpu", 320 * 64 * 2)
    packed = pack_weight(random_weight(464, 64), "cpu")
    assert [rows for rows, _ in iter_blocks(packed, torch.bfloat16)] == [slice(0, 256), slice(256, 464)]


@pytest.mark.parametrize(("k", "rows"), [(4096, 1024), (14336, 256), (64, 65536), (2**24, 64)])
def test_blocks_are_whole_and_bounded(k, rows):
    assert block_rows(torch.device("cpu"), k, torch.bfloat16) == rows
