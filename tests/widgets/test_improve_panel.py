"""The list of what Improve changed, without a browser: rows, what they say, and the two buttons."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.improve.test_improve import toy
from workbench.improve.improvement import ChangeGroup
from workbench.session import Session, open_session
from workbench.widgets.app import Workbench
from workbench.widgets.changes import Changes
from workbench.widgets.improve_panel import ImprovePanel, said

pytestmark = pytest.mark.usefixtures("wire")


@pytest.fixture
def shown() -> Iterator[tuple[Session, ImprovePanel]]:
    session = open_session(toy())
    panel = ImprovePanel(session, lambda error, where: pytest.fail(f"{where}: {error}"))
    session.listen(panel.on_event)
    yield session, panel
    session.wait(30)
    panel.close()


def improve(session: Session) -> None:
    session.improve()
    assert session.wait(60)


def press(changes: Changes, action: str) -> None:
    changes._handle_custom_msg({"type": action}, [])


def away(panel: Any) -> bool:
    return "wb-away" in panel._dom_classes


def test_it_is_away_until_there_is_an_answer_and_again_once_dismissed(shown):
    session, panel = shown
    assert away(panel)
    improve(session)
    assert not away(panel) and panel.changes.can_undo
    recipe = session.recipe
    press(panel.changes, "dismiss")
    assert away(panel) and session.recipe == recipe and session.improving.latest is None


def test_rows_verdict_and_badge_say_what_was_found(shown):
    session, panel = shown
    improve(session)
    found, changes = session.improving.latest, panel.changes
    assert changes.badge == f"{found.gain:.0%} less error"
    assert changes.verdict == said(found) and f"{found.error_before:.2%} → {found.error_after:.2%}" in changes.verdict
    assert [name for row in changes._rows for name in row["names"]] == [change.name for change in found.changes]
    assert (changes.title, changes.objective) == ("Improve: what changed", "weight error")
    assert changes.notes == list(found.notes)


def test_what_would_change_so_far_is_shown_while_the_search_goes_on(shown):
    session, panel = shown
    seen = []

    def look(event):
        if event.kind == "improved" and session.improving.so_far is not None:
            panel.on_event(event)
            changes = panel.changes
            seen.append((away(panel), changes.title, changes.verdict, len(changes._rows), changes.can_undo))

    session.listen(look)
    improve(session)
    title = "Improve: what would change so far"
    assert [(one[0], one[1], one[4]) for one in seen] == [(False, title, False)] * 2
    assert "at the same size: 1 of 3 layers tried, on all rows." in seen[0][2] and seen[0][3] == 1
    assert panel.changes.title == "Improve: what changed" and panel.changes.can_undo


def test_undo_goes_back_and_the_button_follows_what_holds(shown):
    session, panel = shown
    before = session.recipe
    improve(session)
    session.configure(group_size=32)
    assert not panel.changes.can_undo
    session.undo()
    assert panel.changes.can_undo
    press(panel.changes, "undo")
    assert session.recipe == before and not panel.changes.can_undo and not away(panel)


def test_nothing_better_is_an_answer(shown):
    session, panel = shown
    improve(session)
    improve(session)
    assert not away(panel) and panel.changes.title == "Improve: nothing better at this size"
    assert panel.changes._rows == [] and panel.changes.badge == ""
    assert "stays at" in panel.changes.verdict


def test_a_smaller_size_is_said(shown):
    session, _ = shown
    improve(session)
    found = replace(session.improving.latest, bytes_before=5000, bytes_after=4000)
    assert "(4.00 kB, 1.00 kB less)" in said(found)


def test_the_button_of_the_app_starts_it_and_the_header_has_the_verdict():
    app = Workbench(make_small(), None)
    try:
        assert app.wait(60)
        assert app.layers.verdict.verdict == app.session.verdict.line()
        assert "as dense" in app.layers.verdict.verdict or "than dense" in app.layers.verdict.verdict
        app.tools._handle_custom_msg({"type": "command", "command": "improve", "click": "c"}, [])
        assert app.wait(120)
        assert not away(app.improve) and app.recipe == app.session.improving.latest.recipe
        assert app.layers.verdict.verdict == app.session.verdict.line()
    finally:
        app.close()


def make_small() -> Any:
    from tests.tiny_models import make

    return make("qwen2")


def test_a_group_becomes_a_row():
    changes = Changes()
    changes.show([ChangeGroup("a.*", ("a.0", "a.1"), "g64 float rtn", "g32 float refined", 0.1, 0.05, 10, 12)])
    (row,) = changes._rows
    assert row["names"] == ["a.0", "a.1"] and (row["bytes_before"], row["bytes_after"]) == (10, 12)
