"""Quality in the app: headline numbers, results one under the other, both answers, and what is wrong said in place."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import workbench as wb
from tests.tiny_models import make, saved
from workbench.demo import demo_eval_text
from workbench.errors import ConfigError
from workbench.measure.paired import Comparison, WindowPair
from workbench.session.quality_plan import Plan
from workbench.session.quality_prompt import Answers
from workbench.session.quality_state import Measured, QualityState, Results
from workbench.widgets.app import Workbench
from workbench.widgets.quality_bars import Bar, QualityBars
from workbench.widgets.quality_words import answers_said, bars_of, facts_of, notes_of, said
from workbench.widgets.side_by_side import SideBySide, marked
from workbench.widgets.text_panel import SHOWN_CHARACTERS

TEXT = demo_eval_text()[:6000]


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    return wb.demo_model()


@pytest.fixture
def app(wire: Any, pair: tuple[Any, Any]) -> Iterator[Workbench]:
    app = Workbench(*pair)
    assert app.wait(60)
    yield app
    app.close()


def click(app: Workbench, commands: Any, command: str) -> None:
    commands._handle_custom_msg({"type": "command", "command": command, "click": "c"}, [])


def change(form: Any, field: str, value: Any) -> None:
    form._handle_custom_msg({"type": "change", "id": field, "value": value, "turn": 1}, [])


def enabled(app: Workbench) -> dict[str, bool]:
    return {button["id"]: button["enabled"] for button in app.quality.commands.buttons}


def measure(app: Workbench) -> dict[str, tuple[str, str]]:
    change(app.quality.text, "text", TEXT)
    click(app, app.quality.commands, "measure")
    assert app.wait(60)
    return {fact["label"]: (fact["value"], fact["hint"]) for fact in app.quality.numbers.facts}


def test_the_tab_has_the_change_of_perplexity_while_it_holds_and_the_calibration_text_is_warned_of(
    app: Workbench,
) -> None:
    assert app.tabs.badges == {}
    numbers = measure(app)
    assert app.tabs.badges == {"quality": f"{numbers['Difference'][0]} perplexity"}
    app.session.quality.configure(follow=False)
    app.session.configure(group_size=32)
    assert app.tabs.badges == {}
    assert not any("calibration text" in note for note in app.quality.numbers.notes)
    app.session.calibration.set_text(TEXT)
    app.session.configure(solver="calibrated", scope="layer")
    app.session.cancel()
    assert app.quality.numbers.notes[-1].startswith("this is the calibration text")


@pytest.mark.parametrize("live", [True, False])
def test_a_model_without_a_tokenizer_is_told_before_somebody_asks(wire: Any, live: bool, tmp_path: Path) -> None:
    given = make("qwen2") if live else saved("qwen2", tmp_path)
    app = Workbench(given)
    called = "model" if live else repr(str(given))
    assert f"wb.Workbench({called}, tokenizer)" in app.quality.numbers.verdict
    assert not enabled(app)["measure"] and not app.quality.asking.buttons[0]["enabled"]
    app.session.cancel()
    assert app.wait(60)
    app.close()


def test_nothing_is_measured_before_somebody_asks(app: Workbench) -> None:
    assert app.quality.numbers.verdict == "Not measured yet."
    assert "held-out text" in app.quality.text.hint and app.quality.text.fold == "closed"
    app.session.configure(group_size=32)
    assert app.wait(60) and app.session.quality.state.history == ()


def test_the_numbers_are_those_of_the_session(app: Workbench) -> None:
    facts = measure(app)
    found = app.session.quality.state.measured.comparison
    assert facts["Perplexity"][0] == f"{found.reference_perplexity:.2f} → {found.perplexity:.2f}"
    assert facts["Mean KL"][0] == f"{found.mean_kl.value:.3g}" and "nats a token" in facts["Mean KL"][1]
    assert facts["Measured on"][0] == f"{found.tokens:,} tokens" and "all of the text" in facts["Measured on"][1]
    assert "Than before" not in facts
    (bar,) = bars_of(app.session.quality.state)
    assert bar.current and (bar.value, bar.high) == (found.mean_kl.value, found.mean_kl.high)
    assert app.quality.bars._bars == [], "one alone is what the numbers say"
    assert not app.quality.numbers.busy and app.status.problems == []
    assert app.status.job["state"] == "done"


def test_a_change_is_measured_and_said_against_what_was_before(app: Workbench) -> None:
    measure(app)
    app.session.configure(group_size=32)
    assert app.wait(60)
    facts = {fact["label"]: fact for fact in app.quality.numbers.facts}
    assert facts["Than before"]["value"] == "better" and facts["Than before"]["tone"] == "good"
    assert "g64" in facts["Than before"]["hint"]
    assert [bar["current"] for bar in app.quality.bars._bars] == [True, False]
    change(app.quality.form, "follow", False)
    app.session.configure(group_size=128)
    assert app.wait(60)
    assert app.quality.numbers.facts == [] and "under this recipe" in app.quality.numbers.verdict
    assert [bar["current"] for bar in app.quality.bars._bars] == [False, False]
    assert app.quality.form.values["follow"] is False


def test_stop_keeps_what_was_measured_and_the_settings_reach_the_session(app: Workbench) -> None:
    change(app.quality.form, "windows", "all")
    change(app.quality.form, "window", 2048)
    state = app.session.quality.state
    assert (state.window, state.windows) == (2048, None)
    running, stopped = threading.Event(), threading.Event()

    def hold(event: Any) -> None:
        if event.kind == "job" and event.data.state == "running":
            running.set()
            assert stopped.wait(60)

    app.session.listen(hold)
    click(app, app.quality.commands, "measure")
    assert running.wait(60)
    assert enabled(app) == {"measure": False, "stop": True}
    click(app, app.quality.commands, "stop")
    stopped.set()
    assert app.wait(60)
    assert enabled(app) == {"measure": True, "stop": False}
    assert app.status.job["state"] == "cancelled"


def test_both_answers_stand_side_by_side(app: Workbench) -> None:
    change(app.quality.prompt, "prompt", "The function returns")
    change(app.quality.prompt, "tokens", 20)
    click(app, app.quality.asking, "ask")
    assert app.wait(60)
    answers, sides = app.session.quality.prompt.answers, app.quality.sides
    assert ["".join(piece["text"] for piece in side) for side in sides._sides] == [answers.original, answers.int4]
    assert sides.prompt == "The function returns" and sides.verdict == answers_said(answers)
    assert any(piece["differs"] for piece in sides._sides[0]) and not sides.busy
    change(app.quality.form, "follow", False)
    app.session.keep_dense("all")
    assert sides._sides == [] and sides.verdict == ""
    change(app.quality.prompt, "prompt", "  ")
    click(app, app.quality.asking, "ask")
    assert "The prompt is empty" in app.quality.prompt.errors["prompt"]


def test_texts_and_files_and_what_is_wrong_with_them(app: Workbench, tmp_path: Path) -> None:
    change(app.quality.text, "path", str(tmp_path / "none.txt"))
    assert "cannot be read" in app.quality.text.errors["path"]
    (tmp_path / "wiki.test.raw").write_text(TEXT * 10, encoding="utf-8")
    change(app.quality.text, "path", str(tmp_path / "wiki.test.raw"))
    assert app.quality.text.errors == {} and "wiki.test.raw, 60,000 characters" in app.quality.text.hint
    assert len(app.quality.text.values["text"]) == SHOWN_CHARACTERS
    assert "wb-away" not in app.quality._demo._dom_classes
    click(app, app.quality.demo, "demo")
    assert app.session.quality.text.text == demo_eval_text() and "wb-away" in app.quality._demo._dom_classes
    for blank in ("", "\n\n"):
        change(app.quality.text, "text", blank)
        assert app.quality.text.hint == "no text yet" and "give a text first" in app.quality.numbers.verdict
        assert app.quality.text.fold == "open"
    click(app, app.quality.commands, "measure")
    assert "no text to measure on" in app.status.problems[0]["text"]


def test_a_model_that_is_no_language_model_says_so_in_the_panel(wire: Any, pair: tuple[Any, Any]) -> None:
    app = Workbench(nn.Sequential(nn.Linear(64, 64)), pair[1])
    change(app.quality.text, "text", TEXT)
    click(app, app.quality.commands, "measure")
    assert app.wait(60)
    assert "a causal language model" in app.quality.numbers.verdict
    app.close()


# --- words, without an app --------------------------------------------------------------------------------------------


def result(kls: list[float], nats: float = 200.0, label: str = "a recipe", available: int = 9) -> Measured:
    pairs = tuple(WindowPair(100, 200.0, nats, 100 * kl, 90) for kl in kls)
    return Measured(Plan(label, label, "text"), Comparison(pairs), 512, len(pairs), available)


def shown(now: Measured, *before: Measured) -> QualityState:
    results = Results()
    for one in (*before, now):
        results.add(one)
    change, label = results.change(now) or (None, "")
    return QualityState("a text", 9, None, 512, 32, True, now, change, label, results.on("text"))


@pytest.mark.parametrize(("kl", "value"), [(0.02, "better"), (0.2, "worse"), (0.101, "no difference")])
def test_a_change_is_called_what_its_interval_says(kl: float, value: str) -> None:
    before = result([0.1, 0.11, 0.09, 0.1], label="before")
    now = result([kl, kl + 0.011, kl - 0.012, kl], label="now")
    fact = next(fact for fact in facts_of(shown(now, before)) if fact.label == "Than before")
    assert fact.value == value and fact.hint.endswith("to before")


def test_what_is_said_of_the_perplexity() -> None:
    assert "raises the perplexity of this text by 11%" in said(shown(result([0.1, 0.1], 210.0)))
    assert "lowers the perplexity of this text by 9.5%" in said(shown(result([0.1, 0.1], 190.0)))
    assert "no difference" in said(shown(result([0.1, 0.1])))
    single = facts_of(shown(result([0.1], 210.0)))
    assert [fact.hint for fact in single if fact.label == "Difference"] == ["no interval from one window"]
    assert notes_of(shown(result([0.1]))) == []
    broken = QualityState("t", 1, None, 512, 32, True, problem=ConfigError("Nothing."))
    assert said(broken) == "Not measured: Nothing."


def test_bars_stand_on_the_same_windows() -> None:
    before, fewer = result([0.1, 0.2, 0.3], label="before"), result([0.1], label="stopped")
    unfinished = Measured(fewer.plan, fewer.comparison, 512, 3, 9)
    bars = bars_of(shown(result([0.1, 0.1], label="now"), before, unfinished))
    assert [(bar.label, bar.value) for bar in bars] == [("now", 0.1), ("before", pytest.approx(0.15))]
    assert all("2 windows" in bar.text for bar in bars) and bars[1].low == 0


def test_numbers_without_bounds_have_no_bar_and_break_nothing() -> None:
    state = shown(result([float("inf"), 1.0], 1e6))
    assert bars_of(state) == [] and "∞" in facts_of(state)[0].value
    with pytest.raises(ConfigError, match="finite"):
        Bar("a", float("nan"), None, None, "", "")


@pytest.mark.parametrize(
    ("tokens", "done", "expected"),
    [
        (((1, 2), (1, 2)), True, "Both give the same 2 tokens."),
        (((1, 2), (1,)), False, "Both give the same 2 tokens so far …"),
        (
            ((1, 2), (1, 3)),
            True,
            "The same for 1 token, then the original says “a” (40% sure) and int4 “end of the text” (30% sure).",
        ),
        (
            ((2,), (3,)),
            True,
            "At the first token the original says “a” (40% sure) and int4 “end of the text” (30% sure).",
        ),
    ],
)
def test_where_answers_part(tokens: Any, done: bool, expected: str) -> None:
    differ = tokens[0][-1] != tokens[1][-1] and len(tokens[0]) == len(tokens[1])
    parted = ((" a", 0.4), ("", 0.3)) if differ else None
    assert answers_said(Answers("p", "", "", tokens, 4, len(tokens[0]) - 1, parted, "r", done)) == expected


def test_words_that_differ_are_marked_and_nothing_is_lost() -> None:
    one, other = marked("the cat  sat\non a mat", "the dog  sat\non a red mat")
    assert "".join(piece.text for piece in one) == "the cat  sat\non a mat"
    assert "".join(piece.text for piece in other) == "the dog  sat\non a red mat"
    assert [piece.text.strip() for piece in one if piece.differs] == ["cat"]
    assert [piece.text.strip() for piece in other if piece.differs] == ["dog", "red"]
    assert marked("", "") == ([], []) and marked("a", "a")[0][0].differs is False


def test_components_show_what_they_hold() -> None:
    bars, sides = QualityBars(title="Distance"), SideBySide()
    bars.show([Bar("a", 0.1, 0.05, 0.2, "0.1", "9.0", True)])
    sides.show(("a b", "a c"), verdict="differ")
    assert "results: 1" in repr(bars) and "differ" in repr(sides)
    sides.show(None, verdict="")
    assert sides._sides == []
