"""What every panel shares that measures on a text: the text, how much of it is measured, and the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets

from workbench.errors import WorkbenchError
from workbench.session import Session
from workbench.session.quality import DEMO_ORIGIN
from workbench.widgets.commands import Command, Commands
from workbench.widgets.component import ErrorHandler
from workbench.widgets.facts import Facts
from workbench.widgets.form import Field, Form, Value
from workbench.widgets.panel import Panel, row, styled

SHOWN_CHARACTERS = 20_000


def text_fields(label: str, tooltip: str, file: str) -> tuple[Field, Field]:
    """Return the fields that take a text, pasted or as a file.

    Args:
        label: What the text is for.
        tooltip: What text it should be, and how much.
        file: A file's name, as an example.
    """
    paste = "Paste some pages of text here, or name a file below."
    return (
        Field("text", label, "area", (), tooltip, wide=True, placeholder=paste, limit=SHOWN_CHARACTERS),
        Field("path", "or a text file", "text", (), "A file in UTF-8, read once", wide=True, placeholder=file),
    )


_TEXT = text_fields(
    "Text to measure on",
    "Like what the model will read, and nothing that it was trained on; some pages are enough",
    "wiki.test.raw",
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
_DEMO = Command("demo", "Use the demo text", "Pages that the demo model was not trained on")


class TextPanel(Panel):
    """Text and settings over the numbers that are measured on it.

    Args:
        session: The shared state.
        on_error: Called as (exception, where) for each error of a handler.
        measuring: The buttons.
        below: What stands under the numbers.
        follow: Whether it can be measured after each change.
    """

    def __init__(
        self,
        session: Session,
        on_error: ErrorHandler,
        measuring: Sequence[Command],
        below: Sequence[ipywidgets.Widget] = (),
        *,
        follow: bool = False,
    ) -> None:
        how: dict[str, Value] = {"window": 512, "windows": 32, **({"follow": True} if follow else {})}
        self.text = Form(_TEXT, {"text": "", "path": ""}, on_error=on_error, title="Text", fold="closed")
        self.form = Form(_HOW if follow else _HOW[:-1], how, on_error=on_error, inline=True)
        self.commands = Commands(measuring, on_error=on_error)
        self.demo = Commands([_DEMO], on_error=on_error)
        self.numbers = Facts(on_error=on_error)
        self._demo = row(self.demo)  # a component's own classes stay as they were when it was drawn
        controls = row(self.form, self.commands, grow=self.form)
        super().__init__(session, on_error, [self.text, self._demo, controls, self.numbers, *below])
        styled(self, "wb-quality")
        self._text: str | None = None
        self.text.on_change(self._text_changed)
        self.form.on_change(self._how_changed)
        self.commands.on_command(self.run)
        self.demo.on_command(self._use_demo)

    def run(self, command: str) -> str:
        """Do what a button says; return what came of it."""
        raise NotImplementedError

    def show_text(self) -> None:
        """Show the text and how it is measured."""
        quality = self.session.quality
        state = quality.state
        if quality.text.text is not self._text:  # a text of megabytes is not compared
            self._text = quality.text.text
            self.text.set_values(text=self._text, path="" if state.path is None else str(state.path))
            self.text.errors = {}
            self.text.fold = "closed" if self._text.strip() else "open"
        self.text.hint = f"{state.origin}, {state.characters:,} characters" if state.origin else "no text yet"
        away = not quality.has_demo_text or state.origin == DEMO_ORIGIN
        (self._demo.add_class if away else self._demo.remove_class)("wb-away")
        windows: Value = "all" if state.windows is None else state.windows
        known: dict[str, Value] = {"window": state.window, "follow": state.follow}
        if windows in [value for value, _ in _HOW[1].options]:
            known["windows"] = windows
        self.form.set_values(**{name: value for name, value in known.items() if name in self.form.values})

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

    def _use_demo(self, _command: str) -> str:
        self.session.quality.use_demo_text()
        return ""
