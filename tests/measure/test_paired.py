"""Paired intervals: against plain arithmetic on windows, and narrower than the spread of the texts."""

from __future__ import annotations

import math
import statistics

import pytest

from workbench.measure.divergence import TokenSums
from workbench.measure.intervals import student_97_5
from workbench.measure.paired import Comparison, Estimate, WindowPair, change_between, mean_of

EASY_AND_HARD = [100.0, 400.0, 250.0, 900.0]


def windows(extra, kls=(0.1, 0.2, 0.15, 0.12), base=EASY_AND_HARD):
    return Comparison(
        tuple(
            WindowPair.of(TokenSums(100, nats), TokenSums(100, nats + more, 100 * kl, 80))
            for nats, more, kl in zip(base, extra, kls, strict=True)
        )
    )


def interval(values):
    """Mean and its 95 % interval from independent draws of equal weight."""
    half = student_97_5(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values), statistics.mean(values) - half, statistics.mean(values) + half


def test_the_interval_is_that_of_the_differences_and_not_of_the_texts():
    found = windows([2.0, 2.1, 1.9, 2.0])
    expected = [math.exp(value) for value in interval([0.02, 0.021, 0.019, 0.02])]
    ratio = found.perplexity_ratio
    assert [ratio.value, ratio.low, ratio.high] == pytest.approx(expected)
    assert ratio.value == pytest.approx(found.perplexity / found.reference_perplexity)
    assert found.reference_perplexity == pytest.approx(math.exp(sum(EASY_AND_HARD) / 400))
    kl = found.mean_kl
    assert [kl.value, kl.low, kl.high] == pytest.approx(interval([0.1, 0.2, 0.15, 0.12]))
    assert (found.tokens, found.agreement) == (400, 0.8)
    assert ratio.high - ratio.low < 0.01 < statistics.stdev(nats / 100 for nats in EASY_AND_HARD)


def test_a_change_is_paired_on_the_windows_that_both_have():
    before, now = windows([2.0, 2.1, 1.9, 2.0]), windows([1.0, 1.1, 0.9, 1.0], (0.05, 0.15, 0.1, 0.07))
    change = change_between(before, Comparison(now.windows[:3]))
    assert change.windows == 3 and change.verdict == "better"
    assert change.mean_kl.value == pytest.approx(-0.05) and change.mean_kl.high < 0
    assert change.perplexity_ratio.value == pytest.approx(math.exp(-0.01))
    assert change_between(now, before).verdict == "worse"
    same = change_between(before, windows([2.0, 2.1, 1.9, 2.0], (0.11, 0.19, 0.16, 0.11)))
    assert same.verdict == "the same"
    assert change_between(before, before).verdict == "the same"


def test_one_window_gives_no_interval_and_no_verdict():
    one = Comparison(windows([2.0, 2.1, 1.9, 2.0]).windows[:1])
    assert (one.mean_kl.low, one.perplexity_ratio.high) == (None, None)
    assert change_between(one, one).verdict is None
    assert Estimate(1.0).through(math.exp) == Estimate(math.e)


def test_windows_count_by_their_tokens():
    assert mean_of([10.0, 1.0], [100, 10]).value == pytest.approx(0.1)


def test_what_is_beyond_a_float_is_infinite():
    found = windows([1e6] * 4)
    assert found.perplexity == math.inf == found.perplexity_ratio.value
