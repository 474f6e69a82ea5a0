"""Order, damping and factors of moments, against float64."""

from __future__ import annotations

import pytest
import torch

from tests.solvers.oracles import MOMENTS, activations
from workbench.errors import WeightError
from workbench.solvers import InputMoments
from workbench.solvers.geometry import geometry


def total_of(kind, width=70, tokens=200, seed=0):
    moments = InputMoments.empty(width)
    moments.add(activations(kind, tokens, width, torch.Generator().manual_seed(seed)))
    return moments.total


@pytest.mark.parametrize("order", [False, True])
@pytest.mark.parametrize("kind", MOMENTS)
def test_the_factor_is_of_the_inverse_of_the_damped_moments(kind, order):
    total = total_of(kind)
    space = geometry(total, 32, 0.01, order)
    scaled = (total.double() / total.double().diagonal().mean())[space.order][:, space.order]
    torch.testing.assert_close(space.moments.double(), scaled, rtol=1e-6, atol=1e-6)
    damped = scaled + torch.diag(space.extra.double())
    upper = space.upper.double()
    assert torch.equal(upper, upper.triu()) and torch.all(upper.diagonal() > 0)
    torch.testing.assert_close(upper.t() @ upper @ damped, torch.eye(70).double(), rtol=0, atol=2e-2)
    torch.testing.assert_close(upper.t() @ upper, torch.linalg.inv(damped), rtol=2e-2, atol=2e-2)
    assert space.damping == 0.01
    assert space.scale == pytest.approx(float(total.double().diagonal().mean()), rel=1e-6)


@pytest.mark.parametrize("group_size", [32, 64, 256])
def test_the_order_is_a_permutation_that_keeps_groups_together(group_size):
    total = total_of("plain") * torch.rand(70, generator=torch.Generator().manual_seed(1))
    space = geometry((total + total.t()) / 2, group_size, 0.1, True)
    assert sorted(space.order.tolist()) == list(range(70))
    assert [span.start for span in space.spans] == [0, *(span.stop for span in space.spans[:-1])]
    assert sorted(span.group for span in space.spans) == list(range(-(-70 // group_size)))
    means = []
    diagonal = total.diagonal()[space.order]
    for span in space.spans:
        assert {int(column) // group_size for column in space.order[span.start : span.stop]} == {span.group}
        own = diagonal[span.start : span.stop]
        assert own.tolist() == sorted(own.tolist(), reverse=True)
        means.append(float(own.mean()))
    assert means == sorted(means, reverse=True)


def test_without_activation_order_all_stays_where_it_is():
    space = geometry(total_of("plain"), 32, 0.01, False)
    assert space.order.tolist() == list(range(70))
    assert [(span.start, span.stop, span.group) for span in space.spans] == [(0, 32, 0), (32, 64, 1), (64, 70, 2)]


@pytest.mark.parametrize("kind", ["plain", "correlated", "dead channels", "rank 1"])
def test_factors_of_groups(kind):
    space = geometry(total_of(kind), 32, 0.01, True)
    damped = space.moments.double() + torch.diag(space.extra.double())
    for span in space.spans:
        own, factor = damped[span.start : span.stop, span.start : span.stop], space.group_factor(span)
        torch.testing.assert_close(factor.moments.double(), own, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(factor.inverse.double(), torch.linalg.inv(own), rtol=1e-2, atol=1e-2)
        torch.testing.assert_close((factor.upper.t() @ factor.upper), factor.inverse)
        for weights, diagonal in (
            (factor.weights, factor.upper.diagonal()),
            (space.weights(span), space.upper.diagonal()[span.start : span.stop]),
        ):
            assert weights.shape == (1, span.stop - span.start) and float(weights.mean()) == pytest.approx(1, rel=1e-5)
            costs = diagonal.double() ** -2
            torch.testing.assert_close(weights[0].double(), costs / costs.mean(), rtol=1e-5, atol=0)


def test_damping_grows_until_singular_moments_factorize():
    space = geometry(total_of("equal channels"), 32, 1e-9, True)
    assert space.damping > 1e-9 and torch.isfinite(space.upper).all()
    ratio = space.damping / 1e-9
    assert any(ratio == pytest.approx(10.0**power) for power in range(1, 10))


def test_dead_channels_are_counted_and_depend_on_nothing():
    inputs = activations("plain", 200, 70, torch.Generator().manual_seed(0))
    inputs[:, [5, 69]] = 0
    moments = InputMoments.empty(70)
    moments.add(inputs)
    space = geometry(moments.total, 32, 0.01, True)
    assert space.dead == 2
    dead = [int((space.order == column).nonzero()) for column in (5, 69)]
    for place in dead:
        row = space.upper[place].clone()
        row[place] = 0
        assert not row.any() and float(space.extra[place]) == pytest.approx(1.01)


def test_moments_that_nothing_makes_positive_are_refused():
    total = torch.eye(8)
    total[0, 1] = total[1, 0] = float("nan")
    with pytest.raises(WeightError, match="cannot be factorized"):
        geometry(total, 32, 0.01, False)
