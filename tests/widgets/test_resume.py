"""The footer: Cancel while something runs, Resume where work stopped short of its end, nothing otherwise."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.session.stand_ins import Toy
from workbench.widgets.app import Workbench

pytestmark = pytest.mark.usefixtures("wire")


@pytest.fixture
def app() -> Iterator[Workbench]:
    app = Workbench(Toy({name: torch.randn(16, 128) for name in "abcd"}))
    assert app.wait(60)
    yield app
    app.session.source.gate.set()
    app.close()


def footer(app: Workbench) -> dict[str, str]:
    return {button["id"]: button["tooltip"] for button in app.commands.buttons}


def press(app: Workbench, command: str) -> None:
    app.commands._handle_custom_msg({"type": "command", "command": command, "click": "c"}, [])


def stop_a_sweep(app: Workbench) -> None:
    app.session.source.gate.clear()
    app.session.source.reading.clear()
    app.session.sweep_errors()
    assert app.session.source.reading.wait(60) and list(footer(app)) == ["cancel"]
    press(app, "cancel")
    assert app.status.job["state"] == "cancelling" and "stops after this step" in app.status.job["text"]
    app.session.source.gate.set()
    assert app.wait(60)


def test_what_was_cancelled_is_gone_on_with(app: Workbench) -> None:
    assert list(footer(app)) == []
    stop_a_sweep(app)
    assert footer(app)["resume"] == "Go on with Errors of all layers"
    press(app, "resume")
    assert app.wait(60)
    assert set(app.session.errors) == set("abcd") and list(footer(app)) == []


def test_what_failed_is_gone_on_with_and_other_work_leaves_it_there(app: Workbench) -> None:
    read = app.session.source.weight
    app.session.source.weight = lambda name: (_ for _ in ()).throw(OSError("gone")) if name == "c" else read(name)
    app.session.sweep_errors()
    assert app.wait(60) and app.status.job["state"] == "failed"
    app.session.configure(group_size=32)  # quiet work
    assert app.wait(60) and "resume" in footer(app)
    app.session.source.weight = read
    press(app, "resume")
    assert app.wait(60) and list(footer(app)) == []


def test_what_is_begun_elsewhere_takes_it_away(app: Workbench) -> None:
    stop_a_sweep(app)
    app.session.sweep_errors()
    assert app.wait(60) and list(footer(app)) == []
