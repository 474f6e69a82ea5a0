"""A beside B without a browser: what is shown, what a click opens, and what is no longer shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.session.stand_ins import GATE, TIMEOUT_S
from tests.widgets.opened import following
from workbench.errors import ConfigError
from workbench.session import open_session
from workbench.widgets.compare_map import CompareMap
from workbench.widgets.compare_panel import ComparePanel, facts_of, payload_of, verdict_of


@pytest.fixture
def panel(wire: Any) -> Iterator[ComparePanel]:
    with following(ComparePanel, open_session("demo")) as panel:
        yield panel


def click(panel: ComparePanel, command: str) -> None:
    panel.commands._handle_custom_msg({"type": "command", "command": command, "click": "c"}, [])
    assert panel.session.wait(TIMEOUT_S)


def pinned(panel: ComparePanel, **settings: Any) -> Any:
    click(panel, "pin")
    panel.session.configure(**settings)
    assert panel.session.wait(TIMEOUT_S)
    return panel.session.compare.latest


def test_pin_change_and_see_both_with_the_better_one_named(panel: ComparePanel) -> None:
    assert "Pin the present settings" in panel.map.message and not panel.commands.buttons[1]["enabled"]
    found = pinned(panel, group_size=32)
    shown = panel.map.payload
    assert shown is not None and (shown.a, shown.b) == (found.maps.a, found.maps.b)
    assert (shown.a_label, shown.b_label) == ("rtn · float · group size 64", "rtn · float · group size 32")
    assert (shown.group_size, shown.a.total_cols) == (32, 8)
    assert panel.numbers.verdict.startswith("B is better: ") and "bits per weight more" in panel.numbers.verdict
    assert panel.numbers.facts[5]["value"] == "A 4.50 · B 5.00"
    assert all(fact["value"].startswith("A ") and " · B " in fact["value"] for fact in panel.numbers.facts)
    assert not panel.map.busy and panel.commands.buttons[1]["enabled"]
    click(panel, "unpin")
    assert panel.map.payload is None and panel.numbers.facts == []


def test_a_draw_is_called_one(panel: ComparePanel) -> None:
    click(panel, "pin")
    found = panel.session.compare.latest
    assert verdict_of(found) == "A and B store the same error."
    assert {fact.hint for fact in facts_of(found)} == {"the same"}


def test_a_click_opens_the_group_in_the_microscope_and_the_mark_follows(panel: ComparePanel) -> None:
    pinned(panel, group_size=128)
    assert panel.map.payload.group_size == 64
    pick = {"type": "pick", "row": 7, "col": 3, "seq": panel.map.payload.seq}
    panel.map._handle_custom_msg(pick, [])
    assert panel.session.wait(TIMEOUT_S)
    assert panel.session.microscope.group == (7, 1), "group 3 of 64 weights lies in group 1 of 128"
    assert panel.map.marked == (7, 2), "where the microscope's group begins"
    panel.session.microscope.look_at(9, 0)
    assert panel.session.wait(TIMEOUT_S)
    assert panel.map.marked == (9, 0)


def test_a_late_click_opens_nothing(panel: ComparePanel) -> None:
    pinned(panel, group_size=128)
    before = panel.session.microscope.group
    panel.map._handle_custom_msg({"type": "pick", "row": 7, "col": 3, "seq": -1}, [])
    assert panel.session.wait(TIMEOUT_S)
    assert panel.session.microscope.group == before


def test_another_layer_takes_the_old_maps_away_before_its_own_come(panel: ComparePanel) -> None:
    pinned(panel, solver="hqq")
    seen = []
    panel.session.listen(lambda event: event.kind == "compare" and seen.append(panel.map.payload))
    panel.session.select([GATE])
    assert seen[0] is None
    assert panel.session.wait(TIMEOUT_S)
    assert panel.map.payload is not None and panel.map.payload.title == GATE


def test_weights_are_compared_column_by_column(panel: ComparePanel) -> None:
    panel.session.show(metric="dequantized")
    pinned(panel, group_size=128)
    shown = panel.map.payload
    assert shown is not None and (shown.group_size, shown.col_name, shown.a.total_cols) == (None, "input feature", 256)
    panel.map._handle_custom_msg({"type": "pick", "row": 3, "col": 200, "seq": shown.seq}, [])
    assert panel.session.wait(TIMEOUT_S)
    assert panel.session.microscope.group == (3, 1) and panel.map.marked == (3, 128)


def test_stale_or_unlike_maps_are_not_shown(panel: ComparePanel) -> None:
    found = pinned(panel, group_size=128)
    chart = CompareMap()
    assert chart.show(payload_of(found, 5)) and not chart.show(payload_of(found, 4))
    with pytest.raises(ConfigError, match="cannot be compared"):
        replace(payload_of(found, 6), b=replace(found.maps.b, total_rows=1))
    assert repr(chart) == f"CompareMap({found.name!r}, seq 5)"
