"""Kernels: against an fp64 oracle for every shape, group size, domain and dtype; and what they must refuse."""

import dataclasses

import pytest
import torch

import workbench.choice as choice
import workbench.kernels as kernels
import workbench.packed as packed_module
import workbench.products as products
from tests.oracles import assert_close, oracle_weight, random_weight
from workbench.affine import QuantizedWeight
from workbench.choice import available_paths
from workbench.dequantize import dequantized
from workbench.device_layout import required_layout
from workbench.errors import KernelError
from workbench.kernels import int4_linear
from workbench.layout import Layout
from workbench.native import native_kernels
from workbench.packed import PackedWeight, pack_weight, padding_note
from workbench.packing import pack

SHAPES = [(16, 32), (64, 256), (17, 33), (1, 1), (100, 300), (48, 512), (80, 250)]
GROUP_SIZES = [32, 64, 128, 256]
DOMAINS = ["float", "int", "symmetric"]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("group_size", GROUP_SIZES)
@pytest.mark.parametrize("domain", DOMAINS)
def test_against_the_oracle(shape, group_size, domain):
    weight = random_weight(*shape, group_size, domain)
    packed = pack_weight(weight, "cpu")
    x = torch.randn(5, shape[1], generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    assert_close(int4_linear(x, packed), x, oracle_weight(weight))
    assert torch.equal(packed.codes(), weight.codes)
    assert torch.equal(dequantized(packed, torch.float64), dequantized(packed, torch.float32).double())
    assert torch.allclose(dequantized(packed, torch.float32).double(), oracle_weight(weight), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [0, 1, 7, 16, 17, 64])
def test_dtypes_and_batches(dtype, rows):
    weight = random_weight(48, 100)
    x = torch.randn(rows, 100, generator=torch.Generator().manual_seed(1)).to(dtype)
    result = int4_linear(x, pack_weight(weight, "cpu"))
    assert result.dtype == dtype
    assert result.shape == (rows, 48)
    assert_close(result, x, oracle_weight(weight))


STATED = {"op": (1.8e-3, 2.7e-3), "fused": (2.6e-3, 2.7e-3), "dequantize": (2.6e-3, 3.3e-3)}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("path", available_paths("cpu"))
@pytest.mark.parametrize("group_size", [32, 256])
@pytest.mark.parametrize("rows", [4, 24, 40])
def test_each_path_is_as_accurate_as_is_stated(path, dtype, group_size, rows):
    weight = random_weight(200, 2048, group_size)
    x = torch.randn(rows, 2048, generator=torch.Generator().manual_seed(2)).to(dtype)
    exact = x.double() @ oracle_weight(weight).double().t()
    error = (int4_linear(x, pack_weight(weight, "cpu"), path=path).double() - exact).norm() / exact.norm()
    native = native_kernels()
    few = path == "fused" and native is not None and rows <= native.few_rows
    assert float(error) < (2e-3 if few else STATED[path][dtype != torch.bfloat16])


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float16, 1e-3), (torch.float32, 1e-5)], ids=str)
def test_without_bfloat16_instructions_the_product_is_of_float32(dtype, limit, monkeypatch):
    monkeypatch.setattr(products, "_has_fast_bf16", lambda device_type: False)
    weight = random_weight(200, 2048)
    x = torch.randn(40, 2048).to(dtype)
    exact = x.double() @ oracle_weight(weight).double().t()
    error = (int4_linear(x, pack_weight(weight, "cpu"), path="dequantize").double() - exact).norm() / exact.norm()
    assert float(error) < limit


@pytest.mark.parametrize("lead", [(), (1,), (2, 3), (2, 0, 3), (1, 1, 1, 4)])
def test_batch_dimensions(lead):
    packed = pack_weight(random_weight(32, 64), "cpu")
    x = torch.randn(*lead, 64, dtype=torch.bfloat16)
    result = int4_linear(x, packed)
    assert result.shape == (*lead, 32)
    flat = int4_linear(x.reshape(-1, 64), packed)
    assert torch.equal(result.reshape(-1, 32), flat)


def test_a_strided_activation():
    packed = pack_weight(random_weight(32, 64), "cpu")
    x = torch.randn(64, 6, dtype=torch.bfloat16).t()
    assert torch.equal(int4_linear(x, packed), int4_linear(x.contiguous(), packed))


@pytest.mark.parametrize("shape", [(32, 64), (17, 100)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_gradient_for_x(shape, dtype):
    weight = random_weight(*shape)
    packed = pack_weight(weight, "cpu")
    x = torch.randn(2, 3, shape[1], dtype=dtype, requires_grad=True)
    upstream = torch.randn(2, 3, shape[0], dtype=dtype)
    int4_linear(x, packed).backward(upstream)
    exact = upstream.double() @ oracle_weight(weight)
    assert x.grad.dtype == dtype
    assert torch.allclose(x.grad.double(), exact, rtol=0.02, atol=0.02)
    empty = torch.randn(0, shape[1], dtype=dtype, requires_grad=True)
    int4_linear(empty, packed).sum().backward()
    assert empty.grad.shape == empty.shape


def test_autocast_gives_its_dtype():
    packed = pack_weight(random_weight(32, 64), "cpu")
    x = torch.randn(3, 64)
    with torch.autocast("cpu", torch.bfloat16):
        assert int4_linear(x, packed).dtype == torch.bfloat16
    assert int4_linear(x, packed).dtype == torch.float32


def test_nan_stays_in_its_row():
    packed = pack_weight(random_weight(32, 64), "cpu")
    x = torch.randn(3, 64, dtype=torch.bfloat16)
    clean = int4_linear(x, packed)
    x[1, 5] = float("nan")
    dirty = int4_linear(x, packed)
    assert dirty[1].isnan().all()
    assert torch.equal(dirty[[0, 2]], clean[[0, 2]])


def test_weights_beyond_32_bit_offsets_are_split(monkeypatch):
    weight = random_weight(208, 128)
    packed = pack_weight(weight, "cpu")
    x = torch.randn(4, 128, dtype=torch.bfloat16)
    whole = int4_linear(x, packed)
    monkeypatch.setattr(products, "MAX_ELEMENTS_PER_CALL", 70 * 128)
    assert torch.equal(int4_linear(x, packed), whole)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("shape", [(32, 64), (17, 99)])
def test_a_device_without_an_op_dequantizes(monkeypatch, domain, shape):
    weight = random_weight(*shape, 32, domain)
    monkeypatch.setattr(packed_module, "INT4_OPS", {})
    packed = pack_weight(weight, "cpu")
    assert packed.layout is None
    assert packed.packed.shape == (shape[0], (shape[1] + 1) // 2)
    assert torch.equal(packed.codes(), weight.codes)
    x = torch.randn(3, shape[1])
    assert_close(int4_linear(x, packed), x, oracle_weight(weight))
    assert "no int4 op" in choice.device_note("cpu")
    assert padding_note(*shape, 32, "cpu") == ""


@pytest.mark.parametrize(
    ("shape", "group_size", "note"),
    [((16, 64), 64, ""), ((17, 64), 64, "N 17→32"), ((16, 65), 64, "K 65→128"), ((1, 1), 32, "N 1→16, K 1→32")],
)
def test_padding_is_said(shape, group_size, note):
    assert padding_note(*shape, group_size, "cpu") == note


def test_an_activation_that_does_not_fit_is_refused():
    packed = pack_weight(random_weight(32, 64), "cpu")
    with pytest.raises(KernelError, match=r"\[3, 65\].*\[\.\.\., 64\]"):
        int4_linear(torch.randn(3, 65), packed)
    with pytest.raises(KernelError, match=r"int64.*cast it"):
        int4_linear(torch.zeros(3, 64, dtype=torch.int64), packed)
    with pytest.raises(KernelError, match=r"activation is on meta"):
        int4_linear(torch.randn(3, 64, device="meta"), packed)
    with pytest.raises(KernelError, match="no elements"):
        pack_weight(QuantizedWeight(*empty_parts(), 64, "float"), "cpu")


def empty_parts():
    return torch.zeros(0, 64, dtype=torch.uint8), torch.zeros(0, 1), torch.zeros(0, 1)


def good_weight():
    return pack_weight(random_weight(64, 128), "cpu")


def other_cpu_layout():
    return next(
        Layout("cpu", variant=v) for v in ("avx512", "avx2") if Layout("cpu", variant=v) != required_layout("cpu")
    )


SZ = "scales_and_zeros"
BAD_WEIGHTS = [
    ({"group_size": 48}, "group_size=48"),
    ({"group_size": 0}, "group_size=0"),
    ({"in_features": 192}, r"\[3, 64, 2\]"),
    ({"out_features": 128}, r"\[2, 128, 2\]"),
    ({SZ: torch.rand(2, 64, 2)}, "scales_and_zeros is torch.float32"),
    ({SZ: torch.rand(1, 64, 2).bfloat16()}, r"scales_and_zeros is .*\[1, 64, 2\]"),
    ({SZ: torch.rand(0, 64, 2).bfloat16()}, r"scales_and_zeros is .*\[0, 64, 2\]"),
    ({SZ: torch.rand(3, 64, 2).bfloat16()}, r"scales_and_zeros is .*\[3, 64, 2\]"),
    ({SZ: torch.rand(2, 0, 2).bfloat16()}, r"scales_and_zeros is .*\[2, 0, 2\]"),
    ({SZ: torch.rand(2, 64, 3).bfloat16()}, "scales_and_zeros is"),
    ({SZ: torch.rand(2, 64).bfloat16()}, "scales_and_zeros is"),
    ({SZ: torch.rand(64, 2, 2).bfloat16().transpose(0, 1)}, "not contiguous"),
    ({SZ: torch.rand(2, 48, 2).bfloat16()}, r"scales_and_zeros is .*\[2, 48, 2\]"),
    ({SZ: torch.zeros(2, 64, 2, dtype=torch.bfloat16, device="meta")}, "one device"),
    ({"packed": torch.zeros(64, 63, dtype=torch.uint8)}, "packed is"),
    ({"packed": torch.zeros(48, 64, dtype=torch.uint8)}, "packed is"),
    ({"packed": torch.zeros(64, 64, dtype=torch.int32)}, "packed is torch.int32"),
    ({"packed": torch.zeros(64, 128, dtype=torch.uint8)[:, ::2]}, "not contiguous"),
    ({"layout": other_cpu_layout()}, "but this process reads"),
]


@pytest.mark.parametrize(("change", "message"), BAD_WEIGHTS)
@pytest.mark.parametrize("path", [None, *available_paths("cpu")])
def test_what_the_kernels_leave_unchecked_is_refused_before_one_runs(change, message, path):
    int4_linear(torch.randn(3, 128, dtype=torch.bfloat16), good_weight(), path=path)
    bad = good_weight()
    for name, value in change.items():
        object.__setattr__(bad, name, value)
    with pytest.raises(KernelError, match=message):
        bad.__post_init__()
        int4_linear(torch.randn(3, bad.in_features, dtype=torch.bfloat16), bad, path=path)


def test_values_that_bfloat16_cannot_hold_are_refused():
    weight = random_weight(16, 64, dtype=torch.float32)
    weight.scale[3, 0] = 3.4e38
    with pytest.raises(KernelError, match=r"scale\[3, 0\].*not finite in bfloat16"):
        pack_weight(weight, "cpu")


def test_a_packed_weight_of_another_build_is_refused():
    packed = pack_weight(random_weight(64, 128), "cpu")
    layout = other_cpu_layout()
    foreign = PackedWeight(pack(packed.codes(), layout), packed.scales_and_zeros, layout, 64, 128, 64)
    with pytest.raises(KernelError, match=r"packed for cpu/.*but this process reads cpu/.*load the checkpoint again"):
        int4_linear(torch.randn(1, 128), foreign)


# --- what the operator remembers of a weight ------------------------------------------------------------------------


def operate(x, packed):
    layout = "" if packed.layout is None else str(packed.layout)
    sizes = (packed.group_size, packed.out_features, packed.in_features)
    return torch.ops.workbench.int4_linear(x, packed.packed, packed.scales_and_zeros, *sizes, layout, "")


def test_the_operator_checks_a_weight_once_and_forgets_it_with_its_tensors(monkeypatch):
    kernels._seen.clear()
    packed = pack_weight(random_weight(32, 64), "cpu")
    x = torch.randn(3, 64, dtype=torch.bfloat16)
    expected = int4_linear(x, packed)
    assert torch.equal(operate(x, packed), expected)
    (seen,) = kernels._seen.values()
    assert seen.weight.is_checked
    assert torch.equal(operate(x, packed), expected)
    assert list(kernels._seen.values()) == [seen]
    del packed, seen
    assert not kernels._seen


def test_the_operator_sees_a_changed_weight():
    packed, other = (pack_weight(random_weight(32, 64, seed=seed), "cpu") for seed in (0, 1))
    x = torch.randn(3, 64, dtype=torch.bfloat16)
    operate(x, packed)
    packed.scales_and_zeros.copy_(other.scales_and_zeros)
    packed.packed.copy_(other.packed)
    assert torch.equal(operate(x, packed), int4_linear(x, other))
    halved = dataclasses.replace(packed, scales_and_zeros=packed.scales_and_zeros / 2)
    assert torch.equal(operate(x, halved), int4_linear(x, other) / 2)
    packed.packed.data = torch.zeros_like(packed.packed)[:1]
    with pytest.raises(KernelError, match="packed"):
        operate(x, packed)
