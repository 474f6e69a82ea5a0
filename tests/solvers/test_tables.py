"""Tables of starting ranges: each entry is the error at its place, and their sums are those of groups."""

from __future__ import annotations

import pytest
import torch

from workbench.solvers.tables import starts

CPU = torch.device("cpu")
COUNTS = {"float": 12 * 8, "int": 14 * 16, "symmetric": 64}


def exact(table, x, norm):
    """|x - x_r|^norm under each start, one start at a time: float64 [..., J]."""
    errors = []
    for scale, base in zip(table.scale.tolist(), table.base.tolist(), strict=True):
        codes = torch.round((x.double() - base) / scale).clamp(0, 15)
        errors.append((x.double() - (codes * scale + base)).abs().pow(norm))
    return torch.stack(errors, -1)


@pytest.mark.parametrize("norm", [0.7, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("domain", list(COUNTS))
def test_entries_are_the_mean_error_of_their_bin(domain, norm):
    table = starts(domain, norm, None, CPU)
    bins = len(table.errors)
    width = 2 * table.reach / bins
    for place in (0, 1, 17, bins // 2, bins - 2, bins - 1):
        inside = -table.reach + width * (place + (torch.arange(400).double() + 0.5) / 400)
        direct = exact(table, inside, norm).mean(0)
        torch.testing.assert_close(table.errors[place].double(), direct, rtol=0.05, atol=2e-3)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("norm", [1.0, 2.0])
@pytest.mark.parametrize("domain", list(COUNTS))
def test_sums_over_groups_are_nearly_exact(domain, norm, weighted):
    table, generator = starts(domain, norm, None, CPU), torch.Generator().manual_seed(0)
    x = torch.randn(12, 64, generator=generator)
    x *= table.reach / x.abs().amax(1, keepdim=True)
    weights = torch.rand(1, 64, generator=generator) + 0.1 if weighted else None
    direct = exact(table, x, norm)
    if weights is not None:
        direct = direct * weights[..., None]
    sums = direct.sum(1)
    ours = table.group_errors(x, weights).double()
    assert ours.shape == (12, COUNTS[domain])
    assert float(((ours - sums) / sums).abs().mean()) < 0.02
    taken = sums.gather(1, ours.argmin(1, keepdim=True))
    assert float((taken[:, 0] / sums.amin(1)).mean()) < 1.02


@pytest.mark.parametrize("domain", list(COUNTS))
def test_weights_of_each_group_and_of_all_are_the_same(domain):
    table, x = starts(domain, 2.0, None, CPU), torch.rand(5, 40) * 10 - 5
    row = torch.rand(1, 40)
    assert torch.equal(table.group_errors(x, row), table.group_errors(x, row.expand(5, 40)))


@pytest.mark.parametrize("domain", list(COUNTS))
def test_places_beyond_the_range_and_without_a_number_fall_into_a_bin(domain):
    table = starts(domain, 2.0, None, CPU)
    ends = torch.tensor([[-1e30, 1e30, float("inf"), -float("inf"), float("nan"), table.reach, -table.reach]])
    assert torch.isfinite(table.group_errors(ends, None)).all()


def test_starts_hold_what_their_domain_can_store():
    whole = starts("int", 2.0, None, CPU)
    assert sorted(set(whole.zero.tolist())) == list(range(16))
    torch.testing.assert_close(whole.base, -whole.zero * whole.scale)
    assert set(starts("symmetric", 2.0, None, CPU).zero.tolist()) == {8.0}
    assert starts("float", 2.0, None, CPU).zero.isnan().all()


@pytest.mark.parametrize(("domain", "each"), [("float", 8), ("int", 16), ("symmetric", 1)])
@pytest.mark.parametrize("ranges", [1, 5])
def test_the_number_of_ranges_is_what_was_asked_for(domain, each, ranges):
    table = starts(domain, 2.0, ranges, CPU)
    assert len(table.scale) == ranges * each
    assert starts(domain, 2.0, ranges, CPU) is table
