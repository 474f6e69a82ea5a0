"""A session as plain facts: what is there is said, what is not is left out, and nothing can run."""

import re
from pathlib import Path

import pytest

from workbench.exporting import ExportResult
from workbench.records.speed import SpeedPoint
from workbench.session.words import facts_html, session_facts
from workbench.targets.run import ExportReport
from workbench.targets.target import Fit, LoadLines


@pytest.fixture
def session(demo):
    return demo


def point(path, batch, time_ms, **more):
    return SpeedPoint("cpu", "a CPU", path, "bfloat16", 96, 64, 64, batch, time_ms, 0.9, 1.2, 7, 3.0, 2.0, **more)


def test_a_fresh_session_says_model_size_coverage_and_recipe(session):
    facts = session_facts(session)
    assert list(facts) == ["Model", "Size", "Coverage", "Recipe"]
    assert facts["Model"] == f"demo, to run on {session.device}" and facts["Recipe"] == "int4, group size 64, rtn"
    assert re.fullmatch(r"11\.54 MB → 4\.\d\d MB", facts["Size"])
    assert facts["Coverage"].startswith("42 of 57 weights become int4") and facts["Coverage"].endswith("layers')")


def test_errors_speed_and_an_export_are_said_once_there(session):
    session.refresh().wait(60)
    assert session_facts(session)["Relative error"].startswith(f"1 of 42 layers solved, the largest {session.current}")
    assert session_facts(session)["Layer on show"].startswith(session.current)
    session.speed.points = [
        point("int4", 1, 1.0),
        point("dense", 1, 3.0),
        point("int4", 64, 2.0),
        point("dense", 64, 1.0),
    ]
    session.speed.points += [point("int4", 256, 2.0), point("int4", 1, 0.1, form="compiled"), point("op", 1, 0.5)]
    assert (
        session_facts(session)["Speed"] == "batch 1: 3.00× dense bfloat16 (1 ms); batch 64: 0.50× dense bfloat16 (2 ms)"
    )
    report = ExportReport("mlx", Path("out"), 3, 4_000_000, Fit("mlx"), 0.0, "", LoadLines())
    session.exports.latest = ExportResult(Path("out"), 3, 4_000_000, 1.0, (), True, "all", "", report)
    assert session_facts(session)["Exported"] == "out (mlx), 4.00 MB, checked"


def test_speed_of_one_batch_is_said_once_and_without_dense_not_at_all(session):
    session.speed.points = [point("int4", 1, 1.0)]
    assert "Speed" not in session_facts(session)
    session.speed.points.append(point("dense", 1, 2.0))
    assert session_facts(session)["Speed"] == "batch 1: 2.00× dense bfloat16 (1 ms)"


def test_html_is_escaped_and_needs_neither_script_nor_network(session):
    made = facts_html("<title>", {"a & b": '"<script>"'}, ["<line>"])
    assert "&lt;title&gt;" in made and "a &amp; b" in made and "&lt;script&gt;" in made and "&lt;line&gt;" in made
    shown = session._repr_html_()
    assert "<b>Int4 Workbench</b>" in shown and "42 of 57" in shown
    assert not re.search(r"<script|<link|http|src=", shown)
