"""Two texts side by side, with the words that differ marked."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import traitlets

from workbench.widgets.component import Component, bundle


@dataclass(frozen=True)
class Piece:
    """A stretch of a text.

    Attributes:
        text: The words, with the blanks after them.
        differs: Whether the other text has others here.
    """

    text: str
    differs: bool


def marked(one: str, other: str) -> tuple[list[Piece], list[Piece]]:
    """Cut two texts into pieces that both have and pieces that differ, by words."""
    left, right = _words(one), _words(other)
    matcher = SequenceMatcher(None, [word.strip() for word in left], [word.strip() for word in right], autojunk=False)
    pieces: tuple[list[Piece], list[Piece]] = ([], [])
    for kind, start, stop, from_, to in matcher.get_opcodes():
        for words, found in ((left[start:stop], pieces[0]), (right[from_:to], pieces[1])):
            if words:
                found.append(Piece("".join(words), kind != "equal"))
    return pieces


def _words(text: str) -> list[str]:
    """Return the words of a text, each with the blanks after it; together they are the text."""
    return re.findall(r"\S+\s*|\s+", text)


class SideBySide(Component):
    """Two columns of text under a line that says where they part.

    Traits:
        verdict: The line that sums up, or "".
        prompt: What both texts follow.
        names: Headings of the two columns.
        notes: Lines under them.
        busy: Whether more is on its way.
        empty: Text while there is nothing.
    """

    _esm = bundle("shared.js", "side_by_side.js")
    _css = bundle("theme.css", "side_by_side.css")
    verdict = traitlets.Unicode("").tag(sync=True)
    prompt = traitlets.Unicode("").tag(sync=True)
    names = traitlets.List(traitlets.Unicode(), ["", ""]).tag(sync=True)
    notes = traitlets.List(traitlets.Unicode()).tag(sync=True)
    busy = traitlets.Bool(False).tag(sync=True)
    empty = traitlets.Unicode("").tag(sync=True)
    _sides = traitlets.List(traitlets.List(traitlets.Dict())).tag(sync=True)

    def show(self, texts: Sequence[str] | None, **traits: object) -> None:
        """Show two texts, or None for nothing yet, and change other traits with them (any thread)."""
        sides = [] if texts is None else [[dataclasses.asdict(piece) for piece in side] for side in marked(*texts)]
        with self.hold_sync():
            self._sides = sides
            for name, value in traits.items():
                setattr(self, name, value)

    def _summary(self) -> str:
        return f"{self.verdict!r}"
