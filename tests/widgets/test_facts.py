"""Facts without a browser: numbers and what goes with them arrive in one message."""

from __future__ import annotations

from workbench.widgets.facts import Fact, Facts


def test_everything_is_shown_in_one_message(wire) -> None:
    facts = Facts(title="Layer")
    wire.clear()
    facts.show([Fact("MSE", "1e-4", "0.9× round-to-nearest", "good")], badge="exact", notes=["float zero point"])
    assert len(wire.states) == 1
    state = wire.states[0]
    assert state["facts"] == [{"label": "MSE", "value": "1e-4", "hint": "0.9× round-to-nearest", "tone": "good"}]
    assert (state["badge"], state["notes"]) == ("exact", ["float zero point"])
    assert repr(facts) == "Facts(Layer)"


def test_a_code_is_shown_before_the_page_is_asked_to_copy_it(wire) -> None:
    facts = Facts()
    wire.clear()
    facts.copy_code("import workbench as wb")
    assert [message["method"] for message, _ in wire.messages] == ["update", "custom"]
    assert wire.states == [{"code": "import workbench as wb"}] and wire.customs == [{"type": "copy"}]
