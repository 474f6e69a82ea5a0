"""The rooms of a session together: one long job at a time, one cancel for all, and changes that reach who follows."""

import time

import pytest

from tests.session.stand_ins import TIMEOUT_S, Heard, toy, waited
from workbench.errors import ConfigError
from workbench.recipe.recipe import Choice, Recipe
from workbench.session import Session

pytestmark = pytest.mark.usefixtures("quick_roofline")


def test_two_jobs_at_once_are_refused_by_name():
    source = toy("a")
    session = Session(source)
    source.gate.clear()
    first = session.sweep_errors()
    for second in (session.sweep_errors, session.speed.measure, lambda: session.export("somewhere")):
        with pytest.raises(ConfigError, match="Errors of all layers is running"):
            second()
    assert session.speed.points == []
    source.gate.set()
    assert waited(first).state == "done"
    assert waited(session.sweep_errors()).state == "done"


def test_cancel_stops_everything_at_the_next_block_and_wait_knows_the_time():
    source = toy("a", "b")
    session = Session(source)
    source.gate.clear()
    preview, sweep = session.refresh(), session.sweep_errors()
    started = time.monotonic()
    assert not session.wait(0.05)
    assert time.monotonic() - started < TIMEOUT_S
    session.cancel()
    assert preview.state in ("cancelling", "cancelled")
    assert sweep.state in ("cancelling", "cancelled")
    source.gate.set()
    assert session.wait(TIMEOUT_S)
    assert (preview.state, sweep.state) == ("cancelled", "cancelled")
    assert session.errors == {}
    session.cancel()
    assert waited(session.refresh()).state == "done"


def recorded(session, monkeypatch):
    """What is called of the rooms that follow a change, in order."""
    calls = []
    for room, names in (
        (session.exact, ("recipe_changed", "text_changed")),
        (session.views, ("refresh",)),
        (session.quality, ("recipe_changed",)),
    ):
        for name in names:
            called = f"{type(room).__name__}.{name}"
            monkeypatch.setattr(room, name, lambda called=called: calls.append(called))
    return calls


def test_another_calibration_text_reaches_all_that_was_made_with_the_one_before(monkeypatch):
    session = Session(toy("a"))
    calls = recorded(session, monkeypatch)
    session.calibration.set_text("some words")
    assert calls == ["SessionErrors.text_changed", "SessionViews.refresh", "SessionQuality.recipe_changed"]
    assert session.wait(TIMEOUT_S)


def test_another_recipe_reaches_all_that_follows_from_it_and_the_same_one_nobody(monkeypatch):
    session = Session(toy("a"))
    heard, calls = Heard(session), recorded(session, monkeypatch)
    session.set_recipe(session.recipe)
    assert calls == [] and heard.events == []
    session.set_recipe(Recipe(Choice(session.recipe.default.config, domain="int")))
    assert calls == ["SessionErrors.recipe_changed", "SessionViews.refresh", "SessionQuality.recipe_changed"]
    assert heard.of("coverage") == [session.coverage]
    assert session.wait(TIMEOUT_S)
