"""The microscope without a browser: what is sent, what a page asks for, and the panel over a session."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.session.stand_ins import Toy
from tests.widgets.opened import opened
from workbench.config import Int4WeightOnlyConfig
from workbench.errors import ConfigError
from workbench.hf.loading import demo_model
from workbench.measure.microscope import VARIANTS, microscope
from workbench.measure.sampling import sampled_rows
from workbench.records.microscope import Microscope
from workbench.views.views import iter_layer_views
from workbench.widgets.app import Workbench
from workbench.widgets.errors_panel import block_of
from workbench.widgets.heatmap import HeatCell
from workbench.widgets.microscope import MicroscopeView, payload_of

LAYER = "model.layers.0.self_attn.q_proj"


def seen(row: int = 1, group: int = 2, **settings: Any) -> Microscope:
    torch.manual_seed(2)
    config = Int4WeightOnlyConfig(group_size=64).resolved("cpu")
    return microscope(torch.randn(3, 192), row, group, config, name="layer", **settings)


def show(view: MicroscopeView, found: Microscope, **settings: Any) -> bool:
    return view.show(found, **({"total_rows": 3, "total_groups": 3} | settings))


# --- the component ------------------------------------------------------------------------------------------------


def test_the_payload_is_the_record_in_plain_json(wire: Any) -> None:
    view, found = MicroscopeView(), seen()
    assert show(view, found, chosen="worst of all")
    (state,) = [state for state in wire.states if state.get("_payload")]
    payload = json.loads(json.dumps(state["_payload"], allow_nan=False))
    assert (payload["name"], payload["row"], payload["group"], payload["first_column"]) == ("layer", 1, 2, 128)
    assert (payload["chosen"], payload["total_rows"], payload["total_groups"]) == ("worst of all", 3, 3)
    assert tuple(payload["weights"]) == found.weights
    assert len(payload["variants"]) == len(found.solved) == 10
    for sent, variant in zip(payload["variants"], found.solved, strict=True):
        assert (sent["domain"], sent["preserve_zero"], sent["solver"]) == (
            variant.domain,
            variant.preserve_zero,
            variant.solver,
        )
        assert tuple(sent["levels"]) == variant.levels
        assert tuple(int(digit, 16) for digit in sent["codes"]) == variant.codes
        assert (sent["rms"], sent["mean_abs_ratio"]) == (variant.rms, variant.mean_abs_ratio)
        assert (sent["bits"], sent["zero_level"]) == (variant.bits_per_weight, variant.zero_level)
    assert [sent["current"] for sent in payload["variants"]] == [True] + [False] * 9
    assert payload["missing"][0] == ["calibrated", "needs a text run through the model, for the layer's inputs"]
    assert len(json.dumps(payload)) < 30_000


def test_a_ratio_to_an_exact_one_is_sent_as_none() -> None:
    found = seen()
    worse = replace(found.variants[0], rms_ratio=math.inf)
    payload = payload_of(replace(found, variants=(worse,)))
    assert payload["variants"][0]["rms_ratio"] is None


def test_variants_that_were_not_asked_for_are_not_there() -> None:
    payload = payload_of(seen(variants=VARIANTS[:1]))
    assert len(payload["variants"]) == 1 and payload["missing"] == []


def test_older_ones_are_dropped_and_clear_begins_anew(wire: Any) -> None:
    view = MicroscopeView()
    assert show(view, seen(0), seq=5)
    assert not show(view, seen(1), seq=4)
    assert view.microscope is not None and view.microscope.row == 0
    view.clear("Nothing here.")
    assert (view.microscope, view.message, view._payload) == (None, "Nothing here.", {})
    assert show(view, seen(2), seq=1)
    assert view.message == ""


def test_the_page_asks_for_a_group_and_is_answered(wire: Any) -> None:
    errors: list[Exception] = []
    view = MicroscopeView(on_error=lambda error, _where: errors.append(error))
    asked: list[Any] = []
    view.on_look(lambda row, group: asked.append((row, group)))
    view.on_worst(lambda: asked.append("worst"))
    view._handle_custom_msg({"type": "look", "row": 2, "group": 1, "turn": 7}, [])
    view._handle_custom_msg({"type": "worst"}, [])
    assert asked == [(2, 1), "worst"]
    assert wire.customs == [{"type": "ack", "turn": 7, "refused": False}]
    for nonsense in ({"row": 1.5, "group": 0}, {"row": None, "group": 0}, {"row": True, "group": 0}, {"row": 0}):
        view._handle_custom_msg({"type": "look", "turn": 8, **nonsense}, [])
    assert len(asked) == 2
    assert [type(error) for error in errors] == [ConfigError] * 4
    assert "whole number" in str(errors[0])
    assert wire.customs[1:] == [{"type": "ack", "turn": 8, "refused": True}] * 4, "so that the fields show what holds"
    for other in ("text", None, {}, {"type": "else"}):
        view._handle_custom_msg(other, [])
    assert len(errors) == 4


def test_repr_is_cheap_and_unknown_keywords_are_refused(wire: Any) -> None:
    view = MicroscopeView()
    assert repr(view) == "MicroscopeView(empty)"
    show(view, seen())
    assert repr(view) == "MicroscopeView('layer', row 1, group 2, 10 variants)"
    with pytest.raises(ConfigError, match="width"):
        MicroscopeView(width=3)


# --- the panel in the app -----------------------------------------------------------------------------------------


@pytest.fixture
def app(wire: Any) -> Iterator[Workbench]:
    with opened() as app:
        yield app


def click(app: Workbench, row: int, group: int) -> None:
    """Select a cell of the heatmap as a page does."""
    app.errors.heatmap.set_state({"selected": [row, group]})
    assert app.wait(30)


def test_it_opens_on_the_worst_group_which_the_heatmap_marks(app: Workbench) -> None:
    view = app.microscope.view
    assert view.microscope is not None and view.microscope == app.session.microscope.latest.microscope
    assert view.microscope.name == LAYER
    assert view._payload["chosen"] == "worst group of the layer by RMS error"
    assert app.errors.heatmap.selected == app.session.microscope.group
    assert not view.busy


def test_a_click_on_a_cell_opens_its_group(app: Workbench) -> None:
    click(app, 9, 3)
    assert app.session.microscope.group == (9, 3)
    assert (app.microscope.view.microscope.row, app.microscope.view.microscope.group) == (9, 3)
    click(app, 0, 0)
    assert app.session.microscope.group == (0, 0)


def test_arrows_and_fields_move_the_mark(app: Workbench) -> None:
    app.microscope.view._handle_custom_msg({"type": "look", "row": 5, "group": 1, "turn": 1}, [])
    assert app.wait(30)
    assert app.session.microscope.group == app.errors.heatmap.selected == (5, 1)
    app.microscope.view._handle_custom_msg({"type": "worst"}, [])
    assert app.wait(30)
    assert app.microscope.view._payload["chosen"].startswith("worst group of the layer")
    assert app.errors.heatmap.selected == app.session.microscope.group != (5, 1)


def test_a_place_that_there_is_not_is_said_under_the_view(app: Workbench) -> None:
    before = app.session.microscope.group
    app.microscope.view._handle_custom_msg({"type": "look", "row": 9999, "group": 0, "turn": 1}, [])
    assert "The layer has no row 9999" in app.status.problems[0]["text"]
    assert app.session.microscope.group == before


def test_columns_of_the_weights_themselves_open_their_group(app: Workbench) -> None:
    app.errors.form.change("metric", "original")
    assert app.wait(30)
    assert app.errors.heatmap.selected == (app.session.microscope.group[0], 64 * app.session.microscope.group[1])
    click(app, 12, 130)
    assert app.session.microscope.group == (12, 2)


def test_settings_and_layers_are_followed(app: Workbench) -> None:
    click(app, 9, 3)
    app.session.configure(group_size=128)
    assert app.wait(30)
    assert app.microscope.view.microscope.first_column == 128
    assert app.errors.heatmap.selected == (9, 1)
    app.session.select(["model.layers.0.mlp.down_proj"])
    assert app.wait(30)
    assert app.microscope.view.microscope.name == "model.layers.0.mlp.down_proj"
    app.session.select(["model.embed_tokens"])
    assert app.wait(30)
    assert app.microscope.view.microscope is None
    assert "Pick a linear layer" in app.microscope.view.message
    app.session.select([LAYER])
    assert app.wait(30)
    assert app.microscope.view.microscope.name == LAYER and app.microscope.view.message == ""


def test_a_problem_takes_the_picture_away(wire: Any) -> None:
    model, tokenizer = demo_model()
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.weight[2, 7] = torch.nan
    app = Workbench(model, tokenizer)
    assert app.wait(30)
    assert app.microscope.view.microscope is None
    assert "[2, 7] is nan" in app.microscope.view.message
    assert not app.microscope.view.busy
    app.close()


def test_a_cell_stands_for_rows_and_groups() -> None:
    weight = torch.randn(1000, 512)
    config = Int4WeightOnlyConfig(group_size=64).resolved("cpu")
    (*_, exact) = iter_layer_views(Toy({"a": weight}), "a", config)
    cell = HeatCell(4, 6, 2, 3, 0.5, 1)
    assert block_of(exact, cell) == ((4, 6), (2, 3))
    weights = replace(exact, map=replace(exact.map, metric="original"))
    assert block_of(weights, HeatCell(4, 6, 60, 70, 0.5, 1)) == ((4, 6), (0, 2))
    sampled = replace(exact, rows=10)
    rows = sampled_rows(1000, 10).tolist()
    assert block_of(sampled, HeatCell(3, 4, 2, 3, 0.5, 1)) == ((rows[3], rows[3] + 1), (2, 3))
    assert block_of(sampled, HeatCell(3, 5, 2, 3, 0.5, 1)) == ((rows[3], rows[4] + 1), (2, 3))
