"""Solvers on the GPU find what they find on the CPU, but for the rounding of single operations."""

from __future__ import annotations

import pytest
import torch

from tests.oracles import random_weight
from workbench import Int4WeightOnlyConfig
from workbench.solvers import solve


def llm_like(n, k, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(n, k, generator=generator) * 0.02
    tail = torch.rand(n, k, generator=generator) < 0.02
    return torch.where(tail, values * (1 + 6 * torch.rand(n, k, generator=generator)), values)


def error(found, weight, norm):
    return float((found.dequantize(torch.float32).cpu().double() - weight.double()).abs().pow(norm).mean())


@pytest.mark.parametrize("domain", ["float", "int"])
@pytest.mark.parametrize("group_size", [32, 64, 128, 256])
@pytest.mark.parametrize(("solver", "norm"), [("rtn", 2), ("hqq", 0.7), ("refined", 2)])
def test_the_solvers_equal_the_cpu_s_to_rounding(solver, norm, group_size, domain, device):
    weight = llm_like(192, 1024)
    config = Int4WeightOnlyConfig(group_size=group_size).resolved("cpu", domain=domain, solver=solver)
    ours, theirs = solve(weight, config).weight, solve(weight.to(device), config).weight
    assert theirs.codes.device.type == device
    moved = theirs.to("cpu")
    # A rounding decides between candidates of nearly equal error: few groups, and no worse ones.
    same = (ours.codes == moved.codes).view(192, -1, group_size).all(dim=-1) & (ours.scale == moved.scale)
    assert float(same.double().mean()) > 0.97
    assert error(moved, weight, norm) == pytest.approx(error(ours, weight, norm), rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_rounding_to_nearest_is_the_same_to_the_bit_but_for_ties(dtype, device):
    weight = llm_like(64, 512, seed=1).to(dtype)
    config = Int4WeightOnlyConfig(group_size=64).resolved("cpu", solver="rtn")
    ours, theirs = solve(weight, config).weight, solve(weight.to(device), config).weight.to("cpu")
    assert float((ours.codes != theirs.codes).double().mean()) < 1e-3
    assert torch.allclose(ours.scale.float(), theirs.scale.float(), rtol=2**-7, atol=0)


@pytest.mark.parametrize("domain", ["float", "int", "symmetric"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
def test_a_portable_weight_dequantizes_to_the_same_bits(dtype, domain, device):
    weight = random_weight(40, 300, 64, domain)
    assert torch.equal(weight.to(device).dequantize(dtype).cpu(), weight.dequantize(dtype))
