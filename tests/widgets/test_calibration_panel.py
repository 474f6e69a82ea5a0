"""The calibration text in the app: shown where it is needed, what is used of it, and what is wrong under the field."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import workbench as wb
from tests.tiny_models import demo_of_two_blocks
from tests.widgets.opened import opened
from workbench.calibration_text import CalibrationState
from workbench.demo import demo_calibration_text
from workbench.errors import ConfigError
from workbench.widgets.app import Workbench
from workbench.widgets.calibration_panel import errors_of, facts_of
from workbench.widgets.text_panel import SHOWN_CHARACTERS

TEXT = demo_calibration_text()[:4000]


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    return demo_of_two_blocks()


@pytest.fixture
def app(wire: Any, pair: tuple[Any, Any]) -> Iterator[Workbench]:
    with opened(*pair) as app:
        yield app


def change(app: Workbench, field: str, value: Any) -> None:
    app.calibration.form._handle_custom_msg({"type": "change", "id": field, "value": value, "turn": 1}, [])
    assert app.wait(60)


def calibrate(app: Workbench) -> None:
    change(app, "text", TEXT)
    app.configure.form.change("scope", "this layer")
    app.configure.form.change("solver", "calibrated")
    assert app.wait(60)


def away(widget: Any) -> bool:
    return "wb-away" in widget._dom_classes


def test_it_is_shown_while_a_layer_is_to_be_calibrated(app: Workbench) -> None:
    assert away(app.calibration)
    calibrate(app)
    assert not away(app.calibration)
    app.configure.form.change("solver", "refined")
    assert app.wait(60)
    assert away(app.calibration)


def test_a_calibrated_view_says_its_inputs_and_what_it_gains(app: Workbench) -> None:
    calibrate(app)
    facts = {fact["label"]: fact for fact in app.errors.numbers.facts}
    squared = facts["Squared output error"]
    assert squared["tone"] == "good" and "× round-to-nearest" in squared["hint"]
    assert app.errors.heatmap.payload is not None
    assert app.errors.heatmap.payload.badge == "inputs of the dense model"
    assert any("inputs of the dense model" in note for note in app.errors.numbers.notes)
    assert app.convergence.chart.chart.title == "Convergence: calibrated"
    assert app.convergence.chart.chart.y_label == "mean squared output error"
    assert app.convergence.chart.chart.y_from_zero
    assert app.configure.settings.values.items() >= vars(wb.CalibratedOptions()).items()
    errors = [error for error in app.layers.table.columns["error"] if error is not None]
    assert errors == [app.session.errors[app.session.current].summary.relative_rmse]
    assert app.status.job["state"] == "done" and app.status.problems == []


def test_what_is_used_is_said(app: Workbench) -> None:
    calibrate(app)
    shown = {fact["label"]: (fact["value"], fact["hint"]) for fact in app.calibration.numbers.facts}
    state = app.session.calibration.state
    assert shown["Used"] == (f"{state.tokens:,} tokens", "of 4,000 characters")
    assert shown["Sequences"] == (str(state.sequences), "of 512 tokens each")
    assert "Model" not in shown, "a live model is in memory"
    assert app.calibration.form.hint == "text given here"
    assert state.notes and app.calibration.numbers.notes == list(state.notes)
    assert not app.calibration.numbers.busy


def test_the_demo_text_comes_back_with_a_button_that_is_there_when_it_can_do_something(app: Workbench) -> None:
    assert away(app.calibration.children[-1])
    calibrate(app)
    assert not away(app.calibration.children[-1])
    app.calibration.commands._handle_custom_msg({"type": "command", "command": "demo", "click": "c"}, [])
    assert app.wait(60)
    assert app.session.calibration.text == demo_calibration_text()
    assert away(app.calibration.children[-1])


def test_the_page_has_the_beginning_of_a_long_text_and_the_session_all_of_it(app: Workbench, wire: Any) -> None:
    text = "0123456789 " * 10_000
    calibrate(app)
    app.configure.form.change("solver", "refined")
    wire.clear()
    change(app, "text", text)
    assert app.session.calibration.text == text
    assert len(app.calibration.form.values["text"]) == SHOWN_CHARACTERS
    assert app.calibration.form.lengths == {"text": len(text)}
    assert sum(len(str(message)) for message, _ in wire.messages) < 10 * SHOWN_CHARACTERS


@pytest.mark.parametrize(
    ("text", "said"), [("", "no calibration text"), ("a", "has 1 token"), ("a few words", "tokens are too few")]
)
def test_a_text_that_cannot_be_used_says_so_under_the_field(app: Workbench, text: str, said: str) -> None:
    calibrate(app)
    change(app, "text", text)
    assert said in app.calibration.form.errors["text"] and "To mend it" in app.calibration.form.errors["text"]
    assert app.status.problems == []
    assert any("refined instead of calibrated" in note for note in app.errors.numbers.notes)
    change(app, "text", TEXT)
    assert app.calibration.form.errors == {}


def test_layers_that_fell_back_in_a_sweep_are_named_above_the_panels(app: Workbench) -> None:
    calibrate(app)
    app.configure.settings.change("min_tokens", 10**6)
    assert app.wait(60)
    app.session.keep_dense("all")
    app.session.select(["model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj"])
    app.session.make_int4("selection")
    app.session.configure(solver="calibrated", options={"min_tokens": 10**6}, scope="selection")
    assert app.wait(60)
    app.tools._handle_custom_msg({"type": "command", "command": "sweep", "click": "c"}, [])
    assert app.wait(60)
    names = "model.layers.0.self_attn.q_proj, model.layers.0.self_attn.k_proj"
    note = next(note for note in app.layers.verdict.notes if "refined instead of calibrated" in note)
    assert note.startswith(f"{names} solved with refined") and "fewer than 1000000" in note
    assert "refined" in app.status.job["text"]
    app.session.configure(solver="refined", scope="selection")
    assert app.wait(60)
    assert not any("instead" in note for note in app.layers.verdict.notes)


def test_files_are_read_and_what_is_wrong_with_one_stands_under_its_field(app: Workbench, tmp_path: Path) -> None:
    calibrate(app)
    change(app, "path", str(tmp_path / "none.txt"))
    assert "cannot be read" in app.calibration.form.errors["path"]
    assert app.session.calibration.text == TEXT
    (tmp_path / "short.txt").write_text("few words", encoding="utf-8")
    change(app, "path", str(tmp_path / "short.txt"))
    assert "too few" in app.calibration.form.errors["path"]
    assert app.calibration.form.values == {"text": "few words", "path": str(tmp_path / "short.txt")}
    change(app, "text", TEXT)
    assert (app.calibration.form.values["path"], app.calibration.form.errors) == ("", {})


def test_a_model_without_text_or_tokenizer_says_what_to_do(wire: Any) -> None:
    app = Workbench(nn.Sequential(nn.Linear(64, 64)))
    app.configure.form.change("solver", "calibrated")
    assert app.wait(60)
    assert app.calibration.form.hint == "none yet"
    assert "no calibration text" in app.calibration.form.errors["text"]
    assert away(app.calibration.children[-1])
    change(app, "text", TEXT)
    assert "wb.Workbench(model, tokenizer)" in app.calibration.form.errors["text"]
    app.close()


def test_the_cell_of_python_reads_the_text(app: Workbench, tmp_path: Path) -> None:
    calibrate(app)
    app.export.form.change("directory", str(tmp_path / "out"))
    app.export.commands._handle_custom_msg({"type": "command", "command": "python", "click": "c"}, [])
    (file,) = tmp_path.glob("calibration-*.txt")
    assert repr(str(file)) in app.export.result.code and "calibration=text" in app.export.result.code


def test_facts_and_errors_of_a_state() -> None:
    used = CalibrationState("corpus.txt", 9000, Path("corpus.txt"), 3, 512, (), None, 11_540_000)
    assert [(fact.label, fact.value) for fact in facts_of(used)] == [
        ("Used", "1,536 tokens"),
        ("Sequences", "3"),
        ("Model", "11.54 MB"),
    ]
    assert errors_of(used, 128) == {}
    assert list(errors_of(used, 2000)) == ["path"]
    broken = CalibrationState("", 0, problem=ConfigError("Nothing."))
    assert (facts_of(broken), errors_of(broken, 0)) == ([], {"text": "Nothing."})
