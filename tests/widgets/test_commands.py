"""Command buttons without a browser: one reply to each click, and errors that are said."""

from __future__ import annotations

import pytest

from workbench.errors import ConfigError
from workbench.widgets.commands import Command, Commands

BUTTONS = [
    Command("run", "Run", kind="primary"),
    Command("cancel", "Cancel", "Stop", "danger", enabled=False),
]


def click(commands: Commands, command: str, number: str = "c1") -> None:
    commands._handle_custom_msg({"type": "command", "command": command, "click": number}, [])


def test_ready_is_answered_once(wire) -> None:
    commands = Commands(BUTTONS)
    wire.clear()
    commands._handle_custom_msg({"type": "ready"}, [])
    assert commands.ready
    assert wire.customs == [{"type": "ready"}]


def test_a_click_runs_every_callback_and_gets_one_reply(wire) -> None:
    commands = Commands(BUTTONS)
    seen: list[str] = []
    commands.on_command(lambda command: seen.append(command))
    commands.on_command(lambda command: f"did {command}")
    wire.clear()
    click(commands, "run", "c7")
    assert seen == ["run"]
    assert wire.customs == [{"type": "reply", "click": "c7", "command": "run", "ok": True, "text": "did run"}]


def test_an_error_is_reported_and_shown_and_the_next_callback_runs(wire) -> None:
    errors: list[tuple[str, str]] = []
    commands = Commands(BUTTONS, on_error=lambda error, where: errors.append((str(error), where)))
    seen: list[str] = []

    def broken(_command: str) -> None:
        raise ConfigError("Group size 48 cannot be packed.", allowed="32, 64, 128, 256")

    commands.on_command(broken)
    commands.on_command(lambda command: seen.append(command))
    wire.clear()
    click(commands, "run")
    reply = wire.customs[0]
    assert not reply["ok"]
    assert reply["text"] == errors[0][0] == "Group size 48 cannot be packed. Allowed: 32, 64, 128, 256."
    assert errors[0][1] == "Commands: run"
    assert seen == ["run"]


@pytest.mark.parametrize("content", [{"type": "command"}, "text", None, {"type": "other"}])
def test_messages_that_make_no_sense_harm_nothing(wire, content: object) -> None:
    errors: list[Exception] = []
    commands = Commands(BUTTONS, on_error=lambda error, _where: errors.append(error))
    commands._handle_custom_msg(content, [])
    assert [type(error) for error in errors] == ([KeyError] if content == {"type": "command"} else [])


def test_buttons_are_enabled_by_id(wire) -> None:
    commands = Commands(BUTTONS)
    commands.enable(cancel=True, run=False)
    assert [(b["id"], b["enabled"]) for b in commands.buttons] == [("run", False), ("cancel", True)]
    with pytest.raises(ConfigError, match="stop"):
        commands.enable(stop=True)


def test_ids_must_differ_and_repr_names_the_labels(wire) -> None:
    with pytest.raises(ConfigError, match="share an id"):
        Commands([Command("a", "A"), Command("a", "B")])
    commands = Commands(BUTTONS)
    assert repr(commands) == "Commands(Run, Cancel)"
    commands.set_buttons([Command("x", "X")])
    assert repr(commands) == "Commands(X)"
