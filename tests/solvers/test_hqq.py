"""The half-quadratic solver: never worse than round-to-nearest, and at least as good as the plain iteration."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.solvers.oracles import hqq
from workbench.config import GROUP_SIZES, Int4WeightOnlyConfig
from workbench.errors import ConfigError
from workbench.options import HqqOptions
from workbench.solvers import solve
from workbench.solvers.hqq import _SHIFTS


def solved(weight, domain="float", group_size=32, solver="hqq", scale_dtype=torch.bfloat16, **options):
    config = Int4WeightOnlyConfig(group_size=group_size)
    settled = config.resolved(
        domain=domain,
        solver=solver,
        scale_dtype=scale_dtype,
        options=HqqOptions(**options) if solver == "hqq" else None,
    )
    return solve(weight, settled)


def group_errors(weight, result, group_size):
    """Mean |error| of each group, float64."""
    error = (result.weight.dequantize().double() - weight.double()).abs()
    return torch.stack([part.mean(1) for part in error.split(group_size, dim=1)], 1)


def heavy_tailed(rows, columns, seed=0):
    torch.manual_seed(seed)
    return torch.distributions.StudentT(2.0).sample((rows, columns)) * 0.02


@pytest.mark.parametrize("domain", ["float", "int"])
@pytest.mark.parametrize("group_size", GROUP_SIZES)
def test_never_worse_than_round_to_nearest_in_any_group(group_size, domain):
    weight = heavy_tailed(16, 3 * group_size + 11, group_size)
    ours = group_errors(weight, solved(weight, domain, group_size), group_size)
    nearest = group_errors(weight, solved(weight, domain, group_size, "rtn"), group_size)
    assert torch.all(ours <= nearest)
    if domain == "float":
        assert (ours < nearest).double().mean() > 0.5


ADVERSARIAL = st.one_of(
    st.floats(-1, 1, width=32),
    st.floats(-(2.0**100), 2.0**100, width=32),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, 1.0, -1.0, 1e-40, -1e-45, 3.4028234663852886e38, 0.17, 0.25]),
)


@settings(max_examples=300, deadline=None)
@given(
    values=st.lists(ADVERSARIAL, min_size=1, max_size=40),
    repeats=st.integers(1, 3),
    domain=st.sampled_from(["float", "int"]),
    dtype=st.sampled_from([torch.bfloat16, torch.float32]),
)
def test_adversarial_groups_stay_finite_and_never_get_worse(values, repeats, domain, dtype):
    weight = torch.tensor([values * repeats], dtype=torch.float32)
    ours, nearest = solved(weight, domain, scale_dtype=dtype), solved(weight, domain, 32, "rtn", dtype)
    assert torch.isfinite(ours.weight.dequantize()).all()
    assert torch.all(group_errors(weight, ours, 32) <= group_errors(weight, nearest, 32))


@pytest.mark.parametrize("domain", ["float", "int"])
@pytest.mark.parametrize("magnitude", [0.02, 1.0, 30.0])
@pytest.mark.parametrize("lp_norm", [0.7, 1.0, 0.4])
def test_matches_the_plain_iteration_group_by_group(lp_norm, magnitude, domain):
    weight = heavy_tailed(6, 64, 3) / 0.02 * magnitude
    result = solved(weight, domain, lp_norm=lp_norm)
    start = solved(weight, domain, solver="rtn").weight
    ours = group_errors(weight, result, 32)
    options = HqqOptions(lp_norm=lp_norm)
    for row in range(6):
        for index in range(2):
            group = weight[row, 32 * index : 32 * index + 32]
            zero, scale = float(start.zero[row, index]), float(start.scale[row, index])
            plain = hqq(group, scale, zero, domain, torch.bfloat16, options, _SHIFTS)
            assert float(ours[row, index]) == pytest.approx(plain, rel=2e-3)


def test_a_group_depends_on_itself_only():
    weight = heavy_tailed(40, 96)
    whole = solved(weight).weight
    order = torch.randperm(40)
    assert torch.equal(solved(weight[order]).weight.codes, whole.codes[order])
    assert torch.equal(solved(weight[3:4]).weight.zero, whole.zero[3:4])
    assert torch.equal(solved(weight[:, 32:64]).weight.codes, whole.codes[:, 32:64])


@pytest.mark.parametrize("rows_at_a_time", [1, 7, 1000])
def test_blocks_change_nothing(monkeypatch, rows_at_a_time):
    weight = heavy_tailed(25, 80)
    expected = solved(weight)
    monkeypatch.setattr("workbench.solvers.data_free._BLOCK_WEIGHTS", {"cpu": rows_at_a_time * 80})
    again = solved(weight)
    assert torch.equal(again.weight.codes, expected.weight.codes)
    assert torch.equal(again.weight.zero, expected.weight.zero)
    assert again.trace.values == pytest.approx(expected.trace.values, rel=1e-9)


def test_the_trace_falls_from_round_to_nearest_to_the_result():
    weight = heavy_tailed(20, 200)
    trace = solved(weight, group_size=64, iters=12).trace
    nearest = solved(weight, group_size=64, solver="rtn").trace
    assert len(trace.values) == 13
    assert trace.rtn_error == pytest.approx(nearest.error, rel=1e-6)
    assert list(trace.values) == sorted(trace.values, reverse=True)
    result = group_errors(weight, solved(weight, group_size=64, iters=12), 64)
    weights = torch.tensor([64.0, 64, 64, 8])
    assert trace.error == pytest.approx(float((result * weights).sum() / weight.numel()), rel=1e-5)
    assert 0 < trace.improved_groups <= trace.groups == 20 * 4


def test_no_iterations_are_round_to_nearest():
    weight = heavy_tailed(4, 64)
    assert torch.equal(solved(weight, iters=0).weight.codes, solved(weight, solver="rtn").weight.codes)


def test_more_iterations_never_hurt():
    weight = heavy_tailed(30, 128)
    errors = [solved(weight, iters=iters).trace.error for iters in (0, 1, 2, 5, 20, 40)]
    assert errors == sorted(errors, reverse=True)


def test_symmetric_is_refused():
    with pytest.raises(ConfigError, match=r"symmetric domain has none.*use the float or int domain"):
        solved(torch.randn(2, 32), "symmetric")


def test_constant_groups_keep_what_round_to_nearest_gave():
    weight = torch.tensor([0.0, 0.3, -2.0, 1e-40]).repeat_interleave(32)[None].clone()
    ours, nearest = solved(weight).weight, solved(weight, solver="rtn").weight
    assert torch.equal(ours.dequantize(), nearest.dequantize())
