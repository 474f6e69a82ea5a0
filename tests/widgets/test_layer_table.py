"""Layer table without a browser: one columnar payload, updates of some rows, selection."""

from __future__ import annotations

import json
import math

import pytest

from workbench.errors import ConfigError
from workbench.records.layers import CoverageRow
from workbench.widgets.layer_table import LayerChoice, LayerTable


def rows(count: int = 3) -> list[CoverageRow]:
    """Layers 0..count-1; every third stays dense."""
    made = []
    for i in range(count):
        dense = i % 3 == 2
        decision, reason = ("dense", "excluded by pattern *.2") if dense else ("int4", "group 64")
        after = 256 if dense else 72
        made.append(CoverageRow(f"layers.{i}", "linear", (16, 8), 128, decision, reason, 256, after, 8 * after / 128))
    return made


def test_coverage_rows_become_one_columnar_message(wire) -> None:
    table = LayerTable()
    wire.clear()
    table.show(rows(1500))
    assert len(wire.messages) == 1
    state = wire.states[0]["columns"]
    assert {len(column) for column in state.values()} == {1500}
    assert state["shape"][0] == [16, 8]
    assert len(json.dumps(state)) < 300_000


def test_columns_may_carry_errors_and_status(wire) -> None:
    table = LayerTable()
    columns = {
        "name": ["a", "b"],
        "shape": [(1, 2), (3, 4)],
        "parameters": [2, 12],
        "decision": ["int4", "dense"],
        "reason": ["", "norm"],
        "before_bytes": [4, 24],
        "after_bytes": [1, 24],
        "error": [math.nan, 0.5],
        "status": ["done", ""],
    }
    table.show(columns)
    assert table.columns["error"] == [None, 0.5]
    json.dumps(table.columns, allow_nan=False)
    columns["name"] = ["changed", "later"]
    assert table.columns["name"] == ["a", "b"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reason": None}, "lacks columns"),
        ({"color": ["red"]}, "does not know"),
        ({"parameters": [1, 2]}, "different lengths"),
    ],
)
def test_wrong_columns_are_refused(change: dict[str, list[int] | None], message: str) -> None:
    columns = {name: ["x"] for name in ("name", "decision", "reason")}
    columns |= {"shape": [[1]], "parameters": [1], "before_bytes": [1], "after_bytes": [1]}
    columns |= {name: value for name, value in change.items() if value is not None}
    columns = {name: value for name, value in columns.items() if name not in change or change[name] is not None}
    with pytest.raises(ConfigError, match=message):
        LayerTable().show(columns)


def test_a_layer_cannot_stand_twice() -> None:
    with pytest.raises(ConfigError, match=r"layers\.0"):
        LayerTable().show([*rows(), *rows(1)])


def test_updates_send_only_what_changed_and_are_remembered(wire) -> None:
    table = LayerTable()
    table.show(rows(1500))
    wire.clear()
    table.update(["layers.7", "layers.3"], status=["done", "running"], error=[0.25, math.inf])
    assert wire.states == []
    assert wire.customs == [
        {"type": "update", "index": [7, 3], "values": {"status": ["done", "running"], "error": [0.25, None]}}
    ]
    # What a page opened later would read:
    assert table.get_state("columns")["columns"]["status"][7] == "done"
    assert table.columns["error"][7] == 0.25 and table.columns["error"][3] is None
    table.set_status({"layers.3": "done"})
    assert table.columns["status"][3] == "done"


def test_updates_of_strangers_are_refused_before_anything_changes(wire) -> None:
    table = LayerTable()
    table.show(rows())
    for names, values in (
        (["nobody"], {"status": ["x"]}),
        (["layers.0"], {"name": ["x"]}),
        (["layers.0"], {"status": []}),
    ):
        with pytest.raises(ConfigError):
            table.update(names, **values)
    assert "status" not in table.columns


def test_the_selection_keeps_what_is_still_there(wire) -> None:
    table = LayerTable()
    table.show(rows(3))
    table.selected = ["layers.0", "layers.2"]
    table.current = "layers.2"
    table.show(rows(2))
    assert table.selected == ["layers.0"]
    assert table.current == ""


def test_the_page_selects_both_traits_in_one_message(wire) -> None:
    errors: list[Exception] = []
    table = LayerTable(on_error=lambda error, _where: errors.append(error))
    table.show(rows())
    seen: list[tuple[list[str], str]] = []
    table.observe(lambda _change: seen.append((table.selected, table.current)), names=["selected", "current"])
    wire.clear()
    table._handle_custom_msg({"type": "select", "rows": [0, 1], "current": 1, "turn": 4}, [])
    assert seen == [(["layers.0", "layers.1"], "layers.1")] * 2
    assert wire.states == [{"selected": ["layers.0", "layers.1"], "current": "layers.1"}]  # for the page's other views
    assert wire.customs == [{"type": "ack", "turn": 4}]
    table._handle_custom_msg({"type": "select", "rows": [], "current": -1, "turn": 5}, [])
    assert (table.selected, table.current, errors) == ([], "", [])


@pytest.mark.parametrize(
    "message",
    [{"rows": [3], "current": 0}, {"rows": [-1], "current": 0}, {"rows": None, "current": 0}]
    + [{"rows": [0], "current": current} for current in (3, -2, "layers.0", None, True)],
)
def test_a_selection_of_rows_that_are_not_there_is_refused_and_answered(wire, message) -> None:
    errors: list[Exception] = []
    table = LayerTable(on_error=lambda error, _where: errors.append(error))
    table.show(rows())
    wire.clear()
    table._handle_custom_msg({"type": "select", "turn": 1, **message}, [])
    assert (table.selected, table.current) == ([], "")
    assert [type(error) for error in errors] == [ConfigError]
    assert wire.customs == [{"type": "ack", "turn": 1}]


def test_an_observer_that_fails_is_reported(wire) -> None:
    errors: list[Exception] = []
    table = LayerTable(on_error=lambda error, _where: errors.append(error))
    table.show(rows())

    def broken(_change: object) -> None:
        raise RuntimeError("observer")

    table.observe(broken, names="current")
    table.set_state({"current": "layers.1"})
    assert [str(error) for error in errors] == ["observer"]


def test_repr_counts() -> None:
    table = LayerTable()
    table.show(rows(1500))
    table.selected = ["layers.1"]
    assert repr(table) == "LayerTable(1500 layers, 1 selected)"


def test_what_stays_dense_is_grouped_and_follows_the_rows(wire) -> None:
    table = LayerTable()
    table.show(rows(6))
    group = {"kind": "linear", "reason": "excluded by pattern *.2", "count": 2, "size_bytes": 512}
    assert table.left_dense == [group | {"text": "2 linear layers because excluded by pattern *.2"}]
    table.update(["layers.2"], decision=["int4"], reason=["group 64"])
    assert [each["count"] for each in table.left_dense] == [1]
    table.update(["layers.2"], status=["done"])
    table.show(rows(2))
    assert table.left_dense == []


def test_columns_without_kinds_say_what_stays_dense_too(wire) -> None:
    columns = {name: ["x"] for name in ("name", "decision", "reason")}
    columns |= {"shape": [[1]], "parameters": [1], "before_bytes": [8], "after_bytes": [8]}
    table = LayerTable()
    table.show(columns)
    assert [group["count"] for group in table.left_dense] == [1]


def test_a_choice_reaches_every_callback_and_is_answered(wire) -> None:
    table = LayerTable(group_sizes=[64, 32])
    table.show(rows())
    made: list[LayerChoice] = []
    table.on_choose(made.append)
    table.on_choose(lambda choice: f"{len(choice.names)} done")
    wire.clear()
    table._handle_custom_msg(
        {"type": "choose", "decision": "int4", "group_size": 32, "rows": [0, 2], "glob": "layers.*"}, []
    )
    table._handle_custom_msg({"type": "choose", "decision": "dense", "rows": [1]}, [])
    assert made == [
        LayerChoice(("layers.0", "layers.2"), "int4", 32, "layers.*"),
        LayerChoice(("layers.1",), "dense"),
    ]
    assert wire.customs == [{"type": "said", "ok": True, "text": text} for text in ("2 done", "1 done")]


@pytest.mark.parametrize(
    "message",
    [
        {"decision": "int4", "rows": [3]},
        {"decision": "int4", "rows": [-1]},
        {"decision": "int4", "rows": ["layers.0"]},
        {"decision": "int4", "rows": None},
        {"decision": "fp8", "rows": [0]},
        {"decision": "int4", "rows": [0], "group_size": "64"},
    ],
)
def test_a_choice_that_is_none_is_refused_and_said(wire, message) -> None:
    errors: list[Exception] = []
    table = LayerTable(on_error=lambda error, _where: errors.append(error))
    table.show(rows())
    made: list[LayerChoice] = []
    table.on_choose(made.append)
    wire.clear()
    table._handle_custom_msg({"type": "choose", **message}, [])
    assert made == [] and len(errors) == 1
    assert [content["ok"] for content in wire.customs] == [False]


def test_other_messages_change_nothing(wire) -> None:
    table = LayerTable()
    table.on_choose(lambda choice: pytest.fail("no choice"))
    wire.clear()
    for message in ({"type": "other"}, "text", None):
        table._handle_custom_msg(message, [])
    assert wire.customs == []
