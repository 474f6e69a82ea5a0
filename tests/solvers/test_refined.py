"""The refined solver: near the best grid there is, and never worse than round-to-nearest as both are stored."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.solvers.oracles import KINDS, adversarial, finest_mse, group_errors
from workbench.config import GROUP_SIZES, Int4WeightOnlyConfig
from workbench.options import RefinedOptions
from workbench.solvers import solve
from workbench.solvers.refined import candidates, refine
from workbench.solvers.rtn import nearest_codes, nearest_params, steps_from_zero

DOMAINS = ["float", "int", "symmetric"]
BF16, FP32 = torch.bfloat16, torch.float32


def resolved(domain="float", group_size=32, solver="refined", preserve_zero=None, scale_dtype=BF16, **options):
    config = Int4WeightOnlyConfig(group_size=group_size, preserve_zero=preserve_zero)
    given_options = RefinedOptions(**options) if solver == "refined" else None
    return config.resolved(domain=domain, solver=solver, scale_dtype=scale_dtype, options=given_options)


def solved(weight, *args, **settings):
    return solve(weight, resolved(*args, **settings))


def heavy_tailed(rows, columns, seed=0):
    torch.manual_seed(seed)
    return torch.distributions.StudentT(3.0).sample((rows, columns)) * 0.02


def same(ours, theirs):
    zeros = ours.zero is theirs.zero is None or torch.equal(ours.zero, theirs.zero)
    return torch.equal(ours.codes, theirs.codes) and torch.equal(ours.scale, theirs.scale) and zeros


# --- how good it is -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("domain", "room"), [("float", 1.04), ("int", 1.04), ("symmetric", 1.02)])
def test_within_a_few_per_cent_of_every_grid_tried(domain, room):
    weight = heavy_tailed(6, 32, 5)
    mse = group_errors(weight, solved(weight, domain).weight.dequantize(), 32)[:, 0]
    unit = weight.abs().amax(1).double()
    ours = mse * unit * unit / 32
    finest = torch.tensor([finest_mse(row, domain, BF16) for row in weight], dtype=torch.float64)
    assert float((ours / finest).mean()) < room
    assert float((ours / finest).max()) < 1.15


@pytest.mark.parametrize("domain", DOMAINS)
def test_more_starts_and_steps_come_nearer(domain):
    weight = heavy_tailed(20, 64, 5)
    errors = [solved(weight, domain, starts=n, iters=m).trace.error for n, m in ((1, 0), (1, 2), (4, 4), (16, 20))]
    assert errors[0] > errors[1] > errors[2] >= errors[3]


@pytest.mark.parametrize(("domain", "most"), [("float", 0.85), ("int", 0.95), ("symmetric", 0.9)])
def test_much_better_than_round_to_nearest_on_heavy_tails(domain, most):
    trace = solved(heavy_tailed(64, 256), domain, 64).trace
    assert trace.error < most * trace.rtn_error


# --- never worse --------------------------------------------------------------------------------------------------


@settings(max_examples=250, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=6),
    seed=st.integers(0, 2**31),
    domain=st.sampled_from(DOMAINS),
    preserve_zero=st.sampled_from([None, True, False]),
    group_size=st.sampled_from(GROUP_SIZES),
    rest=st.integers(1, 31),
    dtype=st.sampled_from([BF16, FP32]),
    norm=st.sampled_from([0.7, 1.0, 2.0, 4.0]),
    starts=st.sampled_from([1, 3]),
)
def test_never_worse_than_round_to_nearest(kinds, seed, domain, preserve_zero, group_size, rest, dtype, norm, starts):
    if domain == "symmetric":
        preserve_zero = None
    generator = torch.Generator().manual_seed(seed)
    rows = [[adversarial(kind, length, generator) for length in (group_size, rest)] for kind in kinds]
    weight = torch.stack([torch.cat(row) for row in rows])
    settled = {"preserve_zero": preserve_zero, "scale_dtype": dtype}
    ours = solved(weight, domain, group_size, norm=norm, starts=starts, **settled)
    nearest = solved(weight, domain, group_size, "rtn", **settled)
    assert torch.isfinite(ours.weight.dequantize()).all() and torch.isfinite(ours.weight.scale).all()
    assert int(ours.weight.codes.max()) <= 15
    mine = group_errors(weight, ours.weight.dequantize(), group_size, norm)
    theirs = group_errors(weight, nearest.weight.dequantize(), group_size, norm)
    assert torch.all(mine <= theirs), (kinds, (mine - theirs).max())
    assert all(0 <= value < float("inf") for value in ours.trace.values)


@settings(max_examples=150, deadline=None)
@given(
    values=st.lists(
        st.one_of(
            st.floats(-1, 1, width=32),
            st.floats(width=32, allow_nan=False, allow_infinity=False),
            st.sampled_from([0.0, 1.0, -1.0, 1e-40, -1e-45, 3.4028234663852886e38, 0.17, 0.25]),
        ),
        min_size=1,
        max_size=40,
    ),
    domain=st.sampled_from(DOMAINS),
    dtype=st.sampled_from([BF16, FP32]),
    norm=st.sampled_from([0.7, 1.0, 2.0, 4.0]),
)
def test_never_worse_on_any_numbers(values, domain, dtype, norm):
    weight = torch.tensor([values])
    ours, nearest = (
        solved(weight, domain, scale_dtype=dtype, norm=norm),
        solved(weight, domain, 32, "rtn", scale_dtype=dtype),
    )
    assert torch.isfinite(ours.weight.dequantize()).all()
    mine = group_errors(weight, ours.weight.dequantize(), 32, norm)
    assert torch.all(mine <= group_errors(weight, nearest.weight.dequantize(), 32, norm))


@pytest.mark.parametrize("dtype", [BF16, FP32])
@pytest.mark.parametrize("norm", [1.0, 2.0])
def test_preserve_zero_keeps_zero_within_the_stored_grid(norm, dtype):
    generator = torch.Generator().manual_seed(1)
    groups = [adversarial(kind, 32, generator) for kind in KINDS if kind != "3e38" for _ in range(4)]
    groups += [torch.rand(32, generator=generator) + shift for shift in (0.0, 0.3, 5.0, -1.0, -1.3, -7.0)]
    weight = solved(torch.stack(groups), preserve_zero=True, norm=norm, scale_dtype=dtype).weight
    scale, zero = weight.scale.double(), weight.zero.double()
    rounding = 2.0**-7 if dtype == BF16 else 2.0**-20
    room = rounding * (zero.abs() + 8 * scale)
    assert torch.all(zero - 8 * scale <= room)
    assert torch.all(zero + 7 * scale >= -room)


# --- the same every time ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [0.7, 2.0])
@pytest.mark.parametrize("domain", DOMAINS)
def test_a_group_depends_on_itself_only(domain, norm):
    weight = heavy_tailed(41, 110)
    whole = solved(weight, domain, norm=norm).weight
    order = torch.randperm(41)
    moved = solved(weight[order], domain, norm=norm).weight
    assert torch.equal(moved.codes, whole.codes[order]) and torch.equal(moved.scale, whole.scale[order])
    alone = solved(weight[3:4], domain, norm=norm).weight
    assert torch.equal(alone.codes, whole.codes[3:4]) and torch.equal(alone.scale, whole.scale[3:4])
    part = solved(weight[:, 32:64], domain, norm=norm).weight
    assert torch.equal(part.codes, whole.codes[:, 32:64]) and torch.equal(part.scale, whole.scale[:, 1:2])


@pytest.mark.parametrize("domain", DOMAINS)
def test_blocks_and_threads_change_nothing(monkeypatch, domain):
    monkeypatch.setattr("workbench.solvers.data_free._LEAST_WEIGHTS", 1)
    weight, before = heavy_tailed(53, 80), torch.get_num_threads()
    expected = solved(weight, domain)
    try:
        for rows, threads in ((1, 1), (7, 2), (7, 3), (1000, 2)):
            monkeypatch.setattr("workbench.solvers.data_free._BLOCK_WEIGHTS", {"cpu": rows * 80})
            torch.set_num_threads(threads)
            again = solved(weight, domain)
            assert same(again.weight, expected.weight)
            assert again.trace.values == pytest.approx(expected.trace.values, rel=1e-6)
            assert again.trace.improved_groups == expected.trace.improved_groups
    finally:
        torch.set_num_threads(before)


# --- trace --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [0.7, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("domain", DOMAINS)
def test_the_trace_falls_from_round_to_nearest_to_what_is_stored(domain, norm):
    weight = heavy_tailed(20, 200)
    result = solved(weight, domain, 64, norm=norm, starts=4)
    nearest = solved(weight, domain, 64, "rtn").weight
    values = result.trace.values
    assert len(values) == 5 and list(values) == sorted(values, reverse=True)
    for value, found in ((values[0], nearest), (values[-1], result.weight)):
        exact = (found.dequantize().double() - weight.double()).abs().pow(norm).mean()
        assert value == pytest.approx(float(exact), rel=1e-4)
    mine = group_errors(weight, result.weight.dequantize(), 64, norm)
    better = mine < group_errors(weight, nearest.dequantize(), 64, norm)
    assert result.trace.improved_groups == int(better.sum()) > 0
    assert result.trace.groups == 20 * 4
    assert f"{norm:g}" in result.trace.objective or result.trace.objective in ("mean |error|", "mean squared error")
    assert result.solver == "refined" and result.weight.solved_by == "refined/1" and result.notes == ()


@pytest.mark.parametrize("kind", ["constant", "zeros", "denormal", "1e30", "3e38"])
def test_the_trace_is_a_number_whatever_the_weights(kind):
    weight = 100 * adversarial(kind, 64, torch.Generator().manual_seed(0))[None].clamp(-3e36, 3e36)
    for domain in DOMAINS:
        result = solved(weight, domain)
        exact = (result.weight.dequantize().double() - weight.double()).square().mean()
        assert result.trace.error == pytest.approx(float(exact), rel=2e-3)
        assert list(result.trace.values) == sorted(result.trace.values, reverse=True)


# --- weights of errors, as the calibrated solver uses them --------------------------------------------------------


def parts(weight, config):
    low, high = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    return low, high, nearest_params(low, high, config.domain, config.preserve_zero, config.scale_dtype)


def column_errors(weight, params, config):
    steps = steps_from_zero(weight, params, config.domain, False)
    codes = nearest_codes(steps, params, config.domain)
    offset = params.zero if config.domain == "int" else 8
    value = (codes - offset) * params.scale + (params.zero if config.domain == "float" else 0)
    return (weight - value).double().square()


@pytest.mark.parametrize("domain", DOMAINS)
def test_heavier_columns_get_smaller_errors(domain):
    weight, config = heavy_tailed(200, 32), resolved(domain)
    heavy = torch.ones(1, 32)
    heavy[0, :4] = 100.0
    low, high, nearest = parts(weight, config)
    plain = column_errors(weight, refine(weight, low, high, nearest, config).params, config)
    found = refine(weight, low, high, nearest, config, heavy)
    weighted = column_errors(weight, found.params, config)
    assert float(weighted[:, :4].mean()) < 0.8 * float(plain[:, :4].mean())
    sums = (weighted * heavy).sum(1), (column_errors(weight, nearest, config) * heavy).sum(1)
    assert torch.all(sums[0] <= sums[1])
    assert found.history[-1] == pytest.approx(float(sums[0].sum()), rel=1e-4)


@pytest.mark.parametrize("domain", DOMAINS)
def test_equal_weights_are_no_weights(domain):
    weight, config = heavy_tailed(50, 32), resolved(domain)
    low, high, nearest = parts(weight, config)
    plain = refine(weight, low, high, nearest, config)
    equal = refine(weight, low, high, nearest, config, torch.ones(1, 32))
    assert equal.history[-1] == pytest.approx(plain.history[-1], rel=1e-3)


@pytest.mark.parametrize("domain", DOMAINS)
def test_candidates_hold_round_to_nearest_and_what_refine_finds(domain):
    weight, config = heavy_tailed(50, 32), resolved(domain, starts=5)
    low, high, nearest = parts(weight, config)
    weights = torch.rand(1, 32) + 0.5
    found = candidates(weight, nearest, low, high, config, weights, 5)
    assert len(found) == 6 and torch.equal(found[0].scale, nearest.scale)
    errors = torch.stack([(column_errors(weight, one, config) * weights).sum(1) for one in found])
    best = refine(weight, low, high, nearest, config, weights)
    refined = (column_errors(weight, best.params, config) * weights).sum(1)
    torch.testing.assert_close(errors.amin(0), refined, rtol=2e-3, atol=0)
