"""What PyTorch's int4 op corrupts, reads out of bounds or dies of is refused in Python, before it runs.

Each row stands in the lists of what the kernels leave unchecked. Rows where the op ends the process or reads out of
bounds run in a process of their own, so that a check that is lost shows as a failed test and not as a lost run.
"""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import workbench.choice as choice
import workbench.products as products
from tests.oracles import assert_close, oracle_weight, random_weight
from workbench.affine import QuantizedWeight
from workbench.choice import available_paths
from workbench.config import Int4WeightOnlyConfig
from workbench.device_layout import required_layout
from workbench.errors import ConfigError, KernelError, WeightError, WorkbenchError
from workbench.kernels import int4_linear
from workbench.layout import CPU_VARIANTS, Layout
from workbench.packed import PackedWeight, kernel_layout, pack_weight
from workbench.packing import pack

PATHS = [None, *available_paths("cpu")]


def packed(n=128, k=256, group_size=64):
    return pack_weight(random_weight(n, k, group_size), "cpu")


def refuses(weight, message, error=KernelError, rows=3):
    for path in PATHS:
        with pytest.raises(error, match=message) as caught:
            int4_linear(torch.randn(rows, weight.in_features, dtype=torch.bfloat16), weight, path=path)
        assert isinstance(caught.value, WorkbenchError)


# --- codes and shapes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [Layout("cuda", 8), Layout("rocm", 2), required_layout("cpu")], ids=str)
def test_codes_that_would_spill_into_the_neighbouring_nibble(layout):
    codes = torch.zeros(64, 128, dtype=torch.uint8)
    codes[5, 7] = 16
    with pytest.raises(KernelError, match=r"code at \[5, 7\] is 16.*0 to 15.*clamp"):
        pack(codes, layout)


def test_codes_of_a_weight_that_is_packed():
    weight = random_weight(64, 128)
    weight.codes[1, 2] = 200
    with pytest.raises(WorkbenchError, match="is 200"):
        pack_weight(weight, "cpu")


@pytest.mark.parametrize("shape", [(17, 64), (100, 64), (64, 65), (1, 1), (15, 30)])
def test_rows_and_columns_that_the_op_cannot_take_are_padded(shape):
    weight = random_weight(*shape, 32)
    x = torch.randn(3, shape[1], dtype=torch.bfloat16)
    for path in PATHS:
        assert_close(int4_linear(x, pack_weight(weight, "cpu"), path=path), x, oracle_weight(weight))


@pytest.mark.parametrize("layout", [Layout("cuda", 8), Layout("rocm", 8), required_layout("cpu")], ids=str)
def test_what_does_not_fill_whole_tiles_is_refused_by_the_packer(layout):
    with pytest.raises(KernelError, match=r"do not fill whole tiles.*pad with code 8"):
        pack(torch.zeros(17, 129, dtype=torch.uint8), layout)


@pytest.mark.parametrize("group_size", [16, 48, 512, 0, -64, "64"])
def test_group_sizes_that_fail_at_the_first_forward(group_size):
    with pytest.raises(ConfigError, match="group_size"):
        Int4WeightOnlyConfig(group_size=group_size)
    good = packed()
    with pytest.raises(KernelError, match="group_size"):
        PackedWeight(good.packed, good.scales_and_zeros, good.layout, 128, 256, group_size)


def test_a_weight_beyond_32_bit_offsets_is_split(monkeypatch):
    weight = random_weight(200, 256)
    x = torch.randn(3, 256, dtype=torch.bfloat16)
    monkeypatch.setattr(products, "MAX_ELEMENTS_PER_CALL", 64 * 256)
    assert_close(int4_linear(x, pack_weight(weight, "cpu"), path="op"), x, oracle_weight(weight))


# --- scales -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [3, 5, 8])
def test_too_few_or_too_many_scale_rows(groups):
    good = packed()
    refuses(
        replace(good, scales_and_zeros=torch.ones(groups, 128, 2).bfloat16()), rf"\[{groups}, 128, 2\].*\[4, 128, 2\]"
    )


def test_scales_that_are_not_contiguous():
    good = packed()
    strided = good.scales_and_zeros.transpose(0, 1).contiguous().transpose(0, 1)
    refuses(replace(good, scales_and_zeros=strided), "not contiguous")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
def test_scales_of_another_dtype(dtype):
    good = packed()
    refuses(replace(good, scales_and_zeros=good.scales_and_zeros.to(dtype)), "scales_and_zeros is torch.float")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3.4e38])
@pytest.mark.parametrize("name", ["scale", "zero"])
def test_scales_that_bfloat16_cannot_hold(name, value):
    weight = random_weight(64, 128, dtype=torch.float32)
    getattr(weight, name)[3, 1] = value
    with pytest.raises(KernelError, match=rf"{name}\[3, 1\].*not finite in bfloat16.*quantize this weight again"):
        pack_weight(weight, "cpu")


# --- packed tensors of another place ----------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 32, 64])
def test_rows_cut_out_of_a_packed_weight(first):
    """Off a block's edge the op gives garbage; on it, it is right by luck of the shape."""
    whole = packed(192)
    part = slice(first, first + 96)
    cut = PackedWeight(whole.packed[part], whole.scales_and_zeros[:, part].contiguous(), whole.layout, 96, 256, 64)
    refuses(cut, "cut out of.*pack them")


FOREIGN = [variant for variant in CPU_VARIANTS if variant != kernel_layout("cpu").variant]


@pytest.mark.parametrize("variant", FOREIGN)
def test_a_layout_that_this_process_does_not_read(variant):
    layout = Layout("cpu", variant=variant)
    good = packed()
    foreign = replace(good, packed=pack(good.codes(), layout), layout=layout)
    with pytest.raises(KernelError, match=r"packed for cpu/.*this process reads.*load the checkpoint again"):
        int4_linear(torch.randn(1, 256), foreign)


# --- activations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_dtypes_that_the_op_refuses_or_crawls_through_are_cast(dtype):
    weight = random_weight(64, 128)
    x = torch.randn(3, 128, dtype=dtype)
    for path in PATHS:
        result = int4_linear(x, pack_weight(weight, "cpu"), path=path)
        assert result.dtype == dtype
        assert_close(result, x, oracle_weight(weight))


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64], ids=str)
def test_dtypes_that_no_linear_layer_takes(dtype):
    with pytest.raises(KernelError, match="cast it"):
        int4_linear(torch.zeros(3, 256, dtype=dtype), packed())


def test_a_batch_of_nothing_launches_nothing():
    for path in PATHS:
        assert int4_linear(torch.zeros(0, 256), packed(), path=path).shape == (0, 128)


def test_nan_stays_in_its_row_on_every_path():
    weight = packed()
    for path in PATHS:
        x = torch.randn(20, 256, dtype=torch.bfloat16)
        clean = int4_linear(x, weight, path=path)
        x[4, 9] = float("nan")
        dirty = int4_linear(x, weight, path=path)
        others = [row for row in range(20) if row != 4]
        assert dirty[4].isnan().all() and torch.equal(dirty[others], clean[others])


def test_a_path_that_this_machine_lacks_is_refused(monkeypatch):
    monkeypatch.setattr(choice, "native_kernels", lambda: None)
    with pytest.raises(KernelError, match=r"path='fused' on cpu.*op, dequantize"):
        int4_linear(torch.randn(1, 256), packed(), path="fused")
    with pytest.raises(KernelError, match=r"path='fastest'"):
        int4_linear(torch.randn(1, 256), packed(), path="fastest")


def test_an_empty_weight():
    nothing = QuantizedWeight(torch.zeros(0, 64, dtype=torch.uint8), torch.zeros(0, 1), torch.zeros(0, 1), 64, "float")
    with pytest.raises((KernelError, WeightError), match="no elements"):
        pack_weight(nothing, "cpu")


# --- where the op would end the process -------------------------------------------------------------------------------

CRASHES = {
    "no scale rows": ("good.scales_and_zeros[:0]", "scales_and_zeros is"),
    "one scale row": ("good.scales_and_zeros[:1]", "scales_and_zeros is"),
    "scales of a narrower weight": ("good.scales_and_zeros[:, :16].contiguous()", "scales_and_zeros is"),
}
PROGRAM = """
import sys, torch, workbench as wb
from dataclasses import replace
from workbench.errors import KernelError
from workbench.choice import available_paths
from workbench.kernels import int4_linear
from workbench.packed import pack_weight
good = pack_weight(wb.quantize_weight(torch.randn(2048, 4096), wb.Int4WeightOnlyConfig(group_size=32)), "cpu")
bad = replace(good, scales_and_zeros=eval(sys.argv[1]))
for path in (None, *available_paths("cpu")):
    try:
        int4_linear(torch.randn(3, 4096, dtype=torch.bfloat16), bad, path=path)
    except KernelError as error:
        print(error)
"""


@pytest.mark.parametrize("row", CRASHES)
def test_what_ends_the_process_is_refused(row):
    scales, message = CRASHES[row]
    done = subprocess.run([sys.executable, "-c", PROGRAM, scales], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(PATHS)
    assert all(message in line and "Allowed" in line for line in lines)
