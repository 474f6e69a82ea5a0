"""Round-to-nearest against a loop over groups, and on groups where the plain formula breaks."""

from __future__ import annotations

import pytest
import torch

from tests.solvers.oracles import nearest
from workbench.config import GROUP_SIZES, Int4WeightOnlyConfig
from workbench.dequantize import dequantized
from workbench.packed import pack_weight
from workbench.solvers import solve

DOMAINS = ["float", "int", "symmetric"]


def solved(weight, domain="float", group_size=32, preserve_zero=None, scale_dtype=torch.bfloat16):
    config = Int4WeightOnlyConfig(group_size=group_size, preserve_zero=preserve_zero)
    return solve(weight, config.resolved(domain=domain, scale_dtype=scale_dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("group_size", GROUP_SIZES)
@pytest.mark.parametrize(
    ("domain", "preserve_zero"),
    [("float", None), ("float", True), ("int", None), ("int", False), ("symmetric", None)],
)
def test_matches_the_formulas_group_by_group(domain, preserve_zero, group_size, dtype):
    tolerance = 1e-6 if dtype == torch.float32 else 0
    torch.manual_seed(group_size)
    weight = torch.randn(3, 2 * group_size + 7) * 0.05 + 0.02
    result = solved(weight, domain, group_size, preserve_zero, dtype).weight
    for row in range(3):
        for index, start in enumerate(range(0, weight.shape[1], group_size)):
            group = weight[row, start : start + group_size]
            codes, scale, zero = nearest(group, domain, bool(preserve_zero), dtype)
            assert float(result.scale[row, index]) == pytest.approx(scale, rel=tolerance)
            if result.zero is not None:
                assert float(result.zero[row, index]) == pytest.approx(zero, rel=tolerance)
            ours = result.codes[row, start : start + group_size].int()
            assert (ours - torch.tensor(codes)).abs().max() <= 1
            error = (result.dequantize()[row, start : start + group_size] - group).abs()
            inside = (ours > 0) & (ours < 15)
            assert torch.all(error[inside] <= scale * 0.5001)


@pytest.mark.parametrize("weight_dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("domain", DOMAINS)
def test_other_weight_dtypes_are_solved_in_float32(weight_dtype, domain):
    weight = torch.randn(5, 96, dtype=torch.float32).to(weight_dtype)
    ours, plain = solved(weight, domain).weight, solved(weight.float(), domain).weight
    assert torch.equal(ours.codes, plain.codes) and torch.equal(ours.scale, plain.scale)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 0.5, -3.0, 2.0**-120, 2.0**-133, -(2.0**127), 1.984375 * 2.0**127])
def test_constant_groups_that_can_be_stored_are_exact(value, domain):
    weight = torch.full((2, 48), value)
    values = solved(weight, domain).weight.dequantize()
    if domain != "float" and 0 < abs(value) < 2.0**-126:
        assert (values - weight).abs().max() < 2.0**-126  # a scale is never a subnormal number
    else:
        assert torch.equal(values, weight)


@pytest.mark.parametrize("value", [0.1, -1 / 3, 1e-30, 3.4e38, -3.4028234e38, 1e38, 123456.789])
def test_other_constant_groups_are_as_near_as_scale_and_zero_can_say(value):
    weight = torch.full((1, 32), value)
    error = float((solved(weight).weight.dequantize().double() - weight).abs().max())
    assert error <= abs(value) * 2**-14


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("magnitude", [1e-45, 1e-40, 1e-38, 1e-30, 1e-7, 1e30, 1e37, 3.4e38])
def test_denormal_and_huge_groups_are_finite_and_near(magnitude, domain):
    torch.manual_seed(1)
    weight = (torch.rand(8, 80) * 2 - 1) * magnitude
    weight[0, 0], weight[0, 1] = magnitude, -magnitude
    result = solved(weight, domain).weight
    values = result.dequantize()
    assert torch.isfinite(values).all() and torch.isfinite(result.scale.float()).all()
    assert torch.all(result.scale.float() > 0)
    step = max(2 * magnitude / 15, 2.0**-126)
    assert float((values.double() - weight.double()).abs().max()) <= 1.2 * step


LARGEST = torch.finfo(torch.float32).max


@pytest.mark.parametrize("preserve_zero", [None, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("domain", DOMAINS)
def test_the_largest_weights_stay_finite_wherever_the_zero_point_falls(domain, dtype, preserve_zero):
    """All ratios of the two ends, so that the zero point is rounded up and down at every code."""
    share = torch.cat((torch.linspace(0, 1, 601), 1 - torch.logspace(-7, -1, 61)))[:, None]
    inside = torch.rand(len(share), 30, generator=torch.Generator().manual_seed(0))
    for low, high in ((share, torch.ones_like(share)), (torch.ones_like(share), share), (share, share)):
        weight = torch.cat((-low, high, torch.lerp(-low, high, inside)), 1) * LARGEST
        result = solved(weight, domain, preserve_zero=preserve_zero, scale_dtype=dtype).weight
        for values in (result.dequantize(), result.minimum(), result.zero_in_weight_units().bfloat16()):
            assert torch.isfinite(values).all()
        assert torch.isfinite(dequantized(pack_weight(result, "cpu"), torch.float32)).all()
        in_steps = (result.dequantize().double() - weight.double()).abs() / result.scale.double()
        assert float(in_steps.max()) <= 1.1


@pytest.mark.parametrize("offset", [1.0, 100.0, -7e4, 1e30])
def test_a_narrow_group_far_from_zero_is_not_lost_to_the_rounding_of_its_zero_point(offset):
    weight = offset * (1 + torch.linspace(-1e-5, 1e-5, 32)[None])
    error = (solved(weight).weight.dequantize().double() - weight.double()).abs().max()
    assert float(error) <= abs(offset) * 2**-11


def test_an_all_positive_group_in_the_int_domain_keeps_its_values():
    weight = torch.linspace(1.0, 1.1, 32)[None]
    error = (solved(weight, "int", preserve_zero=False).weight.dequantize() - weight).abs().max()
    assert float(error) <= 1.1 / 15


def test_the_trace_is_the_mean_error_of_what_is_stored():
    weight = torch.randn(7, 150) * 0.03
    for domain in DOMAINS:
        result = solved(weight, domain)
        error = (result.weight.dequantize().double() - weight.double()).abs().mean()
        assert result.trace.error == pytest.approx(float(error), rel=1e-5)
        assert result.trace.values == (result.trace.rtn_error,)
        assert (result.trace.groups, result.trace.improved_groups) == (7 * 5, 0)
