"""The table of paths: the choice is a function of it alone."""

import math

import pytest

from workbench.errors import WorkbenchError
from workbench.paths import DEFAULTS, PATHS, MeasuredPath, PathTable, choose_path

SHAPE = {"dtype": "bfloat16", "n": 4096, "k": 4096, "group_size": 64}
MACHINE = {"device": "a processor", "torch": "2.13"}


def point(batch, path, time_ms, **changes):
    return MeasuredPath(**{**SHAPE, **changes}, batch=batch, path=path, time_ms=time_ms)


def table(*points):
    return PathTable("cpu/dequantize", MACHINE, points)


@pytest.mark.parametrize("kind", DEFAULTS)
def test_defaults_cover_every_batch(kind):
    steps = DEFAULTS[kind]
    assert steps[-1][0] == math.inf
    assert [up_to for up_to, _ in steps] == sorted(up_to for up_to, _ in steps)
    for batch in (1, 2, 7, 64, 513, 10**9):
        assert choose_path(PathTable(kind), **SHAPE, batch=batch) in PATHS


@pytest.mark.parametrize(
    ("batch", "path"), [(1, "fused"), (2, "fused"), (6, "fused"), (512, "fused"), (513, "dequantize")]
)
def test_the_defaults_of_a_machine_with_a_matrix_unit(batch, path):
    assert choose_path(PathTable("cpu/amx"), **SHAPE, batch=batch) == path


def test_the_fastest_measured_path_is_taken_and_changes_where_times_meet():
    found = table(point(1, "op", 1), point(1, "dequantize", 4), point(16, "op", 16), point(16, "dequantize", 4))
    assert [choose_path(found, **SHAPE, batch=batch) for batch in (1, 3, 4, 5, 16, 1000)] == [
        *("op", "op", "op"),
        *("dequantize", "dequantize", "dequantize"),
    ]


def test_a_path_that_was_not_measured_at_both_ends_changes_in_the_middle():
    found = table(point(1, "op", 1), point(16, "fused", 4))
    assert choose_path(found, **SHAPE, batch=4) == "op"
    assert choose_path(found, **SHAPE, batch=5) == "fused"


def test_a_disturbed_time_does_not_break_the_order_of_the_paths():
    op = {1: 1, 2: 2, 4: 4, 8: 8, 16: 16, 32: 32, 64: 5}  # the last one was disturbed
    dense = {1: 4, 2: 4, 4: 4.5, 8: 5, 16: 5.5, 32: 6, 64: 7}
    measured = {"op": op, "dequantize": dense}
    found = table(*(point(batch, path, time) for path, times in measured.items() for batch, time in times.items()))
    (up_to, first), (_, then) = found.steps("bfloat16", 4096, 4096, 64)
    assert (first, then) == ("op", "dequantize")
    assert 4 < up_to < 8


def test_it_prints_as_sentences():
    assert str(PathTable("cpu/amx")) == (
        "int4 paths: built-in defaults; wb.tune() measures this machine\n"
        "all shapes: fused up to a batch of 512, dequantize beyond"
    )
    found = PathTable("cuda", MACHINE, (point(1, "op", 1), point(16, "fused", 4)), "measured")
    assert str(found).splitlines() == [
        "int4 paths: measured",
        "4096 × 4096, group size 64, bfloat16: op up to a batch of 4, fused beyond",
        "all other shapes: op up to a batch of 64, dequantize beyond",
    ]
    assert str(table(point(1, "op", 1))).splitlines()[1].endswith("op at every batch")


def test_of_equally_fast_paths_none_is_preferred():
    batches = (1, 2, 4, 8, 16)
    found = table(*(point(batch, path, 1.0) for batch in batches for path in ("fused", "op")))
    assert [choose_path(found, **SHAPE, batch=batch) for batch in batches] == ["op", "op", "op", "fused", "fused"]


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({}, "fused"),
        ({"n": 16384, "k": 1024}, "fused"),
        ({"group_size": 256}, "fused"),
        ({"n": 16385}, "op"),
        ({"k": 1000}, "op"),
        ({"dtype": "float32"}, "op"),
    ],
)
def test_a_shape_speaks_for_near_ones_of_its_dtype(changes, path):
    assert choose_path(table(point(1, "fused", 1)), **{**SHAPE, **changes}, batch=1) == path


def test_the_nearest_shape_speaks():
    found = table(point(1, "fused", 1), point(1, "dequantize", 1, n=1024), point(1, "op", 1, group_size=128))
    assert choose_path(found, **{**SHAPE, "n": 1500}, batch=1) == "dequantize"
    assert choose_path(found, **{**SHAPE, "group_size": 256}, batch=1) == "op"


def test_a_table_of_unknown_kind_is_refused():
    with pytest.raises(WorkbenchError, match=r"kind='abacus'.*cpu/amx"):
        PathTable("abacus")
