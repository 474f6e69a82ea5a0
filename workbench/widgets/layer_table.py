"""Table of a model's layers: thousands of rows from one columnar payload, drawn as they scroll into view."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import traitlets

from workbench.errors import ConfigError
from workbench.records import CoverageRow
from workbench.widgets.component import SYNC_FROM_PAGE, Component, bundle

REQUIRED = ("name", "shape", "parameters", "decision", "reason", "before_bytes", "after_bytes")
OPTIONAL = ("kind", "bits_per_weight", "padding", "error", "status")
UPDATABLE = ("kind", "decision", "reason", "after_bytes", "bits_per_weight", "padding", "error", "status")


class LayerTable(Component):
    """A table to filter, sort and select layers in, with the share of bytes in int4 always in view.

    Traits:
        columns: The rows as columns of equal length: name, shape, parameters, decision ("int4" or "dense"),
            reason, before_bytes, after_bytes; optionally kind, bits_per_weight, padding, error (float, None),
            status ("", "queued", "running", "done", "failed", or any text). Set it through `show`.
        selected: Names of the selected layers, in the table's order. Both sides may set it.
        current: Name of the focused layer, or "". Both sides may set it.
        filter: The filter's text: words, globs and "re:" patterns that must all match; "!" in front negates.
        sort: (column, "ascending" or "descending"), or () for the model's order.
        height: Height of the rows' area in CSS pixels.
        error_label: What the error column shows, with its unit.
        show_totals: Whether the line of totals stands under the rows.

    Args:
        on_error: Called as (exception, where) for each error of a handler; by default it is logged.
        traits: Initial values of traits.
    """

    _esm = bundle("shared.js", "layer_filter.js", "layer_columns.js", "layer_table.js")
    _css = bundle("theme.css", "layer_table.css")
    columns = traitlets.Dict().tag(sync=True)
    selected = traitlets.List(traitlets.Unicode()).tag(**SYNC_FROM_PAGE)
    current = traitlets.Unicode("").tag(**SYNC_FROM_PAGE)
    filter = traitlets.Unicode("").tag(**SYNC_FROM_PAGE)
    sort = traitlets.List(traitlets.Unicode(), maxlen=2).tag(**SYNC_FROM_PAGE)
    height = traitlets.Int(336, min=84, max=4000).tag(sync=True)
    error_label = traitlets.Unicode("relative error").tag(sync=True)
    show_totals = traitlets.Bool(True).tag(sync=True)

    def show(self, rows: Iterable[CoverageRow] | Mapping[str, Sequence[Any]]) -> None:
        """Show these rows; the selection keeps the names that are still there.

        Args:
            rows: Coverage rows, or columns as described under `columns`.

        Raises:
            ConfigError: when a column is missing, unknown or of another length, or a name stands twice.
        """
        given: Mapping[str, Sequence[Any]] = rows if isinstance(rows, Mapping) else columns_of(rows)
        columns = _checked(given)
        names = set(columns["name"])
        with self.hold_sync():
            self.columns = columns
            self.selected = [name for name in self.selected if name in names]
            if self.current not in names:
                self.current = ""

    def update(self, names: Sequence[str], **values: Sequence[Any]) -> None:
        """Change some cells of some rows (any thread) without sending the whole table again.

        Args:
            names: Layers to change.
            values: Column name to new values, one for each of `names`.

        Raises:
            ConfigError: when a layer or column is unknown, or the lengths disagree.
        """
        rows = {name: index for index, name in enumerate(self.columns.get("name", ()))}
        strange = [name for name in names if name not in rows]
        if strange:
            raise ConfigError(f"The table has no layer {strange[0]!r}.", mend="show the rows before updating them")
        for column, cells in values.items():
            if column not in UPDATABLE:
                raise ConfigError(f"Column {column!r} cannot be updated.", allowed=", ".join(UPDATABLE))
            if len(cells) != len(names):
                raise ConfigError(f"{len(cells)} values of {column!r} for {len(names)} layers.")
        index = [rows[name] for name in names]
        # In place: a page that is opened later reads the state of now, and nothing is sent but this message.
        for column, cells in values.items():
            target = self.columns.setdefault(column, [None] * len(rows))
            for row, cell in zip(index, cells, strict=True):
                target[row] = _plain(cell)
        content = {column: [_plain(cell) for cell in cells] for column, cells in values.items()}
        self.send({"type": "update", "index": index, "values": content})

    def set_status(self, status: Mapping[str, str]) -> None:
        """Set the status of some layers: name to status."""
        self.update(list(status), status=list(status.values()))

    def _summary(self) -> str:
        return f"{len(self.columns.get('name', ()))} layers, {len(self.selected)} selected"


def columns_of(rows: Iterable[CoverageRow]) -> dict[str, list[Any]]:
    """Turn coverage rows into columns."""
    rows = list(rows)
    names = [field.name for field in dataclasses.fields(CoverageRow)]
    return {name: [getattr(row, name) for row in rows] for name in names}


def _checked(columns: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    missing = [name for name in REQUIRED if name not in columns]
    unknown = [name for name in columns if name not in REQUIRED + OPTIONAL]
    if missing or unknown:
        raise ConfigError(
            f"The layer table lacks columns {missing} and does not know {unknown}.",
            allowed=", ".join(REQUIRED + OPTIONAL),
        )
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ConfigError(f"The columns of the layer table have different lengths: {lengths}.")
    names = list(columns["name"])
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"The layer {twice!r} stands twice in the table.")
    plain = {name: [_plain(value) for value in values] for name, values in columns.items()}
    plain["shape"] = [list(shape) for shape in plain["shape"]]
    return plain


def _plain(value: Any) -> Any:
    """Return None for a number that JSON cannot hold (the table shows a dash), anything else as it is."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
