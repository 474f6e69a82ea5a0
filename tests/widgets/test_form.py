"""Forms without a browser: what a control can hold, one answer to each change, and values set without calling back."""

from __future__ import annotations

import pytest

from workbench.errors import ConfigError
from workbench.widgets.form import Field, Form

FIELDS = (
    Field("size", "Group size", "slider", ((32, "32"), (64, "64"))),
    Field("domain", "Domain", "segments", (("auto", "auto"), ("int", "int"))),
    Field("metric", "Show", "menu", (("rmse", "RMS error"), ("max", "largest"))),
    Field("hqq", "HQQ", "switch"),
    Field("folder", "Directory", "text", wide=True),
    Field("norm", "Norm", "number"),
    Field("ranges", "Ranges", "number", placeholder="auto"),
    Field("corpus", "Text", "area", limit=10),
)
VALUES = {
    **{"size": 64, "domain": "auto", "metric": "rmse", "hqq": False, "folder": "exports"},
    **{"norm": 0.7, "ranges": None, "corpus": "short"},
}


def send(form: Form, field: str, value: object, turn: int = 1) -> None:
    form._handle_custom_msg({"type": "change", "id": field, "value": value, "turn": turn}, [])


def test_a_change_sets_the_control_calls_back_and_is_answered(wire) -> None:
    form = Form(FIELDS, VALUES)
    seen: list[tuple[str, object]] = []
    form.on_change(lambda field, value: seen.append((field, value)))
    wire.clear()
    send(form, "size", 32, turn=7)
    assert seen == [("size", 32)]
    assert form.values["size"] == 32
    assert wire.customs == [{"type": "ack", "turn": 7}]


def test_an_error_of_a_callback_is_reported_and_the_change_still_answered(wire) -> None:
    errors: list[str] = []
    form = Form(FIELDS, VALUES, on_error=lambda error, where: errors.append(f"{where}: {error}"))

    def refuse(_field: str, _value: object) -> None:
        raise ConfigError("Not with HQQ.")

    form.on_change(refuse)
    wire.clear()
    send(form, "domain", "int", turn=3)
    assert len(errors) == 1 and errors[0].endswith("Not with HQQ.")
    assert wire.customs == [{"type": "ack", "turn": 3}]


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("size", 48, "32, 64"),
        ("size", "32", "32, 64"),
        ("size", True, "32, 64"),
        ("domain", "float", "'auto', 'int'"),
        ("metric", None, "'rmse', 'max'"),
        ("hqq", 1, "True or False"),
        ("folder", 5, "text"),
        ("norm", "abc", "a finite number"),
        ("norm", None, "a finite number"),
        ("norm", True, "a finite number"),
        ("norm", float("nan"), "a finite number"),
        ("ranges", "many", "a finite number, or nothing"),
        ("corpus", None, "text"),
    ],
)
def test_a_value_that_a_control_cannot_hold_is_refused(wire, field: str, value: object, allowed: str) -> None:
    errors: list[str] = []
    form = Form(FIELDS, VALUES, on_error=lambda error, _where: errors.append(str(error)))
    with pytest.raises(ConfigError, match=allowed):
        form.set_values(**{field: value})
    send(form, field, value)
    assert len(errors) == 1 and allowed in errors[0]
    assert form.values == VALUES


def test_an_unknown_control_is_named(wire) -> None:
    with pytest.raises(ConfigError, match=r"no control 'colour'.*size, domain"):
        Form(FIELDS, VALUES).set_values(colour="red")


def test_setting_values_calls_nobody_and_sends_only_a_change(wire) -> None:
    form = Form(FIELDS, VALUES)
    form.on_change(lambda *_: pytest.fail("called back"))
    wire.clear()
    form.set_values(size=64)
    assert wire.messages == []
    form.set_values(size=32, hqq=True)
    assert [state["values"]["size"] for state in wire.states] == [32]


@pytest.mark.parametrize("content", ["text", None, {"type": "other"}, {}])
def test_messages_that_make_no_sense_harm_nothing(wire, content: object) -> None:
    form = Form(FIELDS, VALUES)
    form._handle_custom_msg(content, [])
    assert form.values == VALUES
    assert "size=64" in repr(form)


def test_numbers_whole_or_not_or_none_where_that_means_something(wire) -> None:
    form = Form(FIELDS, VALUES)
    seen: list[object] = []
    form.on_change(lambda _field, value: seen.append(value))
    for field, value in (("norm", 1), ("norm", 0.5), ("ranges", 12), ("ranges", None)):
        send(form, field, value)
        assert form.values[field] == value
    assert seen == [1, 0.5, 12, None]


def test_a_long_text_is_called_back_whole_and_the_page_has_its_beginning(wire) -> None:
    form = Form(FIELDS, VALUES)
    seen: list[object] = []
    form.on_change(lambda _field, value: seen.append(value))
    assert form.lengths == {}
    wire.clear()
    send(form, "corpus", "0123456789" * 100_000)
    assert seen == ["0123456789" * 100_000]
    assert form.values["corpus"] == "0123456789"
    assert form.lengths == {"corpus": 1_000_000}
    assert len(str(wire.messages)) < 2000
    assert len(repr(form)) < 300
    send(form, "size", 32)
    assert form.lengths == {"corpus": 1_000_000}
    send(form, "corpus", "0123456789")
    assert form.lengths == {}


def test_controls_are_replaced_with_their_values_at_once(wire) -> None:
    form = Form((), {}, fold="closed")
    form.on_change(lambda *_: pytest.fail("called back"))
    wire.clear()
    form.set_fields(FIELDS[:2], {"size": 32, "domain": "int"})
    (state,) = wire.states
    assert [field["id"] for field in state["fields"]] == ["size", "domain"]
    assert state["values"] == {"size": 32, "domain": "int"}
    form.set_fields(FIELDS[:2], {"size": 64, "domain": "int"})
    assert "fields" not in wire.states[-1]
    with pytest.raises(ConfigError, match="48"):
        form.set_fields(FIELDS[:1], {"size": 48})
    form.set_values(domain="auto")
    form.set_fields((), {})
    assert (form.fields, form.values) == ([], {})
