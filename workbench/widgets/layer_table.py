"""Table of a model's layers: thousands of rows from one columnar payload, drawn as they scroll into view.

It is a list or the module tree, where parts that differ by an index alone are shown once; what is picked in it can be
made int4 or left dense with a click.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import traitlets

from workbench.coverage.words import dense_groups
from workbench.errors import ConfigError
from workbench.kinds import QUANTIZABLE_KINDS
from workbench.records.layers import CoverageRow, Decision
from workbench.widgets.component import SYNC_FROM_PAGE, Component, ErrorHandler, bundle

REQUIRED = ("name", "shape", "parameters", "decision", "reason", "before_bytes", "after_bytes")
OPTIONAL = ("kind", "group_size", "bits_per_weight", "padding", "error", "status")
UPDATABLE = ("kind", "decision", "reason", "after_bytes", *OPTIONAL[1:])


@dataclass(frozen=True)
class LayerChoice:
    """What a person chose with one click.

    Attributes:
        names: The weights it is for, in the table's order.
        decision: "int4" or "dense".
        group_size: Weights per group, or None: what the layers or the default have.
        glob: The glob of the part of the model that the names are, or "" for a selection.
    """

    names: tuple[str, ...]
    decision: Decision
    group_size: int | None = None
    glob: str = ""


class LayerTable(Component):
    """A table to filter, sort and select layers in, with the share of bytes in int4 always in view.

    Traits:
        columns: The rows as columns of equal length: name, shape, parameters, decision ("int4" or "dense"),
            reason, before_bytes, after_bytes; optionally kind, group_size, bits_per_weight, padding, error
            (float, None, or why it is NaN), status ("", "queued", "running", "done", "failed", or any text). Set it
            through `show`.
        selected: Names of the selected layers, in the table's order. A page sends its choice as a message, in order
            with the changes of forms, so that a setting never reaches the layer that was selected before.
        current: Name of the focused layer, or "". It comes from a page as `selected` does.
        filter: The filter's text: words, globs, "re:" patterns and "kind:norm" (or decision, reason, padding, status)
            that must all match; "!" in front negates.
        sort: (column, "ascending" or "descending"), or () for the model's order.
        height: Height of the rows' area in CSS pixels.
        error_label: What the error column shows, with its unit.
        show_totals: Whether the totals, and what stays dense, stand under the rows.
        tree: Whether the rows are shown by module. Both sides may set it.
        fold: Whether the tree shows parts that differ by an index alone once. Both sides may set it.
        group_sizes: Group sizes that a click can choose; none hides the choices.
        able_kinds: Kinds of weight that can become int4.
        left_dense: What stays dense, by kind and reason; set by `show`.

    Args:
        on_error: Called as (exception, where) for each error of a handler; by default it is logged.
        traits: Initial values of traits.
    """

    _esm = bundle(
        *("shared.js", "layer_filter.js", "layer_tree.js", "layer_columns.js", "layer_choices.js"),
        *("layer_rows.js", "layer_table.js"),
    )
    _css = bundle("theme.css", "layer_table.css")
    columns = traitlets.Dict().tag(sync=True)
    selected = traitlets.List(traitlets.Unicode()).tag(sync=True)
    current = traitlets.Unicode("").tag(sync=True)
    filter = traitlets.Unicode("").tag(**SYNC_FROM_PAGE)
    sort = traitlets.List(traitlets.Unicode(), maxlen=2).tag(**SYNC_FROM_PAGE)
    height = traitlets.Int(336, min=84, max=4000).tag(sync=True)
    error_label = traitlets.Unicode("relative error").tag(sync=True)
    show_totals = traitlets.Bool(True).tag(sync=True)
    tree = traitlets.Bool(False).tag(**SYNC_FROM_PAGE)
    fold = traitlets.Bool(True).tag(**SYNC_FROM_PAGE)
    group_sizes = traitlets.List(traitlets.Int()).tag(sync=True)
    able_kinds = traitlets.List(traitlets.Unicode(), list(QUANTIZABLE_KINDS)).tag(sync=True)
    left_dense = traitlets.List(traitlets.Dict()).tag(sync=True)

    def __init__(self, *, on_error: ErrorHandler | None = None, **traits: Any) -> None:
        self._callbacks: list[Callable[[LayerChoice], str | None]] = []
        super().__init__(on_error=on_error, **traits)

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
            self.left_dense = _dense_groups(columns)
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
        if not values.keys().isdisjoint(("kind", "decision", "reason")):
            self.left_dense = _dense_groups(self.columns)

    def set_status(self, status: Mapping[str, str]) -> None:
        """Set the status of some layers: name to status."""
        self.update(list(status), status=list(status.values()))

    def on_choose(self, callback: Callable[[LayerChoice], str | None]) -> None:
        """Call `callback` with each choice; the text it returns, or its error, is shown under the rows."""
        self._callbacks.append(callback)

    def _receive(self, content: Any, buffers: Any) -> None:
        kind = content.get("type") if isinstance(content, dict) else None
        if kind == "choose":
            self._choose(content)
        elif kind == "select":
            with self._answering(content):
                self._select(content)

    def _select(self, content: Mapping[str, Any]) -> None:
        names = self.columns.get("name", [])
        picked, current = _picked(content, names), content.get("current")
        if type(current) is not int or not -1 <= current < len(names):
            raise ConfigError(f"The table has no row {current!r}.", allowed=f"-1 (none) to {len(names) - 1}")
        with self.hold_sync(), self.hold_trait_notifications():  # one change, not two with a state between
            self.selected, self.current = picked, "" if current < 0 else names[current]

    def _choose(self, content: Mapping[str, Any]) -> None:
        texts, failed = [], False
        for callback in list(self._callbacks):
            try:
                texts.append(callback(_choice_of(content, self.columns.get("name", []))))
            except Exception as error:
                failed = True
                texts.append(str(error) or type(error).__name__)
                self._report(error, "LayerTable: choice")
        self.send({"type": "said", "ok": not failed, "text": " ".join(text for text in texts if text)})

    def _summary(self) -> str:
        return f"{len(self.columns.get('name', ()))} layers, {len(self.selected)} selected"


def _choice_of(content: Mapping[str, Any], names: Sequence[str]) -> LayerChoice:
    """Read a message of the page."""
    decision, size = content.get("decision"), content.get("group_size")
    if decision not in ("int4", "dense") or not isinstance(size, int | None):
        raise ConfigError(f"The choice {dict(content)} is not one of this table.")
    return LayerChoice(tuple(_picked(content, names)), decision, size, str(content.get("glob") or ""))


def _picked(content: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Return the names of the rows of a message of the page."""
    rows = content.get("rows")
    if not isinstance(rows, list) or not all(type(i) is int and 0 <= i < len(names) for i in rows):
        raise ConfigError(f"The table has no rows {rows!r}.", allowed=f"a list of 0 to {len(names) - 1}")
    return [names[i] for i in rows]


def _dense_groups(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    kinds = columns.get("kind") or [""] * len(columns["name"])
    held = zip(columns["decision"], kinds, columns["reason"], columns["before_bytes"], strict=True)
    groups = dense_groups((kind or "", reason, size) for decision, kind, reason, size in held if decision != "int4")
    return [dataclasses.asdict(group) | {"text": str(group)} for group in groups]


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
