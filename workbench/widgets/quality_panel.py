"""The quality of the model under the recipe, beside the original: numbers, results before, a prompt on both."""

from __future__ import annotations

from typing import Any

from workbench.errors import WorkbenchError
from workbench.jobs import Job
from workbench.session import Event, Session
from workbench.session.quality import DEMO_ORIGIN
from workbench.session.quality_prompt import Answers
from workbench.widgets.commands import Command, Commands
from workbench.widgets.component import ErrorHandler
from workbench.widgets.facts import Facts
from workbench.widgets.form import Field, Form, Value
from workbench.widgets.panel import Panel, row, styled
from workbench.widgets.quality_bars import QualityBars
from workbench.widgets.quality_words import answers_said, bars_of, facts_of, notes_of, said
from workbench.widgets.side_by_side import SideBySide

SHOWN_CHARACTERS = 20_000
_TEXT = (
    Field(
        "text",
        "Text to measure on",
        "area",
        (),
        "Like what the model will read, and nothing that it was trained on; some pages are enough",
        wide=True,
        placeholder="Paste some pages of text here, or name a file below.",
        limit=SHOWN_CHARACTERS,
    ),
    Field("path", "or a text file", "text", (), "A file in UTF-8, read once", wide=True, placeholder="wiki.test.raw"),
)
_HOW = (
    Field("window", "Context", "segments", ((512, "512"), (2048, "2048")), "Tokens of a window; each starts anew"),
    Field(
        "windows",
        "Windows",
        "segments",
        ((8, "8"), (32, "32"), (128, "128"), ("all", "all")),
        "How much of the text is measured: more makes the interval narrower",
    ),
    Field("follow", "Update after each change", "switch", (), "Measure, and answer the prompt, after each change"),
)
_PROMPT = (
    Field("prompt", "Prompt", "text", (), "The beginning of a text", wide=True, placeholder="Once upon a time"),
    Field("tokens", "Tokens", "segments", ((20, "20"), (60, "60"), (200, "200")), "Most tokens of each answer"),
)
_NAMES = ["original", "int4"]
_COLUMNS = ["recipe", "mean KL(original ‖ int4), nats a token", "perplexity"]
_NO_BARS = "Each recipe that is measured stands here, so that a change can be compared with what was before."
_ONE_BAR = "Change a setting and measure again: both recipes then stand here, side by side."
_FIRST_PROMPT = "The function returns"


_MEASURING = (
    Command("measure", "Measure quality", "Run original and int4 model on the text", "primary"),
    Command("stop", "Stop measuring", "Keep the windows measured so far", enabled=False),
)
_ASKING = (
    Command("ask", "Try on both", "Let both models go on from the prompt", "primary"),
    Command("stop", "Stop", "Keep the words so far", enabled=False),
)
_DEMO = Command("demo", "Use the demo text", "Pages that the demo model was not trained on")


class QualityPanel(Panel):
    """Text and settings, headline numbers, the last results with their intervals, and both answers to a prompt."""

    def __init__(self, session: Session, on_error: ErrorHandler) -> None:
        how: dict[str, Value] = {"window": 512, "windows": 32, "follow": True}
        prompt: dict[str, Value] = {"prompt": _FIRST_PROMPT if session.quality.has_demo_text else "", "tokens": 60}
        self.text = Form(_TEXT, {"text": "", "path": ""}, on_error=on_error, title="Text", fold="closed")
        self.form = Form(_HOW, how, on_error=on_error, inline=True)
        self.commands = Commands(_MEASURING, on_error=on_error)
        self.demo = Commands([_DEMO], on_error=on_error)
        self.numbers = Facts(on_error=on_error)
        self.bars = QualityBars(on_error=on_error, title="Distance from the original", columns=_COLUMNS, empty=_NO_BARS)
        self.prompt = Form(_PROMPT, prompt, on_error=on_error, title="Try a prompt", inline=True)
        self.asking = Commands(_ASKING, on_error=on_error)
        self.sides = SideBySide(on_error=on_error, names=_NAMES)
        self._demo = row(self.demo)  # a component's own classes stay as they were when it was drawn
        controls = row(self.form, self.commands, grow=self.form)
        asked = styled(row(self.prompt, self.asking, grow=self.prompt), "wb-quality-prompt")
        parts = [self.text, self._demo, controls, self.numbers, self.bars, asked, self.sides]
        super().__init__(session, on_error, parts)
        styled(self, "wb-quality")
        self._text: str | None = None
        if session.quality.state.refused is not None:  # the line above the numbers says why
            self.commands.enable(measure=False)
            self.asking.enable(ask=False)
        self._show()
        self.text.on_change(self._text_changed)
        self.form.on_change(self._how_changed)
        self.commands.on_command(self._run)
        self.demo.on_command(self._run)
        self.prompt.on_change(self._prompt_changed)
        self.asking.on_command(self._run_prompt)

    def on_event(self, event: Event) -> None:
        """Show results and answers as they come."""
        if event.kind == "quality":
            self._show()
        elif event.kind == "answers":
            self._show_answers(self.session.quality.prompt.answers)
        elif event.kind == "job":
            self._follow_newest(event.data)

    def _show(self) -> None:
        quality = self.session.quality
        state = quality.state
        if quality.text.text is not self._text:  # a text of megabytes is not compared
            self._text = quality.text.text
            self.text.set_values(text=self._text, path="" if state.path is None else str(state.path))
            self.text.errors = {}
            self.text.fold = "closed" if self._text else "open"
        self.text.hint = f"{state.origin}, {state.characters:,} characters" if state.origin else "no text yet"
        away = not quality.has_demo_text or state.origin == DEMO_ORIGIN
        (self._demo.add_class if away else self._demo.remove_class)("wb-away")
        windows = "all" if state.windows is None else state.windows
        shown = windows in [value for value, _ in _HOW[1].options]
        self.form.set_values(window=state.window, follow=state.follow, **({"windows": windows} if shown else {}))
        self.numbers.show(facts_of(state), verdict=said(state), notes=notes_of(state))
        bars = bars_of(state)
        self.bars.empty = _ONE_BAR if bars else _NO_BARS
        self.bars.show(bars if len(bars) > 1 else [])  # one alone is what the numbers say

    def _follow_newest(self, job: Job) -> None:
        """Follow the newest job of each kind; of one that it took the place of, the end may be told late."""
        if job is self.session.quality.lane.latest:
            self._follow(job)
        elif job is self.session.quality.prompt.lane.latest:
            self._follow_prompt(job)

    def _follow(self, job: Job) -> None:
        self.numbers.busy = not job.finished
        self.commands.enable(measure=job.finished, stop=not job.finished)
        if not job.finished and job.progress is not None and self.session.quality.state.measured is None:
            self.numbers.verdict = f"Measuring: {job.progress.label}"
        elif job.finished:
            self._show()

    def _show_answers(self, answers: Answers | None) -> None:
        if answers is None:
            self.sides.show(None, verdict="", prompt="", notes=[])
            return
        notes = [f"int4: {answers.label}; both take the most likely token each time", *answers.notes]
        texts = (answers.original, answers.int4)
        self.sides.show(texts, verdict=answers_said(answers), prompt=answers.prompt, notes=notes)

    def _follow_prompt(self, job: Job) -> None:
        self.sides.busy = not job.finished
        self.asking.enable(ask=job.finished, stop=not job.finished)

    def _text_changed(self, field: str, value: Value) -> None:
        try:
            if field == "text":
                self.session.quality.set_text(str(value))
            elif str(value).strip():
                self.session.quality.load_file(str(value).strip())
            self.text.errors = {}
        except WorkbenchError as error:
            self.text.errors = {**self.text.errors, field: str(error)}

    def _how_changed(self, field: str, value: Value) -> None:
        change: dict[str, Any] = {field: value}
        self.session.quality.configure(**change)

    def _prompt_changed(self, field: str, value: Value) -> None:
        self.prompt.errors = {}

    def _run(self, command: str) -> str:
        quality = self.session.quality
        if command == "stop":
            quality.lane.cancel()
            return "stopping after this window"
        if command == "demo":
            quality.use_demo_text()
            return ""
        return "" if quality.measure() is not None else "measured already"

    def _run_prompt(self, command: str) -> str:
        prompt = self.session.quality.prompt
        if command == "stop":
            prompt.lane.cancel()
            return "stopping after this token"
        values = self.prompt.values
        try:
            prompt.ask(values["prompt"], values["tokens"])
        except WorkbenchError as error:
            self.prompt.errors = {"prompt": str(error)}
        return ""
