"""Pictures against what they were made from."""

from __future__ import annotations

import math

import pytest
import torch

from tests.measure.weights import DOMAINS, quantized, some_weight
from workbench.measure.error_map import METRICS, error_map, picture_of
from workbench.measure.errors import error_summary
from workbench.measure.group_errors import group_errors
from workbench.measure.pictures import reduce_to
from workbench.records.errors import ErrorMap

SIGNED = ("zero", "original", "dequantized")


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
    picture = picture_of(values, "rmse", limits=(least / 2, 2 * greatest))
    assert (picture.lo, picture.hi, picture.log) == (least / 2, 2 * greatest, True)


def test_huge_and_tiny_weights_do_not_overflow_the_sums():
    for magnitude in (3e38, 1e-40):
        weight = some_weight(2, 64) / 0.3 * magnitude
        stored = quantized(weight)
        assert math.isfinite(error_summary(weight, stored).rmse)
        for metric in METRICS:
            picture = error_map(weight, stored, metric=metric)
            assert torch.isfinite(decoded(picture)).all() and picture.lo < picture.hi


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
