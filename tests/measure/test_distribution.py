"""Spread and output error against what is slow and obvious."""

from __future__ import annotations

import math

import pytest
import torch

from tests.measure.weights import DOMAINS, quantized, some_weight
from workbench.measure import distribution
from workbench.measure.distribution import OutputError, iter_output_error, iter_spread
from workbench.measure.errors import error_summary, histogram
from workbench.solvers import InputMoments


def drained(steps):
    """The shares that a generator yields, and what it returns."""
    shares = []
    while True:
        try:
            shares.append(next(steps))
        except StopIteration as end:
            return shares, end.value


def moments_of(inputs):
    moments = InputMoments.empty(inputs.shape[1])
    moments.add(inputs)
    return moments


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("shape", [(7, 75), (1, 32), (40, 128)])
def test_weights_and_errors_are_counted_as_the_histogram_counts_them(shape, domain, known, monkeypatch):
    weight = some_weight(*shape)
    stored = quantized(weight, domain)
    limit = error_summary(weight, stored).max_abs if known else None
    monkeypatch.setattr(distribution, "_BLOCK_WEIGHTS", 3 * shape[1])
    shares, spread = drained(iter_spread(weight, stored, 24, limit))
    assert spread.histogram == histogram(weight, stored, 24)
    assert len(shares) == -(-shape[0] // 3) and shares[-1] == 1.0


@pytest.mark.parametrize("domain", DOMAINS)
def test_levels_are_counted_one_by_one(domain):
    weight = some_weight(5, 70)
    stored = quantized(weight, domain)
    _, spread = drained(iter_spread(weight, stored, 10))
    limit = float(weight.abs().max())
    slow = [0] * 10
    for code in range(16):
        codes = torch.full_like(stored.codes, code)
        levels = type(stored)(codes, stored.scale, stored.zero, 32, domain).dequantize()[:, ::32]
        for level in levels.double().flatten().tolist():
            if -limit <= level <= limit:
                slow[min(9, int((level + limit) / (2 * limit) * 10))] += 1
    assert spread.level_count == 16 * 5 * 3
    assert sum(map(abs, (a - b for a, b in zip(spread.levels, slow, strict=True)))) <= 2, "an edge may go either way"
    assert sum(spread.levels) == sum(slow)


def test_a_weight_of_zeros_has_a_spread():
    _, spread = drained(iter_spread(torch.zeros(2, 32), quantized(torch.zeros(2, 32))))
    assert (spread.histogram.limit, sum(spread.histogram.counts)) == (1.0, 64)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("products", [1, 1 << 30])
def test_the_output_error_is_that_of_running_the_tokens(domain, products, monkeypatch):
    monkeypatch.setattr(distribution, "_BLOCK_PRODUCTS", products)
    weight, inputs = some_weight(9, 75), torch.randn(50, 75, generator=torch.Generator().manual_seed(4))
    stored = quantized(weight, domain)
    shares, found = drained(iter_output_error(weight, stored, moments_of(inputs)))
    exact, now = inputs.double() @ weight.double().t(), inputs.double() @ stored.dequantize().double().t()
    assert found.relative == pytest.approx(float((now - exact).norm() / exact.norm()), rel=1e-4)
    assert (found.tokens, len(shares)) == (50, 9 if products == 1 else 1)


def test_without_output_there_is_no_ratio():
    nothing = moments_of(torch.zeros(4, 32))
    assert drained(iter_output_error(some_weight(2, 32), quantized(some_weight(2, 32)), nothing))[1] == OutputError(
        0, 4
    )
    lost = drained(iter_output_error(torch.zeros(2, 32), quantized(torch.ones(2, 32)), moments_of(torch.ones(4, 32))))
    assert lost[1].relative == math.inf
