"""Which formats hold the model, as rows of which one is chosen."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import traitlets

from workbench.errors import ConfigError
from workbench.widgets.component import Component, bundle


@dataclass(frozen=True)
class FormatRow:
    """One format.

    Attributes:
        id: Its name, as `wb.export(format=…)` takes it.
        title: As a person reads it.
        engines: What loads it.
        state: "exact", "rounded" or "refused".
        size: Forecast of its size as text, or "".
        remark: What rounds, what to know, or what to change.
        fixable: Whether a change of settings would make it fit.
    """

    id: str
    title: str
    engines: str
    state: str
    size: str = ""
    remark: str = ""
    fixable: bool = False


class FormatTable(Component):
    """Formats, one of which is selected.

    Traits:
        rows: The formats as dictionaries; set them through `show`.
        selected: Id of the selected one. A page sends its choice as a message, in order with what it does next.
        busy: Whether the answers are older than the recipe.
    """

    _esm = bundle("shared.js", "formats.js")
    _css = bundle("theme.css", "formats.css")
    rows = traitlets.List(traitlets.Dict()).tag(sync=True)
    selected = traitlets.Unicode("").tag(sync=True)
    busy = traitlets.Bool(False).tag(sync=True)

    def show(self, rows: Sequence[FormatRow]) -> None:
        """Show these formats (any thread)."""
        with self.hold_sync():
            self.rows = [dataclasses.asdict(row) for row in rows]
            self.busy = False
            if self.selected not in {row.id for row in rows} and rows:
                self.selected = rows[0].id

    def _receive(self, content: Any, buffers: Any) -> None:
        if not isinstance(content, dict) or content.get("type") != "select":
            return
        with self._answering(content):
            known = [row["id"] for row in self.rows]
            if content.get("id") not in known:
                raise ConfigError(f"There is no format {content.get('id')!r}.", allowed=", ".join(known))
            self.selected = content["id"]

    def _summary(self) -> str:
        return self.selected
