"""The choice of one option for each item: held against trying every one there is."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from workbench.errors import ConfigError
from workbench.improve.allocation import best_within


def brute_force(sizes, errors, budget):
    """The least sum of errors of any choice within the budget, found by trying all."""
    every = itertools.product(*(range(len(one)) for one in sizes))
    fits = [c for c in every if sum(s[i] for s, i in zip(sizes, c, strict=True)) <= budget]
    return min((sum(e[i] for e, i in zip(errors, c, strict=True)) for c in fits), default=math.inf)


def cost(table, chosen):
    return sum(one[i] for one, i in zip(table, chosen, strict=True))


@pytest.mark.parametrize("seed", range(40))
def test_nothing_is_better(seed):
    dice = random.Random(seed)
    counts = [dice.randint(1, 5) for _ in range(dice.randint(1, 6))]
    sizes = [[dice.randint(1, 12) for _ in range(count)] for count in counts]
    errors = [[dice.random() for _ in range(count)] for count in counts]
    budget = dice.randint(sum(map(min, sizes)), sum(map(max, sizes)))
    chosen = best_within(sizes, errors, budget)
    assert cost(sizes, chosen) <= budget
    assert cost(errors, chosen) == pytest.approx(brute_force(sizes, errors, budget))


def test_of_equal_options_the_first_is_taken():
    assert best_within([[4, 4, 3], [4, 4]], [[1.0, 1.0, 1.0], [2.0, 2.0]], 8)[1] == 0
    assert best_within([[4, 4]], [[1.0, 1.0]], 8) == [0]


def test_an_error_that_is_infinite_is_taken_only_where_there_is_no_other():
    assert best_within([[1, 2], [1]], [[math.inf, 1.0], [2.0]], 3) == [1, 0]
    assert best_within([[1]], [[math.inf]], 1) == [0]


@pytest.mark.parametrize("states", [4, 16, 64])
def test_with_few_sums_kept_it_still_fits_and_is_near(states):
    dice = random.Random(1)
    sizes = [[dice.randint(900, 1100) for _ in range(6)] for _ in range(30)]
    errors = [[1e3 / size + dice.random() for size in one] for one in sizes]
    budget = 30 * 1000
    exact, near = best_within(sizes, errors, budget), best_within(sizes, errors, budget, states=states)
    assert cost(sizes, near) <= budget
    assert cost(errors, exact) <= cost(errors, near) <= 1.1 * cost(errors, exact)


@pytest.mark.parametrize(("sizes", "budget"), [([[3, 4], [2]], 4), ([[1], []], 9)])
def test_what_cannot_be_is_refused(sizes, budget):
    with pytest.raises(ConfigError, match=r"take \d bytes.*at most \d"):
        best_within(sizes, [[1.0] * len(one) for one in sizes], budget)


def test_no_item_is_no_choice():
    assert best_within([], [], 0) == []
