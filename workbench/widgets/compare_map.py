"""A and B and their difference as three maps side by side, with one window and one cursor for all of them."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import traitlets

from workbench.errors import ConfigError
from workbench.records.errors import ErrorMap
from workbench.widgets.component import Component, ErrorHandler, bundle


@dataclass(frozen=True)
class ComparePayload:
    """What the three maps show; all have the same rows and columns.

    Attributes:
        a: Map of A.
        b: Map of B, on A's scale.
        difference: B minus A.
        title: What is compared, for instance the layer's name.
        a_label: The settings of A in a few words.
        b_label: Those of B.
        seq: Sequence number; a payload with a lower number than the one shown is dropped.
        col_name: Name of a column in the singular.
        group_size: in_features in a column, or None where columns are not groups.
        total_in: in_features in all, or None.
        stack_rows: Rows of one expert of a stack, or None.
        low_is_worse: Whether a low value is the bad one.
    """

    a: ErrorMap
    b: ErrorMap
    difference: ErrorMap
    title: str
    a_label: str
    b_label: str
    seq: int
    col_name: str = "group"
    group_size: int | None = None
    total_in: int | None = None
    stack_rows: int | None = None
    low_is_worse: bool = False

    def __post_init__(self) -> None:
        """Refuse maps that do not lie over each other.

        Raises:
            ConfigError: when they differ in rows or columns.
        """
        shapes = {(one.total_rows, one.total_cols, one.rows, one.cols) for one in (self.a, self.b, self.difference)}
        if len(shapes) > 1:
            raise ConfigError(f"Maps of {sorted(shapes)} cannot be compared.", allowed="one shape")


class CompareMap(Component):
    """Three maps with a window, a cursor and a mark that they share.

    Traits:
        marked: (row, column) of the cell that holds the group under the microscope, or None.
        height: Height of each picture in CSS pixels.
        busy: Whether a newer comparison is being made (a moving line at the top).
        message: Text in place of the maps.

    Args:
        on_error: Called as (exception, where) for each error of a handler; by default it is logged.
        traits: Initial values of traits.
    """

    _esm = bundle("shared.js", "colormaps.js", "heatmap_cells.js", "compare_map.js")
    _css = bundle("theme.css", "compare_map.css")
    _payload = traitlets.Dict().tag(sync=True)
    marked: Any = traitlets.Tuple(traitlets.Int(min=0), traitlets.Int(min=0), default_value=None, allow_none=True).tag(
        sync=True
    )
    height = traitlets.Int(240, min=120, max=2000).tag(sync=True)
    busy = traitlets.Bool(False).tag(sync=True)
    message = traitlets.Unicode("").tag(sync=True)

    def __init__(self, *, on_error: ErrorHandler | None = None, **traits: Any) -> None:
        self._lock = threading.RLock()
        self._shown: ComparePayload | None = None
        self._on_pick: list[Callable[[tuple[int, int], tuple[int, int]], None]] = []
        super().__init__(on_error=on_error, **traits)

    @property
    def payload(self) -> ComparePayload | None:
        """What is shown, or None."""
        return self._shown

    def show(self, payload: ComparePayload) -> bool:
        """Show a comparison (any thread); return False when a newer one has been shown already."""
        with self._lock:
            if self._shown is not None and payload.seq < self._shown.seq:
                return False
            self._shown = payload
            fields = {field.name: getattr(payload, field.name) for field in dataclasses.fields(payload)}
            maps = {name: dataclasses.asdict(fields[name]) for name in ("a", "b", "difference")}
            with self.hold_sync():
                self._payload = fields | maps
                self.marked = None
                self.message = ""
            return True

    def clear(self, message: str = "") -> None:
        """Take the maps away and show a text in their place; sequence numbers start anew."""
        with self._lock, self.hold_sync():
            self._shown, self.marked, self._payload, self.message = None, None, {}, message

    def on_pick(self, callback: Callable[[tuple[int, int], tuple[int, int]], None]) -> None:
        """Call `callback` with the rows and the columns of each picked cell, as (first, one past the last)."""
        self._on_pick.append(callback)

    def _receive(self, content: Any, buffers: Any) -> None:
        shown = self._shown
        if not isinstance(content, dict) or content.get("type") != "pick" or shown is None:
            return
        if content.get("seq") != shown.seq:
            return  # a click on what is no longer shown
        row, column = content.get("row"), content.get("col")
        one = shown.a
        if type(row) is not int or type(column) is not int:
            raise ConfigError(f"A cell at {row!r}, {column!r}.", allowed="whole numbers")
        row, column = row // one.row_span * one.row_span, column // one.col_span * one.col_span
        if not (0 <= row < one.total_rows and 0 <= column < one.total_cols):
            raise ConfigError(f"The maps have no cell at {row}, {column}.")
        rows = (row, min(one.total_rows, row + one.row_span))
        self._call_each(self._on_pick, rows, (column, min(one.total_cols, column + one.col_span)))

    def _summary(self) -> str:
        return "empty" if self._shown is None else f"{self._shown.title!r}, seq {self._shown.seq}"
