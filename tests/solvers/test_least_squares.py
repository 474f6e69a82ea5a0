"""Least squares in group coordinates: errors and steps against the plain sums, one group at a time in float64."""

from __future__ import annotations

import itertools

import pytest
import torch

from workbench.solvers.least_squares import Grid, Groups, Space
from workbench.solvers.rtn import GroupParams, nearest_params

DOMAINS = ["float", "int", "symmetric"]
FP32 = torch.float32


def setting(domain, dtype=FP32):
    """Weights, their space and round-to-nearest's grid there; the coordinates are off the weights in unit and place."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(7, 32, generator=generator) + 0.4
    low, high = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    center = (low + high) / 2 if domain == "float" else torch.zeros_like(low)
    space = Space(center, (high - low) / 15, domain, domain == "int", dtype)
    params = nearest_params(low, high, domain, domain == "int", dtype)
    zero_code = params.zero if domain == "int" else torch.full_like(low, 8.0)
    return (weight - center) / space.unit, space, space.of(params), zero_code, params


def values(grid):
    """Group coordinate of each code: float64 [C, 16]."""
    return grid.base.double() + grid.scale.double() * torch.arange(16)


def nearest(x, grid):
    return (x.double()[:, :, None] - values(grid)[:, None, :]).abs().min(-1)


@pytest.mark.parametrize("weights", [None, torch.rand(1, 32) + 0.1])
@pytest.mark.parametrize("norm", [0.7, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("domain", DOMAINS)
def test_the_error_is_the_sum_over_the_nearest_codes(domain, norm, weights):
    x, _, grid, _, _ = setting(domain)
    groups = Groups(x, weights, norm)
    powers = nearest(x, grid).values.pow(norm)
    expected = (powers if weights is None else powers * weights).sum(1, keepdim=True)
    torch.testing.assert_close(groups.error(grid).double(), expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(groups.assign(grid).long(), nearest(x, grid).indices)


@pytest.mark.parametrize("weights", [None, torch.rand(7, 32) + 0.1])
@pytest.mark.parametrize("domain", DOMAINS)
def test_a_step_solves_the_equations_of_least_squares(domain, weights):
    x, space, grid, zero_code, _ = setting(domain)
    found = Groups(x, weights, 2.0).step(grid, space, zero_code)
    h = torch.ones_like(x) if weights is None else weights
    for row, codes in enumerate(nearest(x, grid).indices.double()):
        root = h[row].double().sqrt()
        columns = [codes, torch.ones_like(codes)] if domain == "float" else [codes - float(zero_code[row])]
        left = torch.stack(columns, 1) * root[:, None]
        solution = torch.linalg.lstsq(left, (x[row].double() * root)[:, None]).solution[:, 0]
        scale = float(solution[0])
        base = float(solution[1]) if domain == "float" else -float(zero_code[row]) * scale
        assert (float(found.scale[row]), float(found.base[row])) == pytest.approx((scale, base), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("dtype", [FP32, torch.bfloat16])
@pytest.mark.parametrize("domain", DOMAINS)
def test_what_is_stored_is_the_grid_in_weight_units(domain, dtype):
    x, space, grid, zero_code, params = setting(domain, dtype)
    for one in (grid, Groups(x, None, 2.0).step(grid, space, zero_code)):
        stored = one.stored_scale.double()
        assert torch.equal(one.stored_scale, one.stored_scale.to(dtype).float())
        zero = torch.full_like(one.scale, 8.0) if one.stored_zero is None else one.stored_zero
        lowest = zero.double() - 8 * stored if domain == "float" else -zero.double() * stored
        in_weight_units = one.base.double() * space.unit.double() + space.center.double()
        torch.testing.assert_close(in_weight_units, lowest, rtol=1e-5, atol=1e-5)
    assert torch.equal(grid.stored_scale, params.scale) and (grid.stored_zero is None) == (domain == "symmetric")


def test_steps_in_turn_never_raise_the_error():
    for domain in DOMAINS:
        x, space, grid, zero_code, _ = setting(domain)
        groups = Groups(x, None, 2.0)
        errors = [groups.error(grid)]
        for _ in range(4):
            grid = groups.step(grid, space, zero_code)
            errors.append(groups.error(grid))
        assert all(torch.all(after <= before * (1 + 1e-5)) for before, after in itertools.pairwise(errors))


def test_a_scale_that_is_none_leaves_the_one_before():
    _, space, grid, _, _ = setting("float")
    wanted = torch.tensor([[float("nan")], [-1.0], [0.0], [1.0], [2.0], [float("-inf")], [0.5]])
    kept = space.storable(wanted, grid)
    good = torch.tensor([[False], [False], [False], [True], [True], [False], [True]])
    assert torch.equal(kept, torch.where(good, wanted * space.unit, grid.stored_scale))


def test_each_group_takes_its_grid_from_one_of_two():
    one = Grid(*(torch.full((3, 1), value) for value in (1.0, 2.0, 3.0, 4.0)))
    two = Space(torch.zeros(3, 1), torch.ones(3, 1), "int", True, FP32).of(
        GroupParams(torch.full((3, 1), 5.0), torch.full((3, 1), 6.0))
    )
    both = one.where(torch.tensor([[True], [False], [True]]), two)
    assert both.stored_scale[:, 0].tolist() == [1.0, 5.0, 1.0]
    assert both.stored_zero[:, 0].tolist() == [2.0, 6.0, 2.0]
    assert both.scale[:, 0].tolist() == [3.0, 5.0, 3.0]
    assert both.base[:, 0].tolist() == [4.0, -30.0, 4.0]
