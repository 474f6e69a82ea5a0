"""Histograms without a browser: what is refused, what is sent."""

from __future__ import annotations

from typing import Any

import pytest

from workbench.errors import ConfigError
from workbench.widgets.bars import BarChart, Bars


@pytest.mark.parametrize(
    "changes",
    [
        {"counts": (1,) * 513},
        {"outline": (1.0,)},
        {"counts": (1, -1)},
        {"outline": (1.0, float("nan"))},
        {"low": 1.0},
        {"high": float("inf")},
    ],
)
def test_charts_that_cannot_be_drawn_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        BarChart(**({"counts": (1, 2), "low": -1.0, "high": 1.0} | changes))


def test_a_chart_is_one_message_and_the_page_keeps_its_axis(wire: Any) -> None:
    bars = Bars()
    wire.clear()
    bars.show(BarChart((1, 2, 3), title="Errors"))
    assert [state["_chart"]["counts"] for state in wire.states] == [(1, 2, 3)]
    bars.set_state({"log": False})
    bars.show(BarChart((4, 5, 6), title="Errors"))
    assert not bars.log and bars.chart.counts == (4, 5, 6)
    assert repr(bars) == "Bars('Errors', 3 bins)"
