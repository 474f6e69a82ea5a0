"""The status line: where a job stands, at most ten messages a second, and problems with their mend."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from workbench.errors import ConfigError, WeightError, WorkbenchError
from workbench.jobs import Job
from workbench.records.progress import Progress
from workbench.widgets import status as status_module
from workbench.widgets.status import HEADINGS, MAX_LOG, MAX_PROBLEMS, Status, describe


def job(state: str, progress: Progress | None = None) -> Job:
    def work(_cancel: Any) -> Iterator[None]:
        yield None

    made = Job("Export to out", work, lambda *_: None, lambda *_: None)
    made.state, made.progress = state, progress  # type: ignore[assignment]
    return made


def test_a_running_job_shows_share_label_time_and_what_is_left() -> None:
    shown = describe(job("running", Progress(3, 12, "q_proj", 2.0, 6.0)))
    assert shown["fraction"] == 0.25
    assert shown["text"] == "running · 25% · q_proj · 2.0 s · about 6 s left"


def test_a_job_of_unknown_length_shows_no_share() -> None:
    shown = describe(job("running", Progress(3, 0, "cpu, batch 4", 2.0)))
    assert shown["fraction"] is None
    assert shown["text"] == "running · cpu, batch 4 · 2.0 s"


@pytest.mark.parametrize(
    ("state", "fraction"), [("waiting", None), ("done", 1.0), ("cancelled", None), ("failed", None)]
)
def test_states_without_progress(state: str, fraction: float | None) -> None:
    assert describe(job(state)) == {"label": "Export to out", "state": state, "fraction": fraction, "text": state}


def test_progress_is_thinned_out_but_never_a_change_of_state(wire, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(status_module.time, "monotonic", lambda: now[0])
    status, running = Status(), job("running")
    wire.clear()
    for step in range(100):
        now[0] += 0.01
        running.progress = Progress(step, 100, "layer", step * 0.01)
        status.show_job(running)
    assert 8 <= len(wire.states) <= 11
    running.state = "done"
    status.show_job(running)
    assert [state["job"]["state"] for state in wire.states if "job" in state][-1] == "done"


def test_a_known_problem_is_its_message_and_any_other_has_a_traceback(wire) -> None:
    status = Status()
    status.show_problem(ConfigError("group_size=48.", allowed="32", mend="use 32"), "Export", "Traceback…")
    status.show_problem(ZeroDivisionError("division by zero"), "", "Traceback…")
    newest, oldest = status.problems
    assert oldest == {"title": "Export", "text": "group_size=48. Allowed: 32. To mend it: use 32.", "details": ""}
    assert newest["title"] == "ZeroDivisionError" and newest["details"] == "Traceback…"
    assert "2 problems" in repr(status)
    status._handle_custom_msg({"type": "dismiss"}, [])
    assert status.problems == []


def test_a_problem_is_headed_in_words_and_takes_the_place_of_one_of_its_kind(wire) -> None:
    status = Status()
    for error in (ConfigError("group_size=48."), WeightError("x is nan."), ConfigError("group_size=16.")):
        status.show_problem(error)
    assert [(one["title"], one["text"]) for one in status.problems] == [
        ("Not possible", "group_size=16."),
        ("A weight that cannot be used", "x is nan."),
    ]
    assert len(status.log) == 3
    assert set(HEADINGS) == set(WorkbenchError.__subclasses__())


def test_problems_of_one_job_stand_together_but_the_same_one_once(wire) -> None:
    status = Status()
    for what in ("a is nan.", "b is nan.", "a is nan."):
        status.show_problem(WeightError(what), "Errors of all layers")
    assert [one["text"] for one in status.problems] == ["a is nan.", "b is nan."]


def test_a_job_that_begins_is_done_with_what_was_wrong_with_one_of_its_label(wire) -> None:
    status, again = Status(), job("running")
    status.show_problem(ConfigError("'out' is there already."), "Export to out")
    status.show_problem(ConfigError("Export to out cannot start: Improve is running.", mend="wait for it"))
    status.show_problem(WeightError("x is nan."))
    status.show_job(again)
    assert [one["text"] for one in status.problems] == ["x is nan."]
    status.show_problem(ConfigError("'out' is there already."), "Export to out")
    for state in ("cancelling", "failed"):
        again.state = state  # type: ignore[assignment]
        status.show_job(again)
    status.show_job(job("failed"))  # a quiet one, of which the page is told its end alone
    assert len(status.problems) == 2


def test_the_log_keeps_what_ended_and_what_was_dismissed_and_counts_what_was_superseded(wire) -> None:
    status = Status()
    for state in ("running", "done", "cancelled", "cancelled", "failed"):
        status.show_job(job(state))
    status.show_problem(ZeroDivisionError("division by zero"), "", "Traceback…")
    status.clear_problems()
    lines = [(line["label"], line["kind"], line["text"], line["times"], line["details"]) for line in status.log]
    assert lines == [
        ("ZeroDivisionError", "problem", "division by zero", 1, "Traceback…"),
        ("Export to out", "cancelled", "cancelled", 2, ""),
        ("Export to out", "done", "done", 1, ""),
    ]
    for number in range(MAX_LOG + 5):
        status.show_problem(ConfigError(f"number {number}"))
    assert len(status.log) == MAX_LOG


def test_the_end_of_a_job_stands_in_the_log_once_though_a_cancel_is_told_after_it(wire, monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr(status_module.time, "monotonic", lambda: now[0])
    status, ended = Status(), job("done")
    for _ in range(3):
        now[0] += 1.0
        status.show_job(ended)
    assert [line["label"] for line in status.log] == ["Export to out"] and status.job["state"] == "done"


def test_only_the_newest_problems_are_kept(wire) -> None:
    status = Status()
    for number in range(MAX_PROBLEMS + 5):
        status.show_problem(ConfigError(f"number {number}"), "Export")
    assert len(status.problems) == MAX_PROBLEMS
    assert status.problems[0]["text"] == f"number {MAX_PROBLEMS + 4}"
