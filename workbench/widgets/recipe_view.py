"""The recipe as a person reads and edits it: rules, what changed, the history, its text and its files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import traitlets

from workbench.errors import WorkbenchError
from workbench.session.recipe import line_of
from workbench.widgets.component import SYNC_FROM_PAGE, Component, ErrorHandler, bundle

PANES = ("changes", "history", "text", "files")
Handler = Callable[[str, dict[str, Any]], dict[str, Any]]


class RecipeView(Component):
    """Rules on one side; what changed, the history, the text and the files on the other.

    Traits:
        summary: The recipe in a few words.
        rules: One dictionary a rule: kind, place, pattern, settings, dense, count, note.
        hidden: Rules that are not among them, because there are so many.
        total: Linear layers of the model.
        output_head: Whether the default decides the output head too.
        presets: One dictionary a preset: name, good_for, now.
        pane: What the other side shows: "changes", "history", "text" or "files".
        against: What the changes are against: "previous", "pinned" or "file".
        others: That word → what it is called, for each of the three that there is.
        diff: The changes: said, lines as [kind, text], hidden (lines left out); {} while another pane is shown.
        steps: The history, newest first: place, text, now.
        can: "undo" and "redo" → whether that can be done.
        text: The recipe's file; "" while another pane is shown.
        path: The file that was last loaded or saved.
        code: What was last asked for: kind ("python" or "command") and text; {} once the recipe has changed.

    Args:
        handler: Called as (action, message) for each thing that a person does; what it returns is added to the reply.
            A `WorkbenchError` that it raises is shown where the person did it.
        on_error: Called as (exception, where) for each other error of the handler; by default it is logged.
    """

    _esm = bundle("shared.js", "recipe_rules.js", "recipe_text.js", "recipe_panes.js", "recipe_view.js")
    _css = bundle("theme.css", "recipe_view.css", "recipe_panes.css")
    summary = traitlets.Unicode("").tag(sync=True)
    rules = traitlets.List(traitlets.Dict()).tag(sync=True)
    hidden = traitlets.Int(0).tag(sync=True)
    total = traitlets.Int(0).tag(sync=True)
    output_head = traitlets.Bool(False).tag(sync=True)
    presets = traitlets.List(traitlets.Dict()).tag(sync=True)
    pane = traitlets.Enum(PANES, "changes").tag(**SYNC_FROM_PAGE)
    against = traitlets.Enum(("previous", "pinned", "file"), "previous").tag(**SYNC_FROM_PAGE)
    others = traitlets.Dict().tag(sync=True)
    diff = traitlets.Dict().tag(sync=True)
    steps = traitlets.List(traitlets.Dict()).tag(sync=True)
    can = traitlets.Dict().tag(sync=True)
    text = traitlets.Unicode("").tag(sync=True)
    path = traitlets.Unicode("").tag(sync=True)
    code = traitlets.Dict().tag(sync=True)

    def __init__(self, handler: Handler, *, on_error: ErrorHandler | None = None, **traits: Any) -> None:
        self._handler = handler
        super().__init__(on_error=on_error, **traits)

    def _receive(self, content: Any, buffers: Any) -> None:
        if not isinstance(content, dict) or content.get("type") != "do":
            return
        action = str(content.get("action"))
        reply: dict[str, Any] = {"type": "reply", "turn": content.get("turn"), "action": action, "ok": True, "text": ""}
        try:
            reply |= self._handler(action, content)
        except WorkbenchError as error:
            reply |= {"ok": False, "text": str(error), "line": line_of(error)}
        except Exception as error:
            reply |= {"ok": False, "text": f"{type(error).__name__}: {error}", "line": None}
            self._report(error, f"RecipeView: {action}")
        self.send(reply)

    def _summary(self) -> str:
        return self.summary
