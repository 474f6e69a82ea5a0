"""The quality of the model under the recipe, beside the original: numbers, results before, a prompt on both."""

from __future__ import annotations

from workbench.errors import WorkbenchError
from workbench.jobs import Job
from workbench.session import Event, Session
from workbench.session.quality_prompt import Answers
from workbench.widgets.commands import Command, Commands
from workbench.widgets.component import ErrorHandler
from workbench.widgets.form import Field, Form, Value
from workbench.widgets.panel import row, styled
from workbench.widgets.quality_bars import QualityBars
from workbench.widgets.quality_words import answers_said, bars_of, facts_of, notes_of, said
from workbench.widgets.side_by_side import SideBySide
from workbench.widgets.text_panel import TextPanel

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


class QualityPanel(TextPanel):
    """Text and settings, headline numbers, the last results with their intervals, and both answers to a prompt."""

    def __init__(self, session: Session, on_error: ErrorHandler) -> None:
        prompt: dict[str, Value] = {"prompt": _FIRST_PROMPT if session.quality.has_demo_text else "", "tokens": 60}
        self.bars = QualityBars(on_error=on_error, title="Distance from the original", columns=_COLUMNS, empty=_NO_BARS)
        self.prompt = Form(_PROMPT, prompt, on_error=on_error, title="Try a prompt", inline=True)
        self.asking = Commands(_ASKING, on_error=on_error)
        self.sides = SideBySide(on_error=on_error, names=_NAMES)
        asked = styled(row(self.prompt, self.asking, grow=self.prompt), "wb-quality-prompt")
        super().__init__(session, on_error, _MEASURING, [self.bars, asked, self.sides], follow=True)
        if session.quality.state.refused is not None:  # the line above the numbers says why
            self.commands.enable(measure=False)
            self.asking.enable(ask=False)
        self._show()
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
        self.show_text()
        state = self.session.quality.state
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

    def _prompt_changed(self, field: str, value: Value) -> None:
        self.prompt.errors = {}

    def run(self, command: str) -> str:
        """Do what a button says; return what came of it."""
        quality = self.session.quality
        if command == "stop":
            quality.lane.cancel()
            return "stopping after this window"
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
