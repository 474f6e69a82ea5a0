"""Tabs without a browser: which one is selected, and what is refused."""

from __future__ import annotations

import pytest

from workbench.errors import ConfigError
from workbench.widgets.tabs import Tab, Tabs

TABS = [Tab("layers", "Layers"), Tab("speed", "Speed", "Kernels by batch size"), Tab("export", "Export")]


def test_the_first_is_selected_and_the_page_may_select_another(wire) -> None:
    tabs = Tabs(TABS)
    assert tabs.selected == "layers"
    wire.clear()
    tabs.set_state({"selected": "speed"})
    assert tabs.selected == "speed"
    assert wire.customs == []
    assert "speed" in repr(tabs)


def test_badges_come_and_go() -> None:
    tabs = Tabs(TABS)
    tabs.badge("speed", "3.1×")
    tabs.badge("export", "saved")
    tabs.badge("speed", "")
    assert tabs.badges == {"export": "saved"}


@pytest.mark.parametrize("tabs", [[], [Tab("a", "A"), Tab("a", "B")]])
def test_tabs_that_cannot_be_told_apart_are_refused(tabs: list[Tab]) -> None:
    with pytest.raises(ConfigError, match="Tabs"):
        Tabs(tabs)


def test_a_tab_that_is_not_there_is_refused() -> None:
    tabs = Tabs(TABS)
    with pytest.raises(ConfigError, match=r"no tab 'other'.*layers, speed, export"):
        tabs.selected = "other"
    assert tabs.selected == "layers"
