"""Errors against slow loops; pictures and histograms against what they were made from."""

from __future__ import annotations

import itertools
import math
import threading

import numpy as np
import pytest
import torch

from workbench.affine import QuantizedWeight
from workbench.config import GROUP_SIZES, Int4WeightOnlyConfig
from workbench.errors import Cancelled, ConfigError, WeightError
from workbench.measure import errors
from workbench.measure.errors import (
    GROUP_METRICS,
    METRICS,
    error_map,
    error_summary,
    group_errors,
    histogram,
    reduce_to,
    sampled_rows,
)
from workbench.records.errors import ErrorMap
from workbench.solvers import quantize_weight

DOMAINS = ["float", "int", "symmetric"]
SIGNED = ("zero", "original", "dequantized")
ERRORS = [metric for metric in GROUP_METRICS if metric not in ("scale", "zero")]


def quantized(weight, domain="float", group_size=32):
    return quantize_weight(weight, Int4WeightOnlyConfig(group_size=group_size), domain=domain)


def some_weight(n, k, seed=0):
    return torch.randn(n, k, generator=torch.Generator().manual_seed(seed)) * 0.05 + 0.01


def slow_group(original, restored, metric):
    """One group's value, a list of floats against another."""
    differences = [b - a for a, b in zip(original, restored, strict=True)]
    rmse = math.sqrt(sum(d * d for d in differences) / len(differences))
    power = math.sqrt(sum(a * a for a in original) / len(original))
    sizes = [abs(d) for d in differences]
    if metric in ("rmse", "mse"):
        return rmse if metric == "rmse" else rmse * rmse
    if metric in ("relative", "relative_max"):
        return (rmse if metric == "relative" else max(sizes)) / power
    if metric == "sqnr":
        exact = not any(differences)
        return 150 if exact else 10 * math.log10(sum(a * a for a in original) / sum(d * d for d in differences))
    return max(sizes) if metric == "max" else sum(sizes) / len(sizes)


@pytest.mark.parametrize("metric", ERRORS)
@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("group_size", GROUP_SIZES)
@pytest.mark.parametrize("extra", [0, 1, 31])
def test_group_errors_against_loops(metric, domain, group_size, extra):
    weight = some_weight(3, 2 * group_size + extra)
    stored = quantized(weight, domain, group_size)
    result, restored = group_errors(weight, stored, metric), stored.dequantize()
    assert result.dtype == torch.float32 and result.shape == stored.scale.shape
    for row in range(3):
        for index, start in enumerate(range(0, weight.shape[1], group_size)):
            columns = slice(start, start + group_size)
            expected = slow_group(weight[row, columns].tolist(), restored[row, columns].tolist(), metric)
            assert float(result[row, index]) == pytest.approx(expected, rel=1e-5)


def test_a_group_without_error_or_without_weights_has_a_finite_sqnr():
    weight = torch.zeros(1, 96)
    weight[0, 32:] = 1.0
    found = group_errors(weight, quantized(torch.zeros(1, 96)), "sqnr")
    assert found.tolist() == [[150.0, 0.0, 0.0]], "nothing lost, then as much as there was"
    assert group_errors(torch.zeros(1, 32), quantized(torch.ones(1, 32)), "sqnr").tolist() == [[-150.0]]


@pytest.mark.parametrize("metric", GROUP_METRICS)
def test_groups_of_another_size_count_their_own_weights(metric):
    """Cells of 32 in groups of 128: errors of 32 weights each, scales and zeros of the group that they are in."""
    weight, stored = some_weight(3, 300), quantized(some_weight(3, 300), "float", 128)
    found, restored = group_errors(weight, stored, metric, 32), stored.dequantize()
    assert found.shape == (3, 10)
    for row in range(3):
        for cell in range(10):
            columns = slice(32 * cell, 32 * cell + 32)
            if metric in ("scale", "zero"):
                assert found[row, cell] == group_errors(weight, stored, metric)[row, cell // 4]
                continue
            expected = slow_group(weight[row, columns].tolist(), restored[row, columns].tolist(), metric)
            assert float(found[row, cell]) == pytest.approx(expected, rel=1e-5)


def test_the_worst_sqnr_of_a_block_is_its_least():
    weight = some_weight(40, 320)
    stored = quantized(weight)
    values = group_errors(weight, stored, "sqnr")
    picture = error_map(weight, stored, metric="sqnr", max_rows=10, max_cols=5)
    assert (picture.reduce, picture.row_span, picture.col_span) == ("min", 4, 2)
    slow = [[float(values[4 * i : 4 * i + 4, 2 * j : 2 * j + 2].min()) for j in range(5)] for i in range(10)]
    assert torch.allclose(decoded(picture), torch.tensor(slow).double(), atol=(picture.hi - picture.lo) / 500)
    assert picture.lo == float(values.min()), "the true worst is kept"


def test_pictures_that_share_a_scale_have_its_ends():
    weight = some_weight(8, 64)
    values = group_errors(weight, quantized(weight))
    least, greatest = float(values.min()), float(values.max())
    picture = errors.picture_of(values, "rmse", limits=(least / 2, 2 * greatest))
    assert (picture.lo, picture.hi, picture.log) == (least / 2, 2 * greatest, True)


@pytest.mark.parametrize("domain", DOMAINS)
def test_scales_and_zeros_of_groups_are_what_is_stored(domain):
    stored = quantized(some_weight(4, 70), domain)
    assert torch.equal(group_errors(some_weight(4, 70), stored, "scale"), stored.scale.float())
    at_code_8 = QuantizedWeight(torch.full_like(stored.codes, 8), stored.scale, stored.zero, 32, domain).dequantize()
    assert torch.equal(group_errors(some_weight(4, 70), stored, "zero"), at_code_8[:, [0, 32, 64]])


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_summary_against_loops(domain, dtype):
    weight = some_weight(5, 77).to(dtype)
    stored = quantized(weight, domain)
    summary = error_summary(weight, stored)
    original, restored = weight.double().flatten().tolist(), stored.dequantize().double().flatten().tolist()
    differences = [b - a for a, b in zip(original, restored, strict=True)]
    square = sum(d * d for d in differences)
    assert summary.mse == pytest.approx(square / 385, rel=1e-5)
    assert summary.rmse == pytest.approx(math.sqrt(square / 385), rel=1e-5)
    assert summary.mean_abs == pytest.approx(sum(map(abs, differences)) / 385, rel=1e-5)
    assert summary.max_abs == pytest.approx(max(map(abs, differences)), rel=1e-5)
    assert abs(differences[summary.max_at[0] * 77 + summary.max_at[1]]) == pytest.approx(summary.max_abs, rel=1e-5)
    signal = sum(a * a for a in original)
    assert summary.sqnr_db == pytest.approx(10 * math.log10(signal / square), rel=1e-5)
    assert summary.relative_rmse == pytest.approx(math.sqrt(square / signal), rel=1e-5)
    assert summary.bits_per_weight == stored.bits_per_weight and summary.count == 385


@pytest.mark.parametrize("rows_at_a_time", [3, 1000])
def test_a_weight_that_lies_transposed_has_the_same_errors(monkeypatch, rows_at_a_time):
    weight = some_weight(10, 70)
    transposed, stored = weight.t().contiguous().t(), quantized(weight)
    monkeypatch.setattr(errors, "_BLOCK_ELEMENTS", rows_at_a_time * 70)
    assert error_summary(transposed, stored) == error_summary(weight, stored)
    assert histogram(transposed, stored) == histogram(weight, stored)
    for metric in METRICS:
        assert error_map(transposed, stored, metric=metric) == error_map(weight, stored, metric=metric)


@pytest.mark.parametrize("rows_at_a_time", [1, 3, 1000])
def test_blocks_of_rows_change_nothing(monkeypatch, rows_at_a_time):
    weight = some_weight(10, 50)
    stored = quantized(weight, "int")
    summary, groups, counts = error_summary(weight, stored), group_errors(weight, stored), histogram(weight, stored)
    monkeypatch.setattr(errors, "_BLOCK_ELEMENTS", rows_at_a_time * 50)
    again = error_summary(weight, stored)
    assert again.max_at == summary.max_at and again.mse == pytest.approx(summary.mse, rel=1e-12)
    assert torch.equal(group_errors(weight, stored), groups) and histogram(weight, stored) == counts


def test_a_weight_that_is_refused_or_superseded_ends_between_blocks(monkeypatch):
    weight = some_weight(10, 50)
    stored, stop = quantized(weight), threading.Event()
    monkeypatch.setattr(errors, "_BLOCK_ELEMENTS", 50)
    weight[7, 3] = math.nan
    for measure in (error_summary, group_errors, error_map, histogram):
        with pytest.raises(WeightError, match=r"weight\[7, 3\]"):
            measure(weight, stored)
    stop.set()
    with pytest.raises(Cancelled):
        error_summary(weight, stored, stop)


def test_a_weight_without_error_has_infinite_signal_to_noise():
    weight = torch.zeros(3, 40)
    summary = error_summary(weight, quantized(weight))
    assert (summary.mse, summary.max_abs, summary.relative_rmse, summary.sqnr_db) == (0, 0, 0, math.inf)
    lost = error_summary(weight, quantized(torch.ones(3, 40)))
    assert (lost.mse, lost.relative_rmse, lost.sqnr_db) == (1, math.inf, -math.inf)


def test_huge_and_tiny_weights_do_not_overflow_the_sums():
    for magnitude in (3e38, 1e-40):
        weight = some_weight(2, 64) / 0.3 * magnitude
        stored = quantized(weight)
        assert math.isfinite(error_summary(weight, stored).rmse)
        for metric in METRICS:
            picture = error_map(weight, stored, metric=metric)
            assert torch.isfinite(decoded(picture)).all() and picture.lo < picture.hi


# --- pictures ---------------------------------------------------------------------------------------------------------


def decoded(picture: ErrorMap) -> torch.Tensor:
    """Values that the codes stand for, by the formulas in the record's description; float64 [rows, cols]."""
    share = (
        torch.frombuffer(bytearray(picture.values), dtype=torch.uint8).view(picture.rows, picture.cols).double() / 255
    )
    if picture.log:
        return picture.lo * (picture.hi / picture.lo) ** share
    return picture.lo + (picture.hi - picture.lo) * share


def shown(weight, stored, metric):
    if metric in ("original", "dequantized"):
        return weight.float() if metric == "original" else stored.dequantize()
    return group_errors(weight, stored, metric)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("domain", DOMAINS)
def test_codes_decode_to_within_half_a_step(metric, domain):
    weight = some_weight(9, 75)
    stored = quantized(weight, domain)
    picture, values = error_map(weight, stored, metric=metric), shown(weight, stored, metric).double()
    assert (picture.rows, picture.cols) == (picture.total_rows, picture.total_cols) == tuple(values.shape)
    assert (picture.reduce, picture.row_span, picture.col_span, picture.metric) == ("none", 1, 1, metric)
    if picture.log:
        off = (decoded(picture).log() - values.clamp(min=picture.lo).log()).abs()
        assert off.max() <= math.log(picture.hi / picture.lo) / 255 * 0.501
    else:
        assert (decoded(picture) - values).abs().max() <= (picture.hi - picture.lo) / 255 * 0.501


@pytest.mark.parametrize("metric", METRICS)
def test_scales_of_pictures_hold_the_extremes(metric):
    weight = some_weight(9, 75)
    weight[2, :32] = 0.5  # a group without error: below the four decades that a log scale spans
    stored = quantized(weight)
    picture, values = error_map(weight, stored, metric=metric), shown(weight, stored, metric).double()
    top = float(values.abs().max())
    assert picture.hi == pytest.approx(top, rel=1e-6)
    if metric in SIGNED:
        assert picture.lo == -picture.hi
    elif picture.log:
        assert picture.lo == pytest.approx(max(float(values.min()), top / 1e4), rel=1e-6)
    else:
        assert picture.lo == pytest.approx(float(values.min()), rel=1e-6)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("value", [0.0, 0.25, -3.0])
def test_constant_weights_have_a_picture(metric, value):
    weight = torch.full((4, 64), value)
    picture = error_map(weight, quantized(weight), metric=metric)
    assert picture.lo < picture.hi
    assert decoded(picture).numpy() == pytest.approx(shown(weight, quantized(weight), metric).numpy(), abs=0.02)


def slow_cells(values, max_rows, max_cols, how):
    """Each cell's value: the largest in size with its sign, or the mean, of the values that fall into it."""
    rows, cols = values.shape
    row_span, col_span = math.ceil(rows / max_rows), math.ceil(cols / max_cols)
    cells = []
    for top in range(0, rows, row_span):
        line = []
        for left in range(0, cols, col_span):
            inside = values[top : top + row_span, left : left + col_span].flatten().tolist()
            line.append(max(inside, key=abs) if how == "max" else sum(inside) / len(inside))
        cells.append(line)
    return torch.tensor(cells), row_span, col_span


@pytest.mark.parametrize("how", ["max", "mean"])
@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (5, 9), (16, 3), (7, 31), (33, 2)])
@pytest.mark.parametrize("limits", [(4, 4), (1, 1), (3, 512), (512, 2)])
def test_reduction_against_loops(how, shape, limits):
    values = some_weight(*shape)
    small, row_span, col_span = reduce_to(values, *limits, how)
    expected, rows, cols = slow_cells(values, *limits, how)
    assert (row_span, col_span) == (rows, cols)
    assert small.shape[0] <= limits[0] and small.shape[1] <= limits[1]
    assert torch.allclose(small, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("how", ["max", "mean"])
def test_a_reduced_picture_says_what_a_cell_stands_for(how):
    weight = some_weight(50, 32 * 9)
    picture = error_map(weight, quantized(weight), metric="rmse", reduce=how, max_rows=20, max_cols=4)
    assert (picture.rows, picture.cols, picture.row_span, picture.col_span) == (17, 3, 3, 3)
    assert (picture.total_rows, picture.total_cols, picture.reduce) == (50, 9, how)
    assert len(picture.values) == 17 * 3
    cells, _, _ = slow_cells(group_errors(weight, quantized(weight)), 20, 4, how)
    assert decoded(picture).numpy() == pytest.approx(cells.numpy(), rel=0.02)


@pytest.mark.parametrize(("n", "limit"), [(1, 256), (256, 256), (257, 256), (1000, 7), (100_000, 256)])
def test_sampled_rows_are_even_and_distinct(n, limit):
    rows = sampled_rows(n, limit).tolist()
    assert len(rows) == min(n, limit) and rows == sorted(set(rows))
    assert rows[0] == 0 and rows[-1] == n - 1
    gaps = [b - a for a, b in itertools.pairwise(rows)]
    assert not gaps or max(gaps) - min(gaps) <= 1


# --- histograms -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("bins", [1, 7, 64])
def test_histograms_against_numpy(domain, bins):
    weight = some_weight(20, 90)
    stored = quantized(weight, domain)
    found = histogram(weight, stored, bins)
    error = (stored.dequantize() - weight).double().numpy()
    for values, limit, counts in (
        (weight.double().numpy(), found.limit, found.counts),
        (error, found.error_limit, found.error_counts),
    ):
        assert limit == np.abs(values).max()
        expected, _ = np.histogram(values, bins, (-limit, limit))
        assert list(counts) == expected.tolist() and sum(counts) == 1800


def test_a_histogram_of_zeros_is_one_column_in_the_middle():
    found = histogram(torch.zeros(2, 32), quantized(torch.zeros(2, 32)), bins=8)
    assert found.counts == found.error_counts == (0, 0, 0, 0, 64, 0, 0, 0)


# --- what is refused --------------------------------------------------------------------------------------------------

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
