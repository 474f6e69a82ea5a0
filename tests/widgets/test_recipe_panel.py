"""The recipe panel without a browser: what a person does to the recipe, and what the page is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import workbench as wb
from tests.widgets.conftest import Wire
from workbench.recipe.recipe import Choice, Recipe, Rule
from workbench.session import Session, open_session
from workbench.widgets.recipe_panel import MOST_LINES, MOST_RULES, MOST_STEPS, RecipePanel

G32 = Choice(wb.Int4WeightOnlyConfig(group_size=32))
G64 = Choice(wb.Int4WeightOnlyConfig(group_size=64))
TWO = Recipe(G64, (Rule("q_proj", None), Rule("mlp", G32)))


@pytest.fixture
def faults() -> list[str]:
    return []


@pytest.fixture
def panel(wire: Wire, faults: list[str]) -> Iterator[RecipePanel]:
    session = open_session("demo")
    panel = RecipePanel(session, lambda error, where: faults.append(f"{where}: {error}"))
    session.listen(panel.on_event)
    session.set_recipe(TWO)
    yield panel
    session.cancel()
    session.wait(30)
    panel.close()


def do(panel: RecipePanel, wire: Wire, action: str, **args: Any) -> dict[str, Any]:
    """Do as a page does, and return the reply."""
    panel.view._handle_custom_msg({"type": "do", "action": action, "turn": "t-1", **args}, [])
    reply: dict[str, Any] = wire.customs[-1]
    assert (reply["type"], reply["turn"], reply["action"]) == ("reply", "t-1", action)
    return reply


def show(panel: RecipePanel, **traits: str) -> None:
    panel.view.set_state(traits)


def patterns(panel: RecipePanel) -> list[str]:
    return [rule["pattern"] for rule in panel.view.rules]


def test_it_shows_each_rule_with_what_it_decides(panel: RecipePanel) -> None:
    assert patterns(panel) == ["q_proj", "mlp", "all other layers", "output head"]
    counts = {rule["pattern"]: rule["count"] for rule in panel.view.rules}
    assert sum(counts.values()) == panel.view.total == 43 and counts["q_proj"] == 6 and counts["mlp"] == 18
    assert panel.view.summary == "2 rules over int4, group size 64, rtn"
    assert [preset["name"] for preset in panel.view.presets if preset["now"]] == []
    json.dumps(panel.view.rules)


def test_rules_are_edited_and_the_session_follows(panel: RecipePanel, wire: Wire) -> None:
    assert do(panel, wire, "move", place=1, by=-1)["ok"]
    assert do(panel, wire, "rename", place=0, pattern="down_proj")["ok"]
    assert do(panel, wire, "add", pattern="layers.1", dense=True)["ok"]
    assert patterns(panel)[:3] == ["layers.1", "down_proj", "q_proj"]
    assert do(panel, wire, "remove", place=0)["ok"] and do(panel, wire, "head", on=True)["ok"]
    assert panel.session.recipe.output_head and panel.view.output_head
    assert do(panel, wire, "undo")["text"] == "undone" and not panel.view.output_head
    assert do(panel, wire, "redo")["text"] == "done again" and panel.view.output_head


def test_what_is_refused_is_said_in_the_reply_and_changes_nothing(
    panel: RecipePanel, wire: Wire, faults: list[str]
) -> None:
    reply = do(panel, wire, "rename", place=0, pattern="q_prj")
    assert not reply["ok"] and "did you mean 'q_proj'" in reply["text"]
    assert not do(panel, wire, "nonsense")["ok"]
    assert panel.session.recipe == TWO and faults == []


def test_a_fault_of_ours_is_reported_and_still_answered(
    panel: RecipePanel, wire: Wire, faults: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panel.session.recipes, "pin", lambda: 1 / 0)
    assert not do(panel, wire, "pin")["ok"]
    assert faults == ["RecipeView: pin: division by zero"]


def test_a_click_on_a_count_selects_the_layers(panel: RecipePanel, wire: Wire) -> None:
    assert do(panel, wire, "select", row=0)["text"] == "6 layers selected"
    assert len(panel.session.selection) == 6 and all(name.endswith("q_proj") for name in panel.session.selection)
    assert not do(panel, wire, "select", row=9)["ok"]


def test_presets_say_which_of_them_holds(panel: RecipePanel, wire: Wire) -> None:
    do(panel, wire, "preset", name="small")
    assert [preset["name"] for preset in panel.view.presets if preset["now"]] == ["small"]
    assert all(preset["good_for"] for preset in panel.view.presets)


def test_only_the_pane_on_show_is_sent(panel: RecipePanel) -> None:
    assert panel.view.diff["said"] and panel.view.text == "" and panel.view.steps == []
    show(panel, pane="text")
    assert panel.view.text == panel.session.recipes.text and panel.view.diff == {}
    show(panel, pane="history")
    assert [step["text"] for step in panel.view.steps][-1] == "the recipe at the start" and panel.view.text == ""


def test_the_changes_are_against_what_was_chosen(panel: RecipePanel, wire: Wire, tmp_path: Path) -> None:
    assert panel.view.others == {"previous": "the one before"}
    do(panel, wire, "pin")
    do(panel, wire, "save", path=str(tmp_path / "a.json"))
    do(panel, wire, "remove", place=0)
    assert panel.view.others["file"] == "a.json" and panel.view.path == str(tmp_path / "a.json")
    show(panel, against="pinned")
    assert panel.view.diff["said"] == "0 lines added, 1 line removed"
    assert [text for kind, text in panel.view.diff["lines"] if kind == "removed"] == [
        '    {"pattern": "q_proj", "dense": true},'
    ]


def test_text_is_checked_while_it_is_typed_and_applied_when_it_is_right(panel: RecipePanel, wire: Wire) -> None:
    text = panel.session.recipes.text
    assert do(panel, wire, "check", text=text)["summary"] == "2 rules over int4, group size 64, rtn"
    for action in ("check", "apply"):
        reply = do(panel, wire, action, text=text.replace("32", "48"))
        assert (reply["ok"], reply["line"]) == (False, 7) and "256, 128, 64 or 32" in reply["text"]
    assert panel.session.recipe == TWO
    assert do(panel, wire, "apply", text=text.replace("32", "256"))["ok"]
    assert panel.session.recipe.rules[1].choice.config.group_size == 256


def test_a_file_that_holds_something_else_is_replaced_only_when_asked(
    panel: RecipePanel, wire: Wire, tmp_path: Path
) -> None:
    path = tmp_path / "a.json"
    path.write_text("mine")
    reply = do(panel, wire, "save", path=str(path))
    assert (reply["ok"], reply["replace"], path.read_text()) == (False, True, "mine")
    assert do(panel, wire, "save", path=str(path), replace=True)["text"] == f"replaced {path}"
    do(panel, wire, "remove", place=0)
    assert do(panel, wire, "load", path=str(path))["text"] == f"loaded {path}"
    assert panel.session.recipe == TWO
    reply = do(panel, wire, "save", path=str(tmp_path / "no" / "b.json"))
    assert not reply["ok"] and not reply["replace"] and "cannot be written" in reply["text"]
    assert not do(panel, wire, "load", path=str(tmp_path / "c.json"))["ok"]


def test_code_is_shown_until_the_recipe_changes(panel: RecipePanel, wire: Wire) -> None:
    assert do(panel, wire, "python")["code"] == panel.session.as_python() == panel.view.code["text"]
    assert do(panel, wire, "command")["code"].startswith("workbench quantize demo --recipe /dev/stdin")
    do(panel, wire, "remove", place=0)
    assert panel.view.code == {}


def test_what_is_sent_is_bounded_for_huge_recipes_and_long_histories(panel: RecipePanel, wire: Wire) -> None:
    names = [row.name for row in panel.session.layer_rows()]
    rules = tuple(Rule(f"re:{name}|x{place}", G32) for place in range(900) for name in names[:1])
    panel.session.set_recipe(Recipe(G64, rules))
    assert len(panel.view.rules) == MOST_RULES + 2 and panel.view.hidden == 900 - MOST_RULES
    assert len(panel.view.diff["lines"]) == MOST_LINES and panel.view.diff["hidden"] > 0
    show(panel, pane="history")
    for at in range(MOST_STEPS + 20):
        panel.session.set_recipe(Recipe((G32, G64)[at % 2]))
    wire.clear()
    panel.session.set_recipe(TWO)
    assert len(panel.view.steps) == MOST_STEPS
    sent = sum(len(json.dumps(state, default=str)) for state in wire.states)
    assert sent < 20_000


def test_a_session_is_served_by_two_panels(wire: Wire) -> None:
    session: Session = open_session("demo")
    panels = [RecipePanel(session, lambda *_: None) for _ in range(2)]
    for one in panels:
        session.listen(one.on_event)
    do(panels[0], wire, "add", pattern="q_proj", dense=True)
    assert panels[1].view.rules == panels[0].view.rules
    session.cancel()
    session.wait(30)
    for one in panels:
        one.close()
