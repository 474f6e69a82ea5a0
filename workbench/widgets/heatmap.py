"""Heat map of one layer (rows by groups) on a canvas; colours, zoom and hover need no kernel."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import traitlets

from workbench.errors import ConfigError
from workbench.widgets.component import SYNC_FROM_PAGE, Component, ErrorHandler, bundle

MAX_SIDE = 512
Reduce = Literal["none", "max", "min", "mean", "sample"]
COLORMAPS = ("auto", "viridis", "magma", "diverging")


@dataclass(frozen=True)
class HeatPayload:
    """One picture: a uint8 image, what its codes stand for, and what it covers.

    A code c stands for lo + (hi - lo)·c/255, or, if log, for lo·(hi/lo)^(c/255). Cell (i, j) covers the rows
    [i·row_span, (i+1)·row_span) and columns [j·col_span, (j+1)·col_span) of the original, cut at its end.

    Attributes:
        values: The codes, rows·cols bytes, row by row.
        rows: Rows of the image, at most 512.
        cols: Columns of the image, at most 512.
        lo: Value of code 0, in `unit`.
        hi: Value of code 255, in `unit`. Where lo < 0 < hi the colours diverge from zero.
        unit: What the values are, for instance "relative error" or "% of the group's range".
        log: Whether the codes are logarithmic (lo must be positive).
        row_span: Original rows a cell stands for.
        col_span: Original columns a cell stands for.
        total_rows: Rows of the original matrix.
        total_cols: Columns of the original matrix.
        title: What is shown, for instance the layer's name.
        badge: How exact it is, for instance "exact" (shown green) or "sampled 1/16".
        seq: Sequence number; a picture with a lower number than the one shown is dropped.
        reduce: How a cell came from its original cells; "sample" took the first row of each row_span.
        row_name: Name of a row in the singular.
        col_name: Name of a column in the singular.
        group_size: in_features in a column, or None where columns are not groups.
        total_in: in_features in all (the last group can be short), or None.
        stack_rows: Rows of one expert of a stack, whose rows follow each other; None for a plain weight.
        low_is_worse: Whether a low value is the bad one, as of a signal-to-noise ratio: then it stands out.
    """

    values: bytes
    rows: int
    cols: int
    lo: float
    hi: float
    unit: str
    log: bool
    row_span: int
    col_span: int
    total_rows: int
    total_cols: int
    title: str
    badge: str
    seq: int
    reduce: Reduce = "none"
    row_name: str = "output feature"
    col_name: str = "group"
    group_size: int | None = None
    total_in: int | None = None
    stack_rows: int | None = None
    low_is_worse: bool = False

    def __post_init__(self) -> None:
        """Refuse what could not be drawn.

        Raises:
            ConfigError: when sizes disagree, or the scale has no extent.
        """
        if not (1 <= self.rows <= MAX_SIDE and 1 <= self.cols <= MAX_SIDE):
            raise ConfigError(
                f"A heat map of {self.rows} x {self.cols} cells cannot be shown.",
                allowed=f"1 to {MAX_SIDE} rows and columns",
                mend="reduce it by max or mean",
            )
        if len(self.values) != self.rows * self.cols:
            raise ConfigError(f"{len(self.values)} codes for {self.rows} x {self.cols} cells.")
        spans = ((self.rows, self.row_span, self.total_rows), (self.cols, self.col_span, self.total_cols))
        for cells, span, total in spans:
            if span < 1 or cells != -(-total // span):
                raise ConfigError(f"{cells} cells of {span} cannot cover {total} original rows or columns.")
        if not (math.isfinite(self.lo) and math.isfinite(self.hi) and self.lo < self.hi):
            raise ConfigError(f"The value scale {self.lo} to {self.hi} has no extent.", allowed="finite lo < hi")
        if self.log and self.lo <= 0:
            raise ConfigError(f"A logarithmic scale cannot start at {self.lo}.", allowed="lo > 0")
        if self.reduce not in ("none", "max", "min", "mean", "sample"):
            raise ConfigError(f"Unknown reduction {self.reduce!r}.", allowed="none, max, min, mean, sample")
        if self.stack_rows is not None and not 1 <= self.stack_rows <= self.total_rows:
            raise ConfigError(
                f"Experts of {self.stack_rows} rows in a matrix of {self.total_rows}.", allowed="1 to all rows, or None"
            )

    def cell(self, row: int, group: int) -> HeatCell:
        """Return the cell that holds an original (row, group)."""
        i = min(max(row // self.row_span, 0), self.rows - 1)
        j = min(max(group // self.col_span, 0), self.cols - 1)
        fraction = self.values[i * self.cols + j] / 255
        value = self.lo * (self.hi / self.lo) ** fraction if self.log else self.lo + (self.hi - self.lo) * fraction
        rows = 1 if self.reduce == "sample" else self.row_span
        row_stop = min(self.total_rows, i * self.row_span + rows)
        group_stop = min(self.total_cols, (j + 1) * self.col_span)
        return HeatCell(i * self.row_span, row_stop, j * self.col_span, group_stop, value, self.seq)


@dataclass(frozen=True)
class HeatCell:
    """A cell of a heat map in original coordinates.

    Attributes:
        row: First original row (output feature).
        row_stop: One past the last.
        group: First original column (group along in_features).
        group_stop: One past the last.
        value: The cell's value in the payload's unit, to 1/255 of its scale.
        seq: Sequence number of the payload it was read from.
    """

    row: int
    row_stop: int
    group: int
    group_stop: int
    value: float
    seq: int


class Heatmap(Component):
    """A heat map with legend, limits, threshold, zoom, hover, a cell cursor and a selection.

    Traits:
        selected: (row, group) where the selected cell starts, in the original, or None; both sides set it.
        colormap: "auto" (diverging where the scale has both signs), "viridis", "magma" or "diverging".
        height: Height of the picture in CSS pixels.
        busy: Whether a newer picture is being computed (a moving line at the top).
        message: Text over the picture, for instance an error; "" for none.

    Args:
        on_error: Called as (exception, where) for each error of a handler; by default it is logged.
        traits: Initial values of traits.
    """

    _esm = bundle("shared.js", "colormaps.js", "heatmap_legend.js", "heatmap_cells.js", "heatmap.js")
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
        self._on_select: list[Callable[[HeatCell], None]] = []
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
        return self._shown.cell(*self.selected)

    def show(self, payload: HeatPayload) -> bool:
        """Show a picture (any thread); return False when a newer one has been shown already.

        The selection is kept as long as the matrix has the same size, and dropped otherwise.
        """
        with self._lock:
            old = self._shown
            if old is not None and payload.seq < old.seq:
                return False
            self._shown = payload
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
            self._shown = None
            self.selected = None
            with self.hold_sync():
                self._payload = {}
                self.message = message

    def on_select(self, callback: Callable[[HeatCell], None]) -> None:
        """Call `callback` with each newly selected cell."""
        self._on_select.append(callback)

    def _tell_selection(self, _change: Any) -> None:
        if self.cell is not None:
            self._call_each(self._on_select, self.cell)

    def _summary(self) -> str:
        shown = self._shown
        return "empty" if shown is None else f"{shown.title!r}, {shown.rows} x {shown.cols} cells, seq {shown.seq}"
