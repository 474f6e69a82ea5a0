"""What differs between two recipes, line by line as their files would."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from workbench.recipe.recipe import Recipe
from workbench.recipe.text import recipe_text

LineKind = Literal["same", "added", "removed", "gap"]
_KINDS: dict[str, LineKind] = {" ": "same", "+": "added", "-": "removed", "@": "gap"}


@dataclass(frozen=True)
class DiffLine:
    """A line of a difference.

    Attributes:
        kind: "same" in both, "added", "removed", or "gap": lines that are the same are left out here.
        text: The line without its sign.
    """

    kind: LineKind
    text: str


@dataclass(frozen=True)
class RecipeDiff:
    """The difference between two recipes.

    Attributes:
        lines: Its lines; none for equal recipes.
    """

    lines: tuple[DiffLine, ...]

    @property
    def added(self) -> int:
        """Lines that only the newer recipe has."""
        return sum(line.kind == "added" for line in self.lines)

    @property
    def removed(self) -> int:
        """Lines that only the older recipe has."""
        return sum(line.kind == "removed" for line in self.lines)

    def said(self) -> str:
        """Say the difference in a few words."""
        return f"{_lines(self.added)} added, {_lines(self.removed)} removed" if self.lines else "no difference"

    def __str__(self) -> str:
        """The unified difference, as diff writes it."""
        signs = {"same": " ", "added": "+", "removed": "-", "gap": "@"}
        return "\n".join(f"{signs[line.kind]}{line.text}" for line in self.lines)


def recipe_diff(before: Recipe, after: Recipe, context: int = 3) -> RecipeDiff:
    """Return what differs between the files of two recipes.

    Args:
        before: The older one.
        after: The newer one.
        context: Lines shown around each change that are the same in both.
    """
    old, new = (recipe_text(recipe.to_json()).splitlines() for recipe in (before, after))
    unified = list(difflib.unified_diff(old, new, lineterm="", n=context))[2:]  # without the names of the files
    lines = [DiffLine(_KINDS[line[0]], line[1:].strip("@ ") if line[0] == "@" else line[1:]) for line in unified]
    return RecipeDiff(tuple(lines[1:] if lines and lines[0].text.startswith("-1,") else lines))


def _lines(count: int) -> str:
    return f"{count} line{'' if count == 1 else 's'}"
