"""The report of a session: it solves what is missing, writes one file, and says what it left out."""

from __future__ import annotations

import pytest
import torch

from tests.improve.test_improve import Toy, toy
from workbench.errors import ConfigError
from workbench.recipe.recipe import Recipe
from workbench.session import open_session


def report(session, path):
    job = session.report(path)
    assert job.wait(60) and session.wait(60)
    return job


def test_layers_that_are_not_solved_are_solved_first(tmp_path):
    session = open_session(toy())
    events = []
    session.listen(events.append)
    job = report(session, tmp_path / "report.html")
    assert job.state == "done" and set(session.errors) == set(session.coverage.configs)
    written = session.reporting.latest
    assert [event.data for event in events if event.kind == "report"] == [written]
    assert written.path == tmp_path / "report.html" and written.missing == ()
    assert written.size_bytes == written.path.stat().st_size
    text = written.path.read_text(encoding="utf-8")
    assert "3 of 3 int4 layers solved" in text and session.verdict.line().split(" · ")[0] in text


def test_what_is_solved_already_is_not_solved_again(tmp_path):
    source = toy()
    session = open_session(source)
    session.sweep_errors()
    assert session.wait(30)
    source.weight = lambda name: pytest.fail("read again")
    assert report(session, tmp_path / "report.html").state == "done"


def test_a_layer_that_cannot_be_solved_is_named(tmp_path):
    source = toy()
    source.weights["b"][0, 0] = float("inf")
    session = open_session(source)
    report(session, tmp_path / "report.html")
    assert session.reporting.latest.missing == ("b",)
    assert "2 of 3 int4 layers solved" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_what_improve_changed_is_in_it_while_it_holds(tmp_path):
    session = open_session(toy())
    session.improve()
    assert session.wait(60)
    report(session, tmp_path / "one.html")
    assert "What Improve changed" in (tmp_path / "one.html").read_text(encoding="utf-8")
    session.undo()
    report(session, tmp_path / "two.html")
    assert "What Improve changed" not in (tmp_path / "two.html").read_text(encoding="utf-8")


def test_a_model_that_stays_dense_has_a_report_too(tmp_path):
    session = open_session(toy())
    session.set_recipe(Recipe(None))
    assert report(session, tmp_path / "report.html").state == "done"
    assert "No weight becomes int4" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_what_cannot_be_is_refused_before_any_work(tmp_path):
    session = open_session(toy())
    with pytest.raises(ConfigError, match="a file in a folder that exists"):
        session.report(tmp_path)
    session.configure(solver="calibrated")
    with pytest.raises(ConfigError, match="no calibration text"):
        session.report(tmp_path / "report.html")
    assert session.wait(30) and list(tmp_path.iterdir()) == []


def test_a_cell_for_a_text_that_is_in_no_file_reads_it_from_one(tmp_path):
    session = open_session(Toy(a=torch.randn(8, 64)))
    session.configure(solver="calibrated")
    session.calibration.set_text("some words")
    assert session.wait(30)
    assert "calibration.txt" in session.reporting.contents().python
    assert list(tmp_path.iterdir()) == []
