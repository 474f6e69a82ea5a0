"""Every measure of an error: the same in blocks of any size, and what all of them refuse."""

from __future__ import annotations

import math
import threading

import pytest
import torch

from tests.measure.weights import quantized, some_weight
from workbench.errors import Cancelled, ConfigError, WeightError
from workbench.measure.error_map import METRICS, error_map
from workbench.measure.errors import error_summary, histogram
from workbench.measure.group_errors import GROUP_METRICS, group_errors


@pytest.mark.parametrize("rows_at_a_time", [3, 1000])
def test_a_weight_that_lies_transposed_has_the_same_errors(monkeypatch, rows_at_a_time):
    weight = some_weight(10, 70)
    transposed, stored = weight.t().contiguous().t(), quantized(weight)
    monkeypatch.setattr("workbench.measure.error_blocks._BLOCK_ELEMENTS", rows_at_a_time * 70)
    assert error_summary(transposed, stored) == error_summary(weight, stored)
    assert histogram(transposed, stored) == histogram(weight, stored)
    for metric in METRICS:
        assert error_map(transposed, stored, metric=metric) == error_map(weight, stored, metric=metric)


@pytest.mark.parametrize("rows_at_a_time", [1, 3, 1000])
def test_blocks_of_rows_change_nothing(monkeypatch, rows_at_a_time):
    weight = some_weight(10, 50)
    stored = quantized(weight, "int")
    summary, groups, counts = error_summary(weight, stored), group_errors(weight, stored), histogram(weight, stored)
    monkeypatch.setattr("workbench.measure.error_blocks._BLOCK_ELEMENTS", rows_at_a_time * 50)
    again = error_summary(weight, stored)
    assert again.max_at == summary.max_at and again.mse == pytest.approx(summary.mse, rel=1e-12)
    assert torch.equal(group_errors(weight, stored), groups) and histogram(weight, stored) == counts


def test_a_weight_that_is_refused_or_superseded_ends_between_blocks(monkeypatch):
    weight = some_weight(10, 50)
    stored, stop = quantized(weight), threading.Event()
    monkeypatch.setattr("workbench.measure.error_blocks._BLOCK_ELEMENTS", 50)
    weight[7, 3] = math.nan
    for measure in (error_summary, group_errors, error_map, histogram):
        with pytest.raises(WeightError, match=r"weight\[7, 3\]"):
            measure(weight, stored)
    stop.set()
    with pytest.raises(Cancelled):
        error_summary(weight, stored, stop)


MEASURES = [error_summary, group_errors, error_map, histogram]


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_are_named_with_their_position(measure, bad):
    weight = some_weight(4, 40)
    stored = quantized(weight)
    weight[2, 39] = bad
    with pytest.raises(WeightError, match=r"weight\[2, 39\] is -?(nan|inf)"):
        measure(weight, stored)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("shape", [(0, 32), (3, 0)])
def test_a_weight_without_elements_is_refused(measure, shape):
    with pytest.raises(WeightError, match="has no elements"):
        measure(torch.zeros(shape), quantized(torch.zeros(shape)))


@pytest.mark.parametrize("measure", MEASURES)
def test_two_shapes_are_refused(measure):
    with pytest.raises(ConfigError, match=r"\[4, 33\], the quantized one \[4, 32\]"):
        measure(some_weight(4, 33), quantized(some_weight(4, 32)))


def test_unknown_choices_are_refused_with_the_known_ones():
    weight = some_weight(2, 32)
    stored = quantized(weight)
    with pytest.raises(ConfigError, match=r"'mae'.*rmse, mse, max, mean_abs"):
        error_map(weight, stored, metric="mae")
    with pytest.raises(ConfigError, match=rf"'original'.*{', '.join(GROUP_METRICS)}"):
        group_errors(weight, stored, "original")
    with pytest.raises(ConfigError, match=r"'min'.*'max' or 'mean'"):
        error_map(weight, stored, reduce="min")
    with pytest.raises(ConfigError, match="0 x 512"):
        error_map(weight, stored, max_rows=0)
    with pytest.raises(ConfigError, match="bins=0"):
        histogram(weight, stored, 0)
