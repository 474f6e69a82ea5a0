"""Int4 layers of tests: one of given shape, an input, the exact result, and the comparison of two."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.oracles import oracle_weight, random_weight
from workbench import Int4Linear
from workbench.device_layout import required_layout
from workbench.layout import Layout

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=[pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]),
]
DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
DOMAINS = ["float", "int", "symmetric"]


def make_layer(n=48, k=100, *, group_size=32, domain="float", bias=torch.float32, scale_dtype=torch.bfloat16, **more):
    weight = random_weight(n, k, group_size, domain, scale_dtype)
    return Int4Linear(weight, None if bias is None else nn.Parameter(torch.linspace(-1, 1, n).to(bias)), **more)


def make_input(*shape, dtype=torch.float32, device="cpu"):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).to(device, dtype)


def exact(layer, x):
    """The result in float64, of the weights as the kernel is told them."""
    bias = 0 if layer.bias is None else layer.bias.detach().cpu().double()
    return x.cpu().double() @ oracle_weight(layer.quantized_weight().to("cpu")).t() + bias


def assert_same_layer(ours, theirs, x=None):
    """Every bit of the portable form, the bias and the result."""
    first, second = ours.state_dict(), theirs.state_dict()
    assert list(first) == list(second)
    for name, value in first.items():
        assert value.dtype == second[name].dtype and torch.equal(value, second[name]), name
    x = make_input(3, ours.in_features) if x is None else x
    assert torch.equal(ours(x), theirs(x))


def other_cpu_layout():
    known = (Layout("cpu", variant=variant) for variant in ("avx512", "avx2"))
    return next(layout for layout in known if layout != required_layout("cpu"))
