"""Points of a benchmark as a chart: which lines, which values, where dense gets faster, which path was taken."""

from __future__ import annotations

from dataclasses import replace

import pytest

from workbench.records.speed import SpeedPoint
from workbench.widgets.speed_chart import COLORS, speed_chart
from workbench.widgets.speed_panel import said


def point(path, batch, ms, **changes):
    share = 0.5 / ms  # the machine could do each in half a millisecond
    base = SpeedPoint("cpu", "a CPU", path, "bfloat16", 96, 64, 32, batch, ms, 0.9 * ms, 1.2 * ms, 7, 3.0, 2.0)
    return replace(base, roofline_share=share, **changes)


POINTS = [
    point("int4", 1, 1.0, chosen_path="op"),
    point("op", 1, 1.0),
    point("fused", 1, 4.0),
    point("dense", 1, 3.0),
    point("int4", 16, 4.0, chosen_path="fused"),
    point("op", 16, 8.0),
    point("fused", 16, 4.0),
    point("dense", 16, 2.0),
    point("int4", 1, 1.5, form="compiled", chosen_path="op"),
    point("dense", 1, 2.0, form="compiled"),
    point("int4", 1, 9.0, dtype="float32", chosen_path="op"),
]


def lines(chart):
    return {line.name: dict(zip(line.x, line.y, strict=True)) for line in chart.series}


def test_the_speedup_of_every_path_is_dense_time_over_its_own():
    chart = speed_chart(POINTS, dtype="bfloat16")
    assert lines(chart) == {
        "int4": {1: 3.0, 16: 0.5},
        "op": {1: 3.0, 16: 0.25},
        "fused": {1: 0.75, 16: 0.5},
        "int4 compiled": {1: 2.0},
        "dense compiled": {1: 1.5},
        "roofline": {1: 6.0, 16: 4.0},
    }
    first = chart.series[0]
    assert (first.low[0], first.high[0]) == (pytest.approx(3 * 0.9 / 1.2), pytest.approx(3 * 1.2 / 0.9))
    assert first.detail[0] == "1 ms · 50% of roofline"
    assert (chart.reference, chart.reference_label, chart.y_scale) == (1.0, "dense bfloat16", "log2")
    assert chart.subtitle.startswith("96 × 64, group size 32, bfloat16 · a CPU (cpu), ")


def test_times_and_shares_are_views_of_the_same_points():
    times = speed_chart(POINTS, "time", dtype="bfloat16")
    assert lines(times)["dense"] == {1: 3.0, 16: 2.0} and lines(times)["roofline"] == {1: 0.5, 16: 0.5}
    assert (times.y_scale, times.y_suffix, times.reference) == ("log10", " ms", None)
    shares = speed_chart(POINTS, "share", dtype="bfloat16")
    assert lines(shares)["int4"] == {1: 50.0, 16: 12.5} and "roofline" not in lines(shares)
    assert shares.series[0].low[0] == pytest.approx(50 / 1.2) and shares.series[0].detail[0] == "3 GB/s, 2 GFLOP/s"
    assert (shares.reference, shares.reference_label) == (100.0, "roofline")


def test_the_chosen_path_of_each_batch_is_the_ribbon_in_the_colour_of_its_line():
    chart = speed_chart(POINTS, dtype="bfloat16")
    assert [(one.x, one.label, one.color) for one in chart.ribbon] == [
        (1, "op", COLORS["op"]),
        (16, "fused", COLORS["fused"]),
    ]
    assert {line.name: line.color for line in chart.series if line.name in COLORS} == {
        "int4": 0,
        "op": COLORS["op"],
        "fused": COLORS["fused"],
    }
    assert [line.name for line in chart.series if line.strong] == ["int4"]
    assert {line.name: line.style for line in chart.series if line.style != "measured"} == {
        "int4 compiled": "variant",
        "dense compiled": "variant",
        "roofline": "bound",
    }


def test_the_crossover_is_marked_where_there_is_one_between_measured_batches():
    chart = speed_chart(POINTS, dtype="bfloat16")
    assert chart.mark == pytest.approx(16 ** (2 / 2.5)) and chart.mark_label == "dense is faster from here"
    assert speed_chart(POINTS[:4], dtype="bfloat16").mark is None, "int4 is faster wherever it was measured"
    slower = [point("int4", 4, 2.0), point("dense", 4, 1.0)]
    assert speed_chart(slower, dtype="bfloat16").mark is None, "dense is faster at all of them"
    assert speed_chart(POINTS, "share", dtype="bfloat16").mark is None


def test_another_dtype_has_its_own_chart():
    chart = speed_chart(POINTS, "time", dtype="float32")
    assert lines(chart) == {"int4": {1: 9.0}, "roofline": {1: 0.5}}
    assert lines(speed_chart(POINTS, dtype="float32"))["int4"] == {}, "nothing to compare with"
    nothing = speed_chart(POINTS, dtype="float16", x_ticks=(1, 4), empty="press")
    assert nothing.series == () and nothing.x_ticks == (1.0, 4.0) and nothing.empty == "press"
    assert "float16" in nothing.subtitle and nothing.ribbon == ()


def test_without_a_roofline_there_is_none_in_the_chart():
    bare = [replace(one, roofline_share=None) for one in POINTS]
    assert "roofline" not in lines(speed_chart(bare, dtype="bfloat16"))
    assert all(line.x == () for line in speed_chart(bare, "share", dtype="bfloat16").series)
    assert speed_chart(bare, dtype="bfloat16").series[0].detail[0] == "1 ms"


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({1: 1.0, 16: 1.0}, "int4 is at least as fast as dense bfloat16 at every batch size measured, 1 to 16."),
        ({1: 1.0, 16: 8.0}, "int4 is faster than dense bfloat16 up to a batch of about 5."),
        ({1: 1.0, 16: 8.0, 64: 1.0}, "int4 is faster than dense bfloat16 up to a batch of about 5, and at 64."),
        ({1: 8.0, 16: 8.0}, "dense bfloat16 is faster from batch 1 on."),
        ({1: 8.0, 16: 1.0}, "dense bfloat16 is faster from batch 1 on, but not at 16."),
    ],
)
def test_the_verdict_names_every_batch_at_which_int4_is_faster(times, expected):
    points = [point("int4", batch, ms, chosen_path="op") for batch, ms in times.items()]
    assert said([*points, *(point("dense", batch, 2.0) for batch in times)], "bfloat16") == expected
