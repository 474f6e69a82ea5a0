"""What a heat map shows: a picture, a cell of it, and a part of it at full size."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Literal

from workbench.errors import ConfigError
from workbench.records.errors import ErrorMap

MAX_SIDE = 512
Reduce = Literal["none", "max", "min", "mean", "sample"]


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


def payload_of_map(
    picture: ErrorMap,
    *,
    title: str,
    badge: str,
    seq: int,
    groups: tuple[int, int] | None,
    row_name: str = "output feature",
    stack_rows: int | None = None,
    low_is_worse: bool = False,
) -> HeatPayload:
    """Return the payload of a picture.

    Args:
        picture: The picture.
        title: What is shown, for instance the layer's name.
        badge: How exact it is.
        seq: Sequence number.
        groups: (group size, in_features in all) where columns are groups, None where they are input features.
        row_name: Name of a row in the singular.
        stack_rows: Rows of one expert of a stack; None for a plain weight.
        low_is_worse: Whether a low value is the bad one.
    """
    size, total = (None, None) if groups is None else groups
    return HeatPayload(
        values=picture.values,
        rows=picture.rows,
        cols=picture.cols,
        lo=picture.lo,
        hi=picture.hi,
        unit=picture.unit,
        log=picture.log,
        row_span=picture.row_span,
        col_span=picture.col_span,
        total_rows=picture.total_rows,
        total_cols=picture.total_cols,
        title=title,
        badge=badge,
        seq=seq,
        reduce=picture.reduce,  # type: ignore[arg-type]
        row_name=row_name,
        col_name="input feature" if groups is None else "group",
        group_size=size,
        total_in=total,
        stack_rows=stack_rows,
        low_is_worse=low_is_worse,
    )


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


@dataclass(frozen=True)
class HeatBlock:
    """A part of the picture at full size, or finer than the picture: exact values.

    Attributes:
        rows: First original row and one past the last.
        cols: First original column and one past the last.
        row_span: Original rows of a cell; cells begin at multiples of it.
        col_span: Original columns of a cell.
        values: float32 in the payload's unit, cells row by row.
        seq: Sequence number of the payload that it is a part of.
        turn: The number of the request that it answers.
    """

    rows: tuple[int, int]
    cols: tuple[int, int]
    row_span: int
    col_span: int
    values: bytes
    seq: int
    turn: int

    def cell(self, row: int, group: int) -> HeatCell | None:
        """Return the cell that holds an original (row, group), or None where it lies outside."""
        if not (self.rows[0] <= row < self.rows[1] and self.cols[0] <= group < self.cols[1]):
            return None
        top, left = row // self.row_span * self.row_span, group // self.col_span * self.col_span
        wide = -(-(self.cols[1] - self.cols[0]) // self.col_span)
        at = (top - self.rows[0]) // self.row_span * wide + (left - self.cols[0]) // self.col_span
        (value,) = struct.unpack_from("<f", self.values, 4 * at)
        stops = min(self.rows[1], top + self.row_span), min(self.cols[1], left + self.col_span)
        return HeatCell(top, stops[0], left, stops[1], value, self.seq)


@dataclass(frozen=True)
class ZoomRequest:
    """A part of the picture that a person has zoomed to.

    Attributes:
        rows: First original row and one past the last.
        cols: First original column and one past the last.
        turn: Its number, which the answer repeats.
    """

    rows: tuple[int, int]
    cols: tuple[int, int]
    turn: int
