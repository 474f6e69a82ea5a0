"""Parts of a view at full size: the values themselves, aligned, bounded, and never of what was on show before."""

from __future__ import annotations

import pytest
import torch

from tests.session.stand_ins import TIMEOUT_S, Heard, closing, toy
from workbench.errors import ConfigError
from workbench.measure.error_map import METRICS, map_values
from workbench.session import Session
from workbench.session.zoom import MAX_CELLS, fitting_spans
from workbench.solvers import solve

SHAPE = (1200, 600)


@pytest.fixture(scope="module")
def source():
    return toy("a", "b", shape=SHAPE)


@pytest.fixture
def session(source):
    with closing(Session(source)) as session:
        yield session


def shown(session, **settings):
    heard = Heard(session)
    session.show(**settings)
    assert session.wait(TIMEOUT_S)
    return heard.of("view")[-1], heard


def values_of(block):
    high = -(-(block.rows[1] - block.rows[0]) // block.row_span)
    return torch.frombuffer(bytearray(block.values), dtype=torch.float32).view(high, -1)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("rows", "columns"), [((100, 333), (2, 7)), ((0, 1200), (9, 10)), ((1199, 1200), (0, 1))])
def test_a_small_part_comes_as_it_is(session, source, metric, rows, columns):
    view, heard = shown(session, metric=metric)
    if metric in ("original", "dequantized"):
        columns = (columns[0] * 20, columns[1] * 20)
    job = session.zoom.look(view, rows, columns, turn=7)
    assert session.wait(TIMEOUT_S)
    (block,) = heard.of("zoom")
    assert (block.row_span, block.column_span, block.turn, job.state) == (1, 1, 7, "done")
    weight = source.weights["a"]
    whole = map_values(weight, solve(weight, view.config).weight, metric)
    assert torch.equal(values_of(block), whole[slice(*rows), slice(*columns)])


@pytest.mark.parametrize("reduce", ["max", "mean"])
def test_a_large_part_is_reduced_on_its_grid_within_the_bound(session, source, reduce):
    view, heard = shown(session, metric="original", reduce=reduce)
    session.zoom.look(view, (101, 501), (7, 307))
    assert session.wait(TIMEOUT_S)
    (block,) = heard.of("zoom")
    down, across = block.row_span, block.column_span
    assert down * across > 1 and len(block.values) <= 4 * MAX_CELLS
    assert block.rows[0] % down == 0 and block.columns[0] % across == 0
    assert block.rows[0] <= 101 and block.rows[1] >= 501 and block.columns[0] <= 7 and block.columns[1] >= 307
    part = source.weights["a"][slice(*block.rows), slice(*block.columns)]
    cell = part[2 * down : 3 * down, across : 2 * across].flatten().tolist()
    expected = max(cell, key=abs) if reduce == "max" else sum(cell) / len(cell)
    assert float(values_of(block)[2, 1]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (512, 64), (4096, 4096), (100_000, 3), (3, 100_000)])
def test_spans_fit_and_half_of_them_would_not(rows, columns):
    down, across = fitting_spans((0, rows), (0, columns))
    assert -(-rows // down) * -(-columns // across) <= MAX_CELLS
    assert down * across == 1 or rows * columns / (down * across) > MAX_CELLS / 4


def test_what_is_at_full_size_already_is_not_asked_again(session):
    view, heard = shown(session, metric="rmse")
    small = toy("a", shape=(20, 128))
    other = Session(small)
    tiny, _ = shown(other, metric="rmse")
    assert other.zoom.look(tiny, (0, 10), (0, 1)) is None
    assert session.zoom.look(view, (0, 100), (0, 4)) is not None
    assert session.wait(TIMEOUT_S) and len(heard.of("zoom")) == 1


def test_places_that_there_are_not_are_refused(session):
    view, _ = shown(session, metric="rmse")
    for rows, columns in (((0, 1201), (0, 1)), ((-1, 5), (0, 1)), ((5, 5), (0, 1)), ((0, 5), (9, 11))):
        with pytest.raises(ConfigError, match="The view has no"):
            session.zoom.look(view, rows, columns)


def test_a_part_of_what_was_on_show_before_is_not_told(session):
    view, heard = shown(session, metric="rmse")
    session.configure(group_size=128)
    session.zoom.look(view, (0, 100), (0, 4))
    session.select(["b"])
    assert session.wait(TIMEOUT_S)
    assert heard.of("zoom") == []
