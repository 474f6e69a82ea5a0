"""Live against the hqq package: its error is the bar for our half-quadratic solver."""

from __future__ import annotations

import pytest
import torch
from hqq.core.quantize import Quantizer

from workbench import Int4WeightOnlyConfig
from workbench.solvers import solve


def weights(kind):
    values = torch.randn(128, 1024, generator=torch.Generator().manual_seed(0))
    return {
        "normal": values * 0.02,
        "heavy-tailed": values.sign() * (values.abs() * 1.5).exp() * 0.004,
        "shifted": values * 0.02 + 0.03,
        "one-sided": values.abs() * 0.02,
    }[kind]


def mean_error(weight, values):
    return float((weight.double() - values.double()).abs().mean())


@pytest.mark.parametrize("group_size", [32, 64, 128, 256])
@pytest.mark.parametrize("kind", ["normal", "heavy-tailed", "shifted", "one-sided"])
@pytest.mark.parametrize(
    ("peer_dtype", "scale_dtype"), [(torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16)], ids=str
)
def test_our_error_is_at_or_below_hqq_s(kind, group_size, peer_dtype, scale_dtype):
    weight = weights(kind)
    codes, meta = Quantizer.quantize(
        weight, nbits=4, group_size=group_size, optimize=True, axis=1, compute_dtype=peer_dtype, device="cpu"
    )
    theirs = mean_error(weight, Quantizer.dequantize(codes, meta))
    config = Int4WeightOnlyConfig(group_size=group_size, use_hqq=True).resolved(scale_dtype=scale_dtype)
    result = solve(weight, config)
    assert mean_error(weight, result.weight.dequantize()) <= theirs
    assert result.trace.error <= result.trace.rtn_error
