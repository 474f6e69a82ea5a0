"""The recipe: its rules, what changed, the way back, its text and its files, and the same as code."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from workbench.errors import ConfigError
from workbench.kinds import QUANTIZABLE_KINDS
from workbench.recipe.history import recipe_said
from workbench.recipe.recipe import Recipe
from workbench.recipe.rules import RuleRow
from workbench.session import Event, Session
from workbench.session.recipe import Against
from workbench.widgets.component import ErrorHandler
from workbench.widgets.panel import Panel
from workbench.widgets.recipe_view import RecipeView

MOST_RULES = 200
MOST_LINES = 400
MOST_STEPS = 60


class RecipePanel(Panel):
    """Everything that was chosen, as one thing to read, edit, compare, keep and take elsewhere."""

    def __init__(self, session: Session, on_error: ErrorHandler) -> None:
        self.view = RecipeView(self._do, on_error=on_error)
        self._rows: list[RuleRow] = []
        super().__init__(session, on_error, [self.view])
        self._show_recipe()
        self.view.observe(lambda _change: self._show_pane(), names=["pane", "against"])

    def on_event(self, event: Event) -> None:
        """Show the recipe after a change, and what it can be compared with."""
        if event.kind == "coverage":
            self._show_recipe()
        elif event.kind == "recipe":
            self._show_pane()

    # --- showing ------------------------------------------------------------------------------------------------

    def _show_recipe(self) -> None:
        session, view = self.session, self.view
        self._rows = session.recipes.rules()
        rules = [row for row in self._rows if row.kind == "rule"]
        shown = [*rules[:MOST_RULES], *(row for row in self._rows if row.kind != "rule")]
        with view.hold_sync():
            view.summary = recipe_said(session.recipe)
            view.rules = [_plain(row) for row in shown]
            view.hidden = max(0, len(rules) - MOST_RULES)
            view.total = sum(row.kind in QUANTIZABLE_KINDS for row in session.coverage.rows)
            view.output_head = session.recipe.output_head
            view.presets = [
                {"name": name, "good_for": good_for, "now": Recipe.preset(name) == session.recipe}
                for name, good_for in Recipe.presets().items()
            ]
            view.can = {"undo": session.can_undo, "redo": session.can_redo}
            view.code = {}
            self._show_pane()

    def _show_pane(self) -> None:
        recipes, view = self.session.recipes, self.view
        path = "" if recipes.path is None else str(recipes.path)
        names: dict[Against, str] = {"previous": "the one before", "pinned": "the pinned one", "file": Path(path).name}
        steps = recipes.history.steps(MOST_STEPS) if view.pane == "history" else []
        with view.hold_sync():
            view.path = path
            view.others = {key: name for key, name in names.items() if recipes.other(key) is not None}
            view.diff = self._diff() if view.pane == "changes" else {}
            view.text = recipes.text if view.pane == "text" else ""
            view.steps = [dataclasses.asdict(step) for step in steps]

    def _diff(self) -> dict[str, Any]:
        against: Any = self.view.against
        if against not in self.view.others:
            return {"said": "", "lines": [], "hidden": 0}
        diff = self.session.recipes.diff(against)
        lines = [[line.kind, line.text] for line in diff.lines[:MOST_LINES]]
        return {"said": diff.said(), "lines": lines, "hidden": len(diff.lines) - len(lines)}

    # --- doing --------------------------------------------------------------------------------------------------

    def _do(self, action: str, message: dict[str, Any]) -> dict[str, Any]:
        known = {**self._edits(message), **self._texts(message)}
        if action not in known:
            raise ConfigError(f"There is no action {action!r}.", allowed=", ".join(known))
        said = known[action]()
        return said if isinstance(said, dict) else {"text": said if isinstance(said, str) else ""}

    def _edits(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return what changes the recipe, by its name."""
        session, recipes, get = self.session, self.session.recipes, message.get
        return {
            "move": lambda: recipes.move(int(get("place", -1)), int(get("by", 0))),
            "remove": lambda: recipes.remove(int(get("place", -1))),
            "rename": lambda: recipes.rename(int(get("place", -1)), str(get("pattern", ""))),
            "add": lambda: recipes.add(str(get("pattern", "")), dense=bool(get("dense"))),
            "head": lambda: recipes.set_output_head(bool(get("on"))),
            "preset": lambda: recipes.take_preset(str(get("name"))),
            "undo": lambda: "undone" if session.undo() else "nothing to undo",
            "redo": lambda: "done again" if session.redo() else "nothing to redo",
            "go": lambda: session.go_to(int(get("place", -1))),
            "select": lambda: self._select(int(get("row", -1))),
        }

    def _texts(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return what reads, writes and compares, by its name."""
        recipes, get = self.session.recipes, message.get
        text, path = str(get("text", "")), str(get("path", ""))
        return {
            "check": lambda: {"summary": recipe_said(recipes.read(text))},
            "apply": lambda: recipes.apply(text),
            "pin": recipes.pin,
            "load": lambda: recipes.load(path),
            "save": lambda: self._save(path, replace=bool(get("replace"))),
            "python": lambda: self._code("python", self.session.as_python()),
            "command": lambda: self._code("command", self.session.as_command()),
        }

    def _save(self, path: str, *, replace: bool) -> dict[str, Any]:
        try:
            return {"text": self.session.recipes.save(path, replace=replace)}
        except ConfigError as error:
            there = bool(path.strip()) and Path(path.strip()).expanduser().is_file()
            return {"ok": False, "text": str(error), "replace": there and not replace}

    def _code(self, kind: str, text: str) -> dict[str, Any]:
        self.view.code = {"kind": kind, "text": text}
        return {"code": text}

    def _select(self, row: int) -> str:
        if not 0 <= row < len(self.view.rules):
            raise ConfigError(f"There is no rule {row}.", allowed=f"0 to {len(self.view.rules) - 1}")
        shown = self.view.rules[row]
        found = next(one for one in self._rows if (one.kind, one.place) == (shown["kind"], shown["place"]))
        self.session.select(list(found.layers), found.layers[0] if found.layers else None)
        return f"{len(found.layers)} layers selected"


def _plain(row: RuleRow) -> dict[str, Any]:
    plain = dataclasses.asdict(row)
    return plain | {"count": len(plain.pop("layers"))}
