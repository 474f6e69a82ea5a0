"""The preflight as a widget, without a browser: what it shows, what a click makes of the recipe, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

import workbench as wb
from tests.tiny_models import make
from workbench.errors import ModelError, PatternError
from workbench.recipe.recipe import Choice, Recipe, Rule
from workbench.widgets.layers_panel import LayersPanel, columns_with_groups
from workbench.widgets.preflight import PreflightTable

G32 = wb.Int4WeightOnlyConfig(group_size=32)
LAYERS = 5


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return make("qwen2", num_hidden_layers=LAYERS)


@pytest.fixture
def opened(wire) -> Iterator[Callable[..., PreflightTable]]:
    """Open tables, and close them all."""
    made: list[PreflightTable] = []

    def make_table(*args: Any, **settings: Any) -> PreflightTable:
        made.append(wb.PreflightTable(*args, **settings))
        return made[-1]

    yield make_table
    for table in made:
        table.close()


def click(widget: PreflightTable, glob: str = "", starts: str = "", **choice: Any) -> dict[str, Any]:
    """What the page sends for a node, or for a selection without a glob."""
    names = widget.table.columns["name"]
    rows = [i for i, name in enumerate(names) if name.startswith(starts)]
    return {"type": "choose", "rows": rows, "glob": glob, **choice}


def send(widget: PreflightTable, *args: Any, **choice: Any) -> None:
    widget.table._handle_custom_msg(click(widget, *args, **choice), [])


def decisions(widget: PreflightTable) -> dict[str, str]:
    return dict(zip(widget.table.columns["name"], widget.table.columns["decision"], strict=True))


def test_it_shows_what_preflight_says(opened, wire, model) -> None:
    widget = opened(model, G32)
    coverage = wb.preflight(model, G32)
    assert widget.recipe == Recipe(Choice(G32))
    assert widget.coverage.rows == coverage.rows
    assert widget.table.tree and widget.table.columns["name"] == [row.name for row in coverage.rows]
    assert set(widget.table.columns["group_size"]) == {32, None}
    assert coverage.verdict() in repr(widget)
    assert widget._repr_html_() == widget.coverage._repr_html_()  # for pages where no widget runs
    assert set(coverage.notes) <= set(widget.verdict.notes)


def test_a_node_becomes_one_rule_and_every_row_follows(opened, wire, model) -> None:
    widget = opened(model, G32)
    wire.clear()
    send(widget, "model.layers.*.mlp.*", decision="dense", starts="model.layers.")
    # The page sends a node's own weights; these are more than the glob finds, so one pattern of theirs is made.
    assert widget.recipe.rules == (Rule("model.layers.*", None),)
    assert {decision for name, decision in decisions(widget).items() if ".layers." in name} == {"dense"}
    said = [content for content in wire.customs if isinstance(content, dict) and content.get("type") == "said"]
    assert said == [{"type": "said", "ok": True, "text": "1 rule added (model.layers.*: dense)"}]
    assert [button["enabled"] for button in widget.tools.buttons] == [True, False]


def test_a_group_size_of_a_node_leaves_the_head_alone(opened, wire, model) -> None:
    widget = opened(model, G32)
    send(widget, "*", decision="int4", group_size=64)
    (rule,) = widget.recipe.rules
    assert rule.pattern == "model.layers.*"
    assert rule.choice is not None and rule.choice.config.group_size == 64
    assert decisions(widget)["lm_head"] == "dense"
    send(widget, "lm_head", decision="int4", starts="lm_head")
    assert widget.recipe.rules[0].pattern == "lm_head"
    assert decisions(widget)["lm_head"] == "int4"
    assert any("untied" in note for note in widget.verdict.notes)


def test_a_selection_becomes_the_plainest_rules(opened, wire, model) -> None:
    widget = opened(model, G32)
    send(widget, decision="dense", starts="model.layers.3.")
    assert [rule.pattern for rule in widget.recipe.rules] == ["layers.3"]


def test_what_is_int4_already_makes_no_rule(opened, wire, model) -> None:
    widget = opened(model, G32)
    wire.clear()
    send(widget, "model.layers.*", decision="int4", starts="model.layers.")
    assert widget.recipe.rules == () and not widget.session.can_undo
    assert wire.customs[-1]["text"] == "no change"


def test_undo_and_redo_take_the_table_along(opened, wire, model) -> None:
    widget = opened(model, G32)
    before = widget.recipe
    send(widget, "model.layers.*", decision="dense", starts="model.layers.")
    after = widget.recipe
    widget.tools._handle_custom_msg({"type": "command", "command": "undo", "click": "1"}, [])
    assert widget.recipe == before and "int4" in decisions(widget).values()
    widget.tools._handle_custom_msg({"type": "command", "command": "redo", "click": "2"}, [])
    assert widget.recipe == after and "int4" not in decisions(widget).values()


def test_setting_the_recipe_changes_the_table_and_a_wrong_one_does_not(opened, wire, model) -> None:
    widget = opened(model, G32)
    widget.recipe = Recipe(None, (Rule("q_proj", Choice(G32)),))
    assert sum(decision == "int4" for decision in decisions(widget).values()) == LAYERS
    kept = widget.recipe
    with pytest.raises(PatternError):
        widget.recipe = Recipe(None, (Rule("nothing_here", Choice(G32)),))
    assert widget.recipe == kept == widget.session.recipe


def test_what_cannot_become_int4_is_said_and_reported(opened, wire, model) -> None:
    widget = opened(model, G32)
    wire.clear()
    send(widget, "model.norm", decision="int4", starts="model.norm")
    assert wire.customs[-1]["ok"] is False and "linear layer" in wire.customs[-1]["text"]
    assert len(widget.status.problems) == 1 and "wb-away" not in widget.status._dom_classes


def test_nothing_is_computed_for_a_table(opened, wire, model) -> None:
    widget = opened(model, G32)
    send(widget, "model.layers.*", decision="int4", group_size=64, starts="model.layers.")
    assert all(lane.current is None for lane in widget.session.lanes)
    assert widget.session.errors == {}


def test_a_model_without_weights_in_memory_is_shown(opened) -> None:
    with torch.device("meta"):
        empty = make("mixtral")
    widget = opened(empty, G32)
    assert len(widget.table.columns["name"]) == len(widget.coverage.rows) > 0


@pytest.mark.parametrize("name", ["gpt2", "t5", "mixtral", "opt"])
def test_every_architecture_gets_its_rows_and_reasons(opened, name) -> None:
    widget = opened(make(name), G32)
    columns = widget.table.columns
    assert all(columns["reason"]) and all(columns["kind"])
    left = sum(group["count"] for group in widget.table.left_dense)
    assert left == columns["decision"].count("dense")


def test_no_model_is_refused(wire) -> None:
    with pytest.raises(ModelError):
        PreflightTable(3)  # type: ignore[arg-type]


def test_close_leaves_no_channel_and_no_listener(opened, wire, model) -> None:
    widget = opened(model, G32)
    widget.close()
    widget.session.set_recipe(Recipe(None, (Rule("q_proj", Choice(G32)),)))
    assert widget.comm is None and widget.table.comm is None


def test_the_app_chooses_the_same_way(opened, wire, model) -> None:
    session = opened(model, G32).session
    panel = LayersPanel(session, lambda error, _where: pytest.fail(str(error)))
    assert panel.table.group_sizes == [256, 128, 64, 32]
    assert panel.table.columns == columns_with_groups(session.coverage) | {
        "shape": [list(row.shape) for row in session.coverage.rows]
    }
    rows = [i for i, name in enumerate(panel.table.columns["name"]) if ".mlp." in name]
    message = {"type": "choose", "decision": "dense", "rows": rows, "glob": "model.layers.*.mlp.*"}
    panel.table._handle_custom_msg(message, [])
    assert session.recipe.rules == (Rule("model.layers.*.mlp.*", None),)
    panel.close()
