"""A verdict in a line, the numbers behind it, and what was decided on the way."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import traitlets

from workbench.widgets.component import Component, bundle

Tone = Literal["", "good", "warn", "bad"]


@dataclass(frozen=True)
class Fact:
    """One number.

    Attributes:
        label: What it is.
        value: The number with its unit, as text.
        hint: How it came about, in a phrase (shown under the value).
        tone: "" or how to read it: "good", "warn", "bad".
    """

    label: str
    value: str
    hint: str = ""
    tone: Tone = ""


class Facts(Component):
    """Numbers under a verdict.

    Traits:
        title: Heading, or "".
        verdict: The line that sums up, or "".
        badge: A short state beside the title ("exact", "sampled 1/16", …), or "".
        facts: The numbers; set them through `show`.
        notes: Lines under them.
        open_notes: How many of the notes, from the first, always show; the others stand behind a button that counts
            them. None shows all.
        code: Text to show in a monospaced block with a copy button, or "".
        busy: Whether newer numbers are being computed.
    """

    _esm = bundle("shared.js", "facts.js")
    _css = bundle("theme.css", "facts.css")
    title = traitlets.Unicode("").tag(sync=True)
    verdict = traitlets.Unicode("").tag(sync=True)
    badge = traitlets.Unicode("").tag(sync=True)
    facts = traitlets.List(traitlets.Dict()).tag(sync=True)
    notes = traitlets.List(traitlets.Unicode()).tag(sync=True)
    open_notes = traitlets.Int(None, allow_none=True).tag(sync=True)
    code = traitlets.Unicode("").tag(sync=True)
    busy = traitlets.Bool(False).tag(sync=True)

    def show(self, facts: Sequence[Fact], **traits: Any) -> None:
        """Show these numbers, and change other traits with them (any thread)."""
        with self.hold_sync():
            self.facts = [dataclasses.asdict(fact) for fact in facts]
            for name, value in traits.items():
                setattr(self, name, value)

    def copy_code(self, code: str) -> None:
        """Show a text as the code, and let the page copy it; where it has no clipboard the text is selected there."""
        self.code = code
        self.send({"type": "copy"})

    def _summary(self) -> str:
        return "; ".join(filter(None, [self.title, self.verdict]))
