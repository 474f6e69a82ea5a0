"""What a search changed: a table of settings and errors before and after, which a person can dismiss."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import traitlets

from workbench.improve.improvement import ChangeGroup
from workbench.widgets.component import Component, ErrorHandler, bundle

Action = Literal["undo", "dismiss"]


class Changes(Component):
    """A heading, a line that sums up, and a row for each kind of layer that changed.

    Traits:
        title: Heading.
        badge: The gain in a few words, or "".
        verdict: The line that sums up.
        objective: What the errors are, for the head of their column.
        notes: Lines under the table.
        can_undo: Whether the change is what holds now.

    Args:
        on_error: Called as (exception, where) for each error of a callback; by default it is logged.
        traits: Initial values of traits.
    """

    _esm = bundle("shared.js", "changes.js")
    _css = bundle("theme.css", "changes.css")
    title = traitlets.Unicode("").tag(sync=True)
    badge = traitlets.Unicode("").tag(sync=True)
    verdict = traitlets.Unicode("").tag(sync=True)
    objective = traitlets.Unicode("error").tag(sync=True)
    notes = traitlets.List(traitlets.Unicode()).tag(sync=True)
    can_undo = traitlets.Bool(False).tag(sync=True)
    _rows = traitlets.List(traitlets.Dict()).tag(sync=True)

    def __init__(self, *, on_error: ErrorHandler | None = None, **traits: Any) -> None:
        self._callbacks: list[Callable[[Action], None]] = []
        super().__init__(on_error=on_error, **traits)

    def show(self, groups: Sequence[ChangeGroup], **traits: Any) -> None:
        """Show these changes, and change other traits with them (any thread)."""
        with self.hold_sync():
            self._rows = [dataclasses.asdict(group) | {"names": list(group.names)} for group in groups]
            for name, value in traits.items():
                setattr(self, name, value)

    def on_action(self, callback: Callable[[Action], None]) -> None:
        """Call `callback` with "undo" or "dismiss" when a person presses that button."""
        self._callbacks.append(callback)

    def _receive(self, content: Any, buffers: Any) -> None:
        if isinstance(content, dict) and content.get("type") in ("undo", "dismiss"):
            self._call_each(self._callbacks, content["type"])

    def _summary(self) -> str:
        return "; ".join(filter(None, [self.title, self.badge]))
