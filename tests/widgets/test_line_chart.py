"""Line chart without a browser: what is refused, and points as they come."""

from __future__ import annotations

import json
import math

import pytest

from workbench.errors import ConfigError
from workbench.widgets.line_chart import Chart, Choice, LineChart, Series


@pytest.mark.parametrize(
    "make",
    [
        lambda: Series("a", (1, 2), (1.0,)),
        lambda: Series("a", (1,), (math.nan,)),
        lambda: Series("a", (1,), (1.0,), low=(math.inf,)),
        lambda: Series("a", (1,), (1.0,), detail=("x", "y")),
        lambda: Chart(series=(Series("a"), Series("a"))),
        lambda: Chart(series=tuple(Series(str(i)) for i in range(9))),
        lambda: Chart(series=(Series("a", (0,), (1.0,)),)),
        lambda: Chart(series=(Series("a", (1,), (0.0,)),), y_scale="log10"),
        lambda: Chart(reference=0.0, y_scale="log2"),
        lambda: Chart(x_ticks=(0, 1)),
        lambda: Chart(mark=0.0),
        lambda: Chart(ribbon=(Choice(0, "op", 1),)),
    ],
)
def test_what_cannot_be_drawn_is_refused(make) -> None:
    with pytest.raises(ConfigError):
        make()


def test_points_are_added_in_order_and_replaced(wire) -> None:
    chart = LineChart(Chart(series=(Series("int4"), Series("bf16"))))
    wire.clear()
    chart.add_point("int4", 16, 1.5, detail="30 runs")
    chart.add_point("int4", 1, 3.0)
    chart.add_point("int4", 4, 2.0, low=1.9, high=2.2)
    chart.add_point("int4", 16, 1.25)
    line = chart.chart.series[0]
    assert line.x == (1, 4, 16)
    assert line.y == (3.0, 2.0, 1.25)
    assert line.low == (None, 1.9, None) and line.high == (None, 2.2, None)
    assert line.detail == ("", "", "")
    assert chart.chart.series[1].x == ()
    assert [len(state["_chart"]["series"][0]["x"]) for state in wire.states] == [1, 2, 3, 3]
    assert len(json.dumps(wire.states[-1], allow_nan=False)) < 2000


def test_a_point_of_an_unknown_series_is_refused(wire) -> None:
    chart = LineChart(Chart(series=(Series("int4"),)))
    with pytest.raises(ConfigError, match="int8"):
        chart.add_point("int8", 1, 1.0)
    with pytest.raises(ConfigError, match="nan"):
        chart.add_point("int4", 1, math.nan)
    assert chart.chart.series[0].x == ()


def test_repr_and_unknown_keywords(wire) -> None:
    chart = LineChart(Chart(title="Speedup", series=(Series("int4", (1,), (2.0,)),)))
    assert repr(chart) == "LineChart('Speedup', 1 series, 1 points)"
    with pytest.raises(ConfigError, match="width"):
        LineChart(width=3)


def test_the_ribbon_the_mark_and_the_looks_reach_the_page(wire) -> None:
    line = Series("int4", (1, 4), (2.0, 1.0)).styled("variant", 3, strong=True)
    chart = LineChart(Chart((line,), mark=2.5, mark_label="here", ribbon=(Choice(1, "op", 1),), ribbon_label="path"))
    sent = json.loads(json.dumps(chart._chart))
    assert (sent["mark"], sent["mark_label"], sent["ribbon_label"]) == (2.5, "here", "path")
    assert sent["ribbon"] == [{"x": 1, "label": "op", "color": 1}]
    assert {key: sent["series"][0][key] for key in ("style", "color", "strong")} == {
        "style": "variant",
        "color": 3,
        "strong": True,
    }
