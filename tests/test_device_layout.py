"""The layout of a device: found in every build of the CPU's op, refused for other devices."""

import os
import subprocess
import sys

import pytest
import torch

from workbench.device_layout import required_layout
from workbench.errors import KernelError
from workbench.layout import CPU_VARIANTS, Layout
from workbench.packing import pack

CPU_LAYOUTS = [Layout("cpu", variant=variant) for variant in CPU_VARIANTS]


def random_codes(n, k, seed=0):
    return torch.randint(0, 16, (n, k), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


OP_CHECK = """
import torch
from workbench.device_layout import required_layout
from workbench.packing import pack
layout = required_layout("cpu")
for n in (16, 48, 64, 80, 112, 128, 336):
    for k in (2, 32, 258):
        codes = torch.randint(0, 16, (n, k), dtype=torch.uint8)
        theirs = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.int(), 1)
        ours = pack(codes, layout)
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape, (n, k, theirs.shape)
        assert torch.equal(ours, theirs), (n, k)
print(layout)
"""


@pytest.mark.parametrize("capability", ["default", "avx2", "avx512"])
def test_the_cpu_op_of_each_build_makes_the_same_bytes(capability):
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
    done = subprocess.run(
        [sys.executable, "-c", OP_CHECK], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = done.stdout.strip()
    assert found in {str(layout) for layout in CPU_LAYOUTS}
    best = str(required_layout("cpu"))
    if best in ("cpu/avx512", f"cpu/{capability}"):  # a machine without AVX-512 falls back to what it has
        assert found == f"cpu/{capability}"


def test_an_unknown_device_is_named_with_the_known_ones():
    with pytest.raises(KernelError, match=r"'mps'.*cpu, cuda"):
        required_layout("mps")


def test_the_layout_of_this_process_multiplies_right():
    """The probe's answer, judged by the op: the product with packed codes equals the product with dense weights."""
    codes = random_codes(80, 64)
    scales = torch.ones(2, 80, 2, dtype=torch.bfloat16)
    scales[..., 1] = 0
    x = torch.randn(3, 64, dtype=torch.bfloat16, generator=torch.Generator().manual_seed(1))
    layout = required_layout("cpu")
    result = torch.ops.aten._weight_int4pack_mm_for_cpu(x, pack(codes, layout), 32, scales)
    expected = x.double() @ (codes.double() - 8).t()
    assert torch.allclose(result.double(), expected, rtol=0.01, atol=0.3)
