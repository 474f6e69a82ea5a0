"""The text that the calibrated solver learns its layers' inputs from, and what is used of it."""

from __future__ import annotations

import ipywidgets

from workbench.calibration_text import CalibrationState
from workbench.coverage.coverage import Coverage, needs_calibration
from workbench.errors import WorkbenchError
from workbench.options import CalibratedOptions
from workbench.session import Event, Session
from workbench.session.calibration import JOB_LABEL
from workbench.session.tokenized_text import DEMO_ORIGIN
from workbench.sizes import size
from workbench.widgets.commands import Command, Commands
from workbench.widgets.component import ErrorHandler
from workbench.widgets.facts import Fact, Facts
from workbench.widgets.form import Form, Value
from workbench.widgets.panel import Panel, row
from workbench.widgets.text_panel import text_fields

FIELDS = text_fields(
    "Text like what the model will read",
    "Some 300 kB are enough: 128 sequences of 512 tokens are used at most",
    "corpus.txt",
)


class CalibrationPanel(Panel):
    """Shown while a layer uses the calibrated solver, and once the error of a layer's output was asked for."""

    def __init__(self, session: Session, on_error: ErrorHandler) -> None:
        self.form = Form(FIELDS, {"text": "", "path": ""}, on_error=on_error, title="Calibration text", fold="open")
        self.commands = Commands(
            [Command("demo", "Use the demo text", "Paragraphs of many pages that come with the demo model")],
            on_error=on_error,
        )
        self.numbers = Facts(on_error=on_error)
        self._buttons = row(self.commands)  # a component's own classes stay as they were when it was drawn
        super().__init__(session, on_error, [self.form, self.numbers, self._buttons])
        self._text: str | None = None
        self._show()
        self.form.on_change(self._changed)
        self.commands.on_command(self._run)

    def on_event(self, event: Event) -> None:
        """Show the text, and what became of it."""
        if event.kind in ("coverage", "calibration"):
            self._show()
        elif event.kind == "job" and event.data.label == JOB_LABEL:
            self.numbers.busy = not event.data.finished

    def _show(self) -> None:
        session = self.session
        _show_if(self, bool(needs_calibration(session.coverage)) or session.details.wants_output)
        state = session.calibration.state
        if session.calibration.text is not self._text:  # a text of megabytes is not compared
            self._text = session.calibration.text
            self.form.set_values(text=self._text)
        self.form.set_values(path="" if state.path is None else str(state.path))
        self.form.errors = errors_of(state, _fewest_tokens(session.coverage))
        self.form.hint = state.origin or "none yet"
        self.numbers.show(facts_of(state), notes=list(state.notes))
        _show_if(self._buttons, session.calibration.has_demo_text and state.origin != DEMO_ORIGIN)

    def _changed(self, field: str, value: Value) -> None:
        try:
            if field == "text":
                self.session.calibration.set_text(str(value))
            elif str(value).strip():
                self.session.calibration.load_file(str(value))
        except WorkbenchError as error:
            self.form.errors = {**self.form.errors, field: str(error)}

    def _run(self, command: str) -> str:
        self.session.calibration.use_demo_text()
        return ""


def _show_if(box: ipywidgets.Box, shown: bool) -> None:
    """Show a box, or take it out of the page."""
    (box.remove_class if shown else box.add_class)("wb-away")


def errors_of(state: CalibrationState, fewest_tokens: int) -> dict[str, str]:
    """Return what is wrong with the text, under the control that it came from."""
    where = "text" if state.path is None else "path"
    if state.problem is not None:
        return {where: str(state.problem)}
    if state.tokens is not None and state.tokens < fewest_tokens:
        what = f"{state.tokens:,} tokens are too few: with fewer than {fewest_tokens:,}, layers fall back to refined."
        return {where: f"{what} To mend it: give some thousand words, or lower Fewest tokens in the solver settings."}
    return {}


def _fewest_tokens(coverage: Coverage) -> int:
    options = [config.options for config in coverage.configs.values()]
    return max((one.min_tokens for one in options if isinstance(one, CalibratedOptions)), default=0)


def facts_of(state: CalibrationState) -> list[Fact]:
    """Return the numbers of a calibration text."""
    if state.sequences is None:
        return []
    facts = [
        Fact("Used", f"{state.tokens:,} tokens", f"of {state.characters:,} characters"),
        Fact("Sequences", f"{state.sequences:,}", f"of {state.sequence_length:,} tokens each"),
    ]
    if state.loads_bytes:
        facts.append(Fact("Model", size(state.loads_bytes), "loaded once, to run the text through it"))
    return facts
