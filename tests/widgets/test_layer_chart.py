"""Errors across layers without a browser: what is sent, what a click does, and what a recipe leaves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.session.stand_ins import EMBEDDING, GATE, TIMEOUT_S, UP
from workbench.errors import ConfigError
from workbench.session import open_session
from workbench.widgets.component import log_error
from workbench.widgets.layer_chart import LayerChart, block_of, families_of
from workbench.widgets.layer_errors_panel import LayerErrorsPanel


def test_families_are_the_ends_of_names_and_blocks_their_first_number() -> None:
    names = ["model.layers.0.mlp.up_proj", "model.layers.12.mlp.up_proj", "h.3.experts.0", "lm_head"]
    assert families_of(names) == ["up_proj", "up_proj", "experts", "lm_head"]
    assert [block_of(name) for name in names] == ["0", "12", "3", ""]
    many = [f"part{i}" for i in range(10)] + ["part9"]
    assert families_of(many)[-2:] == ["part9", "part9"] and families_of(many).count("other") == 2


def test_one_value_is_one_small_message_and_a_late_page_has_it_too(wire: Any) -> None:
    chart = LayerChart()
    names = [f"layers.{i}.up" for i in range(2000)]
    chart.show(names, {names[3]: 0.5})
    wire.clear()
    chart.update({names[7]: 0.25, names[8]: float("inf")})
    assert wire.customs == [{"type": "update", "places": [7, 8], "values": [0.25, None]}]
    assert wire.states == []
    assert chart.values == {names[3]: 0.5, names[7]: 0.25}
    assert chart.get_state()["_layers"]["values"][7] == 0.25
    assert repr(chart) == "LayerChart('', 2 of 2000 layers)"


def test_layers_that_there_are_not_are_refused(wire: Any) -> None:
    seen: list[Exception] = []
    chart = LayerChart(on_error=lambda error, _where: seen.append(error))
    chart.show(["a"], {})
    for wrong in (
        lambda: chart.update({"b": 1.0}),
        lambda: chart.show(["a"], {"b": 1.0}),
        lambda: chart.show("aa", {}),
    ):
        with pytest.raises(ConfigError):
            wrong()
    chart._handle_custom_msg({"type": "pick", "name": "b"}, [])
    assert "no layer 'b'" in str(seen[0])


@pytest.fixture
def panel(wire: Any) -> Iterator[LayerErrorsPanel]:
    session = open_session("demo")
    panel = LayerErrorsPanel(session, log_error)
    session.listen(panel.on_event)
    yield panel
    session.cancel()
    assert session.wait(TIMEOUT_S)
    panel.close()


def test_it_fills_as_layers_are_solved(panel: LayerErrorsPanel) -> None:
    session = panel.session
    session.refresh()
    assert session.wait(TIMEOUT_S)
    assert list(panel.chart.values) == [session.current]
    counts: list[int] = []
    session.listen(lambda event: event.kind == "error" and counts.append(len(panel.chart.values)))
    session.sweep_errors()
    assert session.wait(TIMEOUT_S)
    assert counts == sorted(counts) and len(set(counts)) > 40
    expected = {row.name: session.errors[row.name].summary.relative_rmse for row in session.coverage.int4_rows}
    assert panel.chart.values == expected
    assert panel.chart.subtitle == "42 of 42 int4 layers solved under this recipe"
    assert not panel.chart.busy
    panel.form.change("measure", "sqnr_db")
    assert panel.chart.values[GATE] == session.errors[GATE].summary.sqnr_db
    assert (panel.chart.y_log, panel.chart.y_suffix) == (False, " dB")


def test_a_new_recipe_takes_away_what_it_made_false(panel: LayerErrorsPanel) -> None:
    session = panel.session
    session.select([GATE])
    session.select([UP])
    assert session.wait(TIMEOUT_S)
    assert UP in panel.chart.values
    session.configure(group_size=128)
    assert session.wait(TIMEOUT_S)
    assert list(panel.chart.values) == [UP]
    session.keep_dense("layer")
    assert session.wait(TIMEOUT_S)
    assert panel.chart.values == {} and UP not in panel.chart._places


def test_a_click_puts_the_layer_on_show_and_the_selection_is_followed(panel: LayerErrorsPanel) -> None:
    panel.chart._handle_custom_msg({"type": "pick", "name": GATE}, [])
    assert (panel.session.current, panel.chart.current, panel.chart.selected) == (GATE, GATE, [GATE])
    panel.session.select([UP, GATE])
    assert panel.chart.selected == [GATE, UP]
    panel.session.select([EMBEDDING])
    assert panel.chart.current == EMBEDDING
