"""Heat map of one layer (rows by groups) on a canvas; colours, zoom and hover need no kernel."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import Any

import traitlets

from workbench.errors import ConfigError
from workbench.widgets.component import SYNC_FROM_PAGE, Component, ErrorHandler, bundle
from workbench.widgets.heat_payload import MAX_SIDE as MAX_SIDE
from workbench.widgets.heat_payload import HeatBlock as HeatBlock
from workbench.widgets.heat_payload import HeatCell as HeatCell
from workbench.widgets.heat_payload import HeatPayload as HeatPayload
from workbench.widgets.heat_payload import Reduce as Reduce
from workbench.widgets.heat_payload import ZoomRequest as ZoomRequest

COLORMAPS = ("auto", "viridis", "magma", "diverging")


class Heatmap(Component):
    """A heat map with legend, limits, threshold, zoom, hover, a cell cursor and a selection.

    Traits:
        selected: (row, group) where the selected cell starts, in the original, or None; both sides set it.
        colormap: "auto" (diverging where the scale has both signs), "viridis", "magma" or "diverging".
        height: Height of the picture in CSS pixels, on a low window less.
        busy: Whether a newer picture is being computed (a moving line at the top).
        message: Text over the picture, for instance an error; "" for none.

    Args:
        on_error: Called as (exception, where) for each error of a handler; by default it is logged.
        traits: Initial values of traits.
    """

    _esm = bundle(
        "shared.js", "colormaps.js", "heatmap_legend.js", "heatmap_cells.js", "heatmap_block.js", "heatmap.js"
    )
    _css = bundle("theme.css", "heatmap.css")
    _payload = traitlets.Dict().tag(sync=True)
    selected: Any = traitlets.Tuple(
        traitlets.Int(min=0), traitlets.Int(min=0), default_value=None, allow_none=True
    ).tag(**SYNC_FROM_PAGE)
    colormap = traitlets.Enum(COLORMAPS, default_value="auto").tag(**SYNC_FROM_PAGE)
    height = traitlets.Int(320, min=120, max=2000).tag(sync=True)
    busy = traitlets.Bool(False).tag(sync=True)
    message = traitlets.Unicode("").tag(sync=True)

    def __init__(self, *, on_error: ErrorHandler | None = None, **traits: Any) -> None:
        self._lock = threading.RLock()
        self._shown: HeatPayload | None = None
        self._block: HeatBlock | None = None
        self._on_select: list[Callable[[HeatCell], None]] = []
        self._on_zoom: list[Callable[[ZoomRequest], None]] = []
        super().__init__(on_error=on_error, **traits)
        self.observe(self._tell_selection, names="selected")

    @property
    def payload(self) -> HeatPayload | None:
        """The newest picture, or None."""
        return self._shown

    @property
    def cell(self) -> HeatCell | None:
        """The selected cell of the newest picture, or None."""
        if self._shown is None or self.selected is None:
            return None
        block = self._block
        finer = block.cell(*self.selected) if block is not None else None
        return finer or self._shown.cell(*self.selected)

    def show(self, payload: HeatPayload) -> bool:
        """Show a picture (any thread); return False when a newer one has been shown already.

        The selection is kept as long as the matrix has the same size, and dropped otherwise.
        """
        with self._lock:
            old = self._shown
            if old is not None and payload.seq < old.seq:
                return False
            self._shown, self._block = payload, None
            if old is not None and (old.total_rows, old.total_cols) != (
                payload.total_rows,
                payload.total_cols,
            ):
                self.selected = None
            with self.hold_sync():
                self._payload = {field.name: getattr(payload, field.name) for field in dataclasses.fields(payload)}
                self.message = ""
            return True

    def clear(self, message: str = "") -> None:
        """Take the picture away and show a text in its place; sequence numbers start anew."""
        with self._lock:
            self._shown = self._block = None
            self.selected = None
            with self.hold_sync():
                self._payload = {}
                self.message = message

    def show_block(self, block: HeatBlock) -> bool:
        """Show a part of the picture at full size (any thread); return False when the picture is another by now."""
        with self._lock:
            if self._shown is None or block.seq != self._shown.seq:
                return False
            self._block = block
            fields = {field.name: getattr(block, field.name) for field in dataclasses.fields(block)}
            self.send({"type": "block"} | {k: v for k, v in fields.items() if k != "values"}, buffers=[block.values])
            return True

    def on_zoom(self, callback: Callable[[ZoomRequest], None]) -> None:
        """Call `callback` with each part of the newest picture that a person zooms to and that has finer values."""
        self._on_zoom.append(callback)

    def _receive(self, content: Any, buffers: Any) -> None:
        shown = self._shown
        if not isinstance(content, dict) or content.get("type") != "zoom" or shown is None:
            return
        if content.get("seq") == shown.seq:
            rows, cols = (_range(content, name) for name in ("rows", "cols"))
            self._call_each(self._on_zoom, ZoomRequest(rows, cols, int(content.get("turn") or 0)))

    def on_select(self, callback: Callable[[HeatCell], None]) -> None:
        """Call `callback` with each newly selected cell."""
        self._on_select.append(callback)

    def _tell_selection(self, _change: Any) -> None:
        if self.cell is not None:
            self._call_each(self._on_select, self.cell)

    def _summary(self) -> str:
        shown = self._shown
        return "empty" if shown is None else f"{shown.title!r}, {shown.rows} x {shown.cols} cells, seq {shown.seq}"


def _range(content: dict[str, Any], name: str) -> tuple[int, int]:
    value = content.get(name)
    if isinstance(value, list) and len(value) == 2 and all(type(one) is int for one in value):
        return value[0], value[1]
    raise ConfigError(f"{name}={value!r}.", allowed="two whole numbers")
