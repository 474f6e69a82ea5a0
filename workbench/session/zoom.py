"""A block of the heatmap on show at full size, or as fine as it can be sent: exact values, not colours."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from workbench.affine import QuantizedWeight
from workbench.config import ResolvedConfig
from workbench.errors import ConfigError
from workbench.jobs import Job
from workbench.measure.error_map import LOW_IS_WORSE, Metric, map_values
from workbench.measure.pictures import reduce_to
from workbench.session.events import Event
from workbench.session.rooms import Means, Room, Seen
from workbench.views.views import LayerView, held_layer

MAX_CELLS = 1 << 15  # 128 KiB of values
Span = tuple[int, int]


@dataclass(frozen=True)
class ZoomedBlock:
    """Values of a part of a layer's picture.

    Attributes:
        name: Module path.
        config: Everything resolved.
        metric: What is shown.
        reduce: How the picture is reduced.
        rows: First row and one past the last.
        columns: First column (group, or weight for the weights themselves) and one past the last.
        row_span: Rows of a cell; 1 at full size.
        column_span: Columns of a cell.
        values: float32, cells row by row.
        turn: The number that the request came with.
    """

    name: str
    config: ResolvedConfig
    metric: Metric
    reduce: Literal["max", "mean"]
    rows: Span
    columns: Span
    row_span: int
    column_span: int
    values: bytes
    turn: int


class SessionZoom(Room):
    """Looks closer at a part of the view on show; the newest wish wins."""

    def __init__(self, seen: Seen, means: Means) -> None:
        super().__init__("zoom", seen, means)

    def look(self, view: LayerView, rows: Span, columns: Span, turn: int = 0) -> Job | None:
        """Find the values of a part of a view; None where it is at full size already, or not exact.

        Args:
            view: What is on show.
            rows: First row and one past the last.
            columns: First column of its picture and one past the last.
            turn: Comes back with the block.

        Raises:
            ConfigError: for rows or columns that the view does not have.
        """
        picture = view.map
        for what, (first, stop), total in (("row", rows, picture.total_rows), ("column", columns, picture.total_cols)):
            if not 0 <= first < stop <= total:
                raise ConfigError(f"The view has no {what} {first} to {stop - 1}.", allowed=f"0 to {total - 1}")
        spans = fitting_spans(rows, columns)
        if not view.exact or spans[0] * spans[1] >= picture.row_span * picture.col_span:
            return None

        def work(cancel: threading.Event) -> Iterator[ZoomedBlock]:
            held = held_layer(self.seen.source, view.name, view.config, self.means.cache)
            if held is not None:
                yield block_of(view, *held, rows, columns, turn)

        return self.submit("A part", view, work)

    def hear(self, event: Event) -> None:
        """Drop what is of the view before."""
        if event.kind == "view":
            self.lane.cancel()

    def take(self, job: Job, item: Any) -> None:
        """Tell what is of the settings that hold now."""
        on_show = (self.seen.metric, self.seen.reduce)
        if self.holds(item.name, item.config) and (item.metric, item.reduce) == on_show:
            self.means.emit("zoom", item, job)


def fitting_spans(rows: Span, columns: Span, most: int = MAX_CELLS) -> Span:
    """Return the least rows and columns of a cell, powers of two, with which a block has at most `most` cells."""
    row_span = column_span = 1
    while True:
        height, width = -(-(rows[1] - rows[0]) // row_span) + 1, -(-(columns[1] - columns[0]) // column_span) + 1
        if row_span * column_span == 1:
            height, width = height - 1, width - 1  # nothing to align
        if height * width <= most:
            return row_span, column_span
        if height >= width:
            row_span *= 2
        else:
            column_span *= 2


def block_of(
    view: LayerView, weight: Tensor, quantized: QuantizedWeight, rows: Span, columns: Span, turn: int
) -> ZoomedBlock:
    """Return the values of a part of a picture; its cells begin at multiples of their spans.

    Args:
        view: Whose picture it is.
        weight: float [N, K], the original.
        quantized: What is stored for it.
        rows: First row and one past the last.
        columns: First column of the picture and one past the last.
        turn: Comes back with the block.
    """
    metric: Any = view.map.metric
    reduce: Literal["max", "mean"] = "mean" if view.map.reduce == "mean" else "max"
    row_span, column_span = fitting_spans(rows, columns)
    top, left = rows[0] // row_span * row_span, columns[0] // column_span * column_span
    bottom = min(view.map.total_rows, -(-rows[1] // row_span) * row_span)
    right = min(view.map.total_cols, -(-columns[1] // column_span) * column_span)
    values = _part(weight, quantized, metric, (top, bottom), (left, right))
    high, wide = -(-(bottom - top) // row_span), -(-(right - left) // column_span)
    small, *_ = reduce_to(values, high, wide, "min" if reduce == "max" and metric in LOW_IS_WORSE else reduce)
    sent = small.float().cpu().contiguous().numpy().tobytes()
    spans = (top, bottom), (left, right), row_span, column_span
    return ZoomedBlock(view.name, view.config, metric, reduce, *spans, sent, turn)


def _part(weight: Tensor, quantized: QuantizedWeight, metric: Metric, rows: Span, columns: Span) -> Tensor:
    """Return the values of some rows and columns, solved groups being cut nowhere."""
    size = quantized.group_size
    weights = metric in ("original", "dequantized")
    groups = (columns[0] // size, -(-columns[1] // size)) if weights else columns
    kept = slice(*rows), slice(groups[0] * size, min(groups[1] * size, weight.shape[1]))
    values = map_values(weight[kept], quantized.part(slice(*rows), slice(*groups)), metric)
    return values[:, columns[0] - groups[0] * size : columns[1] - groups[0] * size] if weights else values
