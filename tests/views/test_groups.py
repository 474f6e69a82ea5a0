"""A group under the microscope: which one is taken, what is read for it, and what comes first."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.session.stand_ins import Toy
from workbench.config import Int4WeightOnlyConfig
from workbench.errors import Cancelled, ConfigError, WeightError
from workbench.measure.error_map import METRICS
from workbench.measure.group_errors import GROUP_METRICS, group_errors
from workbench.measure.microscope import microscope
from workbench.solvers import solve
from workbench.sources import ModelSource
from workbench.views import groups as group_views
from workbench.views.cache import ViewCache
from workbench.views.groups import Block, iter_group_views
from workbench.views.views import iter_layer_views

SHAPE = (6, 200)
CONFIG = Int4WeightOnlyConfig(group_size=64).resolved("cpu")


def source(seed=1):
    torch.manual_seed(seed)
    return Toy({"a": torch.randn(SHAPE)})


def views(given, block, **settings):
    return list(iter_group_views(given, "a", CONFIG, block, **settings))


# --- blocks -------------------------------------------------------------------------------------------------------


def test_a_block_is_the_whole_layer_unless_it_is_told_otherwise():
    assert Block.of(SHAPE, 64) == Block((0, 6), (0, 4), 6, 4)
    assert Block.of(SHAPE, 64, rows=(2, 3)) == Block((2, 3), (0, 4), 6, 4)
    assert Block.of(SHAPE, 64, rows=(2, 3), groups=(3, 4)).count == 1
    assert Block.of(SHAPE, 64, groups=(1, 3)).count == 12


@pytest.mark.parametrize(
    ("rows", "groups", "message"),
    [
        ((6, 7), None, "no row 6. Allowed: 0 to 5"),
        ((-1, 0), None, "no row -1"),
        (None, (4, 5), "no group 4. Allowed: 0 to 3"),
        (None, (1, 9), "no group 1 to 8"),
        ((3, 3), None, "no row 3 to 2"),
    ],
)
def test_places_that_there_are_not_are_refused(rows, groups, message):
    with pytest.raises(ConfigError, match=message):
        Block.of(SHAPE, 64, rows, groups)


@pytest.mark.parametrize(
    ("rows", "groups", "metric", "text"),
    [
        (None, None, "rmse", "worst group of the layer by RMS error"),
        ((0, 2), (0, 2), "max", "worst of 4 groups by largest |error|"),
        ((0, 2), (0, 2), "scale", "first group of 4 groups"),
        (None, None, "original", "first group of the layer"),
        ((1, 2), (1, 2), "rmse", ""),
    ],
)
def test_how_a_group_was_chosen_is_said(rows, groups, metric, text):
    assert Block.of(SHAPE, 64, rows, groups).chosen(metric) == text


# --- which one ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("rows", "groups"), [(None, None), ((1, 4), None), ((2, 6), (1, 3)), ((0, 1), (3, 4))])
def test_the_worst_of_a_block_by_looking_at_each(metric, rows, groups):
    given = source()
    (view,) = views(given, Block.of(SHAPE, 64, rows, groups), metric=metric)
    weight = given.weights["a"]
    (first, stop), (left, right) = rows or (0, 6), groups or (0, 4)
    inside = [(row, group) for row in range(first, stop) for group in range(left, right)]
    expected = inside[0]
    if metric in GROUP_METRICS and metric not in ("scale", "zero"):
        errors = group_errors(weight, solve(weight, CONFIG).weight, metric)
        expected = (min if metric == "sqnr" else max)(inside, key=lambda at: float(errors[at]))
    assert (view.microscope.row, view.microscope.group) == expected
    assert view.microscope == microscope(weight, *expected, CONFIG, name="a")
    assert (view.total_rows, view.total_groups, view.complete) == (6, 4, True)


def test_a_solved_layer_of_the_cache_is_not_solved_again(monkeypatch):
    given, cache = source(), ViewCache()
    list(iter_layer_views(given, "a", CONFIG, cache=cache))
    monkeypatch.setattr(group_views, "solve", None)
    (view,) = views(given, Block.of(SHAPE, 64), cache=cache)
    assert view.chosen


# --- what is read -------------------------------------------------------------------------------------------------


class Rows(Toy):
    """A source that reads rows, and notes what is read."""

    def __init__(self, weights):
        super().__init__(weights)
        self.read = []

    def rows(self, name, start, stop):
        self.read.append((start, stop))
        return self.weights[name][start:stop]

    def weight(self, name):
        self.read.append("all")
        return super().weight(name)


def test_no_more_rows_are_read_than_are_looked_at():
    given = Rows(source().weights)
    views(given, Block.of(SHAPE, 64, (4, 5), (1, 2)))
    assert given.read == [(4, 5)]
    (view,) = views(given, Block.of(SHAPE, 64, (2, 5), (1, 2)))
    row = view.microscope.row
    assert given.read[1:] == [(2, 5), (row, row + 1)]


# --- statistics, and bad input ------------------------------------------------------------------------------------


def test_the_data_free_variants_come_first_when_there_are_statistics(monkeypatch):
    asked = []

    def fake(rows, row, group, config, *, statistics, **others):
        asked.append(statistics)
        return microscope(rows, row, group, config, **others)

    monkeypatch.setattr(group_views, "microscope", fake)
    moments = object()
    first, second = views(source(), Block.of(SHAPE, 64, (0, 1), (0, 1)), statistics=moments)
    assert asked == [None, moments]
    assert (first.complete, second.complete) == (False, True)
    assert len(views(source(), Block.of(SHAPE, 64, (0, 1), (0, 1)))) == 1


def test_nan_is_named_by_layer_and_position():
    given = source()
    given.weights["a"][2, 70] = torch.nan
    with pytest.raises(WeightError, match=r"a\[2, 70\] is nan"):
        views(given, Block.of(SHAPE, 64, (2, 3), (1, 2)))
    with pytest.raises(WeightError, match=r"a\[2, 70\] is nan"):
        views(given, Block.of(SHAPE, 64))
    assert views(given, Block.of(SHAPE, 64, (2, 3), (0, 1)))


def test_it_stops_when_it_is_told_to():
    cancel = threading.Event()
    cancel.set()
    for block in (Block.of(SHAPE, 64), Block.of(SHAPE, 64, (0, 1), (0, 1))):
        with pytest.raises(Cancelled):
            views(source(), block, cancel=cancel)


def test_a_weight_that_was_trained_meanwhile_is_not_taken_from_the_cache():
    model = nn.Sequential(nn.Linear(200, 6, bias=False))
    live, cache = ModelSource(model), ViewCache()
    list(iter_layer_views(live, "0", CONFIG, cache=cache))
    with torch.no_grad():
        model[0].weight[3, 10] = 9.0
    (view,) = iter_group_views(live, "0", CONFIG, Block.of(SHAPE, 64), cache=cache)
    assert (view.microscope.row, view.microscope.group) == (3, 0)


def test_settings_that_change_no_values_find_the_same_solved_layer():
    cache = ViewCache()
    list(iter_layer_views(source(), "a", CONFIG, cache=cache))
    other = replace(CONFIG, inner_k_tiles=2, notes=())
    (view,) = iter_group_views(source(), "a", other, Block.of(SHAPE, 64), cache=cache)
    assert view.config is other
