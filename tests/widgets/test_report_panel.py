"""The control that saves the report, without a browser: what it says, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.session.stand_ins import Toy
from workbench.session import Session, open_session
from workbench.widgets.report_panel import ReportPanel

pytestmark = pytest.mark.usefixtures("wire")


@pytest.fixture
def shown() -> Iterator[tuple[Session, ReportPanel]]:
    session = open_session(Toy({name: torch.randn(16, 256) for name in "abc"}))
    panel = ReportPanel(session, lambda error, where: pytest.fail(f"{where}: {error}"))
    session.listen(panel.on_event)
    yield session, panel
    session.wait(30)
    panel.close()


def save(panel: ReportPanel, path: Any) -> None:
    panel.form.change("path", str(path))
    panel.commands._handle_custom_msg({"type": "command", "command": "report", "click": "c"}, [])


def enabled(panel: ReportPanel) -> bool:
    return bool(panel.commands.buttons[0]["enabled"])


def test_it_says_what_is_solved_first_and_then_where_the_file_is(shown, tmp_path):
    session, panel = shown
    assert panel.result.verdict == "All 3 int4 layers are solved first."
    busy: list[tuple[bool, bool]] = []
    session.listen(lambda event: busy.append((panel.result.busy, enabled(panel))) if event.kind == "error" else None)
    save(panel, tmp_path / "r.html")
    assert session.wait(60)
    assert busy and set(busy) == {(True, False)}
    assert (tmp_path / "r.html").is_file() and panel.result.code == str(tmp_path / "r.html")
    assert panel.result.facts[0]["label"] == "Written" and not panel.result.busy and enabled(panel)
    assert panel.form.errors == {} and panel.result.notes == []


def test_what_was_measured_meanwhile_is_counted(shown):
    session, panel = shown
    session.sweep_errors()
    assert session.wait(30)
    assert panel.result.verdict == ""
    session.configure(group_size=32, scope="layer")
    assert session.wait(30)
    assert panel.result.verdict == ""  # the layer on show is solved at once
    session.configure(group_size=32, scope="all")
    assert session.wait(30)
    assert panel.result.verdict == "2 of 3 int4 layers are solved first."


def test_a_folder_that_is_missing_is_said_under_the_field_and_typing_takes_it_away(shown, tmp_path):
    session, panel = shown
    for path, mend in (
        (tmp_path / "no" / "r.html", "make the folder"),
        (tmp_path, "name a file in it"),
        ("", "name a"),
    ):
        save(panel, path)
        assert mend in panel.form.errors["path"] and not session.work.busy
    panel.form.change("path", str(tmp_path / "r.html"))
    assert panel.form.errors == {}


def test_a_file_that_cannot_be_written_in_the_end_is_said_there_too(shown, tmp_path, monkeypatch):
    session, panel = shown

    def full_disk(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    save(panel, tmp_path / "r.html")
    assert session.wait(60)
    assert "the disk is full (" in panel.form.errors["path"]
    assert "are needed). To mend it: free some disk space" in panel.form.errors["path"]
    assert panel.result.verdict == "Failed, nothing was written." and enabled(panel)


def test_other_work_that_runs_is_said_and_cancelling_leaves_no_file(shown, tmp_path):
    session, panel = shown
    session.source.gate.clear()
    save(panel, tmp_path / "r.html")
    save(panel, tmp_path / "other.html")
    assert "is running" in panel.form.errors["path"]
    session.cancel()
    session.source.gate.set()
    assert session.wait(30)
    assert list(tmp_path.iterdir()) == [] and "nothing was written" in panel.result.verdict


def test_layers_that_could_not_be_solved_are_named(shown, tmp_path):
    session, panel = shown
    session.source.weights["b"][0, 0] = float("nan")
    save(panel, tmp_path / "r.html")
    assert session.wait(60)
    assert panel.result.notes == ["1 int4 layers could not be solved and have no error in it: b"]
