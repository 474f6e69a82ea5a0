"""What a person does to the recipe as a whole: its rules in order, its text, its files, and what changed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol, get_args

from workbench.coverage.coverage import Coverage
from workbench.errors import ConfigError, WorkbenchError
from workbench.recipe.diff import RecipeDiff, recipe_diff
from workbench.recipe.history import RecipeHistory
from workbench.recipe.recipe import Choice, Recipe, Rule, read_recipe
from workbench.recipe.rules import RuleRow, rule_rows
from workbench.recipe.text import Document, parse_document, read_document, reading, recipe_text

Against = Literal["previous", "pinned", "file"]
_LINE = re.compile(r", line (\d+): ")


class Owner(Protocol):
    """What holds the recipe."""

    recipe: Recipe
    coverage: Coverage

    def set_recipe(self, recipe: Recipe) -> None:
        """Take a recipe, or refuse it."""

    def choice(self) -> Choice:
        """The settings on show."""


class SessionRecipe:
    """The recipe of a session as a whole. What changes it goes through the session's `set_recipe`, so it can be undone.

    Args:
        owner: What holds the recipe.
        preflight: Says what becomes of every weight under a recipe, or refuses it.
        on_state: Called after a recipe was pinned, loaded or saved.

    Attributes:
        history: The recipes so far.
        pinned: A recipe that was put aside to compare with, or None.
        filed: The recipe as the file that was last loaded or saved holds it, or None.
        path: That file, or None.
    """

    def __init__(self, owner: Owner, preflight: Callable[[Recipe], Coverage], on_state: Callable[[], None]) -> None:
        self._owner, self._preflight, self._on_state = owner, preflight, on_state
        self.history = RecipeHistory(owner.recipe)
        self.pinned: Recipe | None = None
        self.filed: Recipe | None = None
        self.path: Path | None = None

    # --- rules --------------------------------------------------------------------------------------------------

    def rules(self) -> list[RuleRow]:
        """Return the rules in the order in which they decide, then the default and the output head."""
        return rule_rows(self._owner.recipe, self._owner.coverage)

    def move(self, place: int, by: int) -> None:
        """Let a rule decide earlier (`by` -1) or later (1).

        Raises:
            ConfigError: when there is no rule at its place, or at the one it would go to.
        """
        rules = list(self._owner.recipe.rules)
        self._check(place, rules)
        self._check(place + by, rules)
        rules.insert(place + by, rules.pop(place))
        self._set(rules)

    def remove(self, place: int) -> None:
        """Drop a rule.

        Raises:
            ConfigError: when there is no rule at that place.
        """
        rules = list(self._owner.recipe.rules)
        self._check(place, rules)
        self._set([*rules[:place], *rules[place + 1 :]])

    def rename(self, place: int, pattern: str) -> None:
        """Give a rule another pattern.

        Raises:
            ConfigError: when there is no rule at that place.
            PatternError: for a pattern that is malformed or matches nothing; the rule keeps its own.
        """
        rules = list(self._owner.recipe.rules)
        self._check(place, rules)
        self._set([*rules[:place], Rule(pattern.strip(), rules[place].choice), *rules[place + 1 :]])

    def add(self, pattern: str, *, dense: bool) -> None:
        """Put a rule before all others: layers stay dense, or become int4 with the settings on show.

        Raises:
            PatternError: for a pattern that is malformed or matches nothing.
        """
        choice = None if dense else self._owner.choice()
        self._owner.set_recipe(self._owner.recipe.with_rule(pattern.strip(), choice))

    def set_output_head(self, as_default: bool) -> None:
        """Let the default decide the output head too, or leave it dense."""
        self._owner.set_recipe(replace(self._owner.recipe, output_head=as_default))

    def take_preset(self, name: str) -> None:
        """Take a recipe by name.

        Raises:
            ConfigError: for an unknown name, with all there are.
        """
        self._owner.set_recipe(Recipe.preset(name))

    # --- text and files -----------------------------------------------------------------------------------------

    @property
    def text(self) -> str:
        """The recipe as its file would hold it."""
        return recipe_text(self._owner.recipe.to_json())

    def read(self, text: str) -> Recipe:
        """Return the recipe that a text holds, held against the model; nothing is changed.

        Raises:
            ConfigError: for a text that is no recipe, with the line (`line_of`).
            PatternError: for a pattern that is malformed or matches nothing, with the line.
        """
        return self._checked(parse_document(text, "recipe"))

    def apply(self, text: str) -> None:
        """Take the recipe that a text holds.

        Raises:
            ConfigError: as `read`; nothing is changed then.
            PatternError: as `read`.
        """
        self._owner.set_recipe(self.read(text))

    def load(self, path: Path | str) -> str:
        """Take the recipe of a file, and say what was done.

        Raises:
            ConfigError: for a file that cannot be read or holds no recipe, with the line; nothing is changed then.
            PatternError: for a pattern that is malformed or matches nothing, with the line.
        """
        file = _file(path)
        recipe = self._checked(read_document(file))
        self.filed, self.path = recipe, file
        self._owner.set_recipe(recipe)
        self._on_state()
        return f"loaded {file.absolute()}"

    def save(self, path: Path | str, *, replace: bool = False) -> str:
        """Write the recipe to a file, and say what was done.

        Args:
            path: The file.
            replace: Whether a file that holds something else may be written over.

        Raises:
            ConfigError: when there is such a file and `replace` is off, or it cannot be written.
        """
        file, recipe = _file(path), self._owner.recipe
        there = file.exists()
        if there and not replace and not _holds(file, self.text):
            raise ConfigError(f"{str(file)!r} is there and holds something else.", mend="replace it, or name another")
        if not there or replace:
            recipe.save(file)
        self.filed, self.path = recipe, file
        self._on_state()
        return f"{'replaced' if there and replace else 'already in' if there else 'saved to'} {file.absolute()}"

    @property
    def file(self) -> Path | None:
        """The file that holds the recipe as it is now, or None."""
        return self.path if self.path is not None and _holds(self.path, self.text) else None

    # --- comparing ----------------------------------------------------------------------------------------------

    def pin(self) -> None:
        """Put the recipe aside, to compare later ones with it."""
        self.pinned = self._owner.recipe
        self._on_state()

    def other(self, against: Against) -> Recipe | None:
        """Return the recipe to compare with: the one before, the pinned one, or the file's; None where there is none.

        Raises:
            ConfigError: for another word.
        """
        if against not in get_args(Against):
            raise ConfigError(f"against={against!r}.", allowed=", ".join(map(repr, get_args(Against))))
        return {"previous": self.history.before, "pinned": self.pinned, "file": self.filed}[against]

    def diff(self, against: Against = "previous") -> RecipeDiff:
        """Return what differs from another recipe to this one.

        Raises:
            ConfigError: when there is no such recipe.
        """
        other = self.other(against)
        if other is None:
            raise ConfigError(f"There is no {against} recipe.", mend="change, pin, load or save the recipe first")
        return recipe_diff(other, self._owner.recipe)

    # --- inside -------------------------------------------------------------------------------------------------

    def _set(self, rules: Sequence[Rule]) -> None:
        self._owner.set_recipe(replace(self._owner.recipe, rules=tuple(rules)))

    def _check(self, place: int, rules: Sequence[Rule]) -> None:
        if not 0 <= place < len(rules):
            raise ConfigError(f"There is no rule {place}.", allowed=f"0 to {len(rules) - 1}" if rules else "none")

    def _checked(self, document: Document) -> Recipe:
        with reading(document.where) as cursor:
            recipe = read_recipe(document.data, cursor)
        try:
            self._preflight(recipe)
        except WorkbenchError as error:
            named = (place for place, rule in enumerate(recipe.rules) if repr(rule.pattern) in error.what)
            where = document.where(("rules", next(named, 0), "pattern"))
            raise type(error)(f"{where}: {error.what}", allowed=error.allowed, mend=error.mend) from None
        return recipe


def line_of(error: WorkbenchError) -> int | None:
    """Return the line of a recipe's text that an error is about, from 1, or None."""
    found = _LINE.search(error.what)
    return int(found.group(1)) if found else None


def _file(path: Path | str) -> Path:
    if not str(path).strip():
        raise ConfigError("No file is named.", mend="write a path, for instance recipe.json")
    return Path(str(path).strip()).expanduser()


def _holds(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") == text
    except (OSError, UnicodeDecodeError):
        return False
