"""The coverage of a model in words, and as a table for pages where no widget runs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

from workbench.kinds import INT4, QUANTIZABLE_KINDS
from workbench.records.layers import CoverageRow

# Kind of weight → what to call one of them, and several.
_NAMES = {
    "bias": ("bias", "biases"),
    "conv1d": ("Conv1D layer", "Conv1D layers"),
    "convolution": ("convolution", "convolutions"),
    "embedding": ("embedding", "embeddings"),
    "experts": ("stack of experts", "stacks of experts"),
    "int4_linear": ("int4 layer", "int4 layers"),
    "linear": ("linear layer", "linear layers"),
    "norm": ("norm", "norms"),
    "output_head": ("output head", "output heads"),
    "parameter": ("other parameter", "other parameters"),
}
_CELL = "padding:2px 12px 2px 0;text-align:left;white-space:nowrap;vertical-align:top"
_NUMBER = _CELL.replace("left", "right")
_HEADERS = ("weight", "count", "kind", "shape", "decision", "reason", "padding", "bits", "before", "after")
_NUMBERS = ("count", "shape", "bits", "before", "after")


@dataclass(frozen=True)
class DenseGroup:
    """Weights that stay dense for one reason.

    Attributes:
        kind: Their kind of weight.
        reason: The reason that they share, or "" where their kind is the reason.
        count: How many there are.
        size_bytes: Their bytes.
    """

    kind: str
    reason: str
    count: int
    size_bytes: int

    def __str__(self) -> str:
        """Say how many of what, and why: "2 linear layers because left out by pattern 'mlp'"."""
        one, many = _NAMES.get(self.kind, (f"{self.kind} weight", f"{self.kind} weights"))
        what = f"{self.count:,} {one if self.count == 1 else many}"
        return f"{what} because {self.reason.removeprefix('output head: ')}" if self.reason else what


def held_as(row: CoverageRow) -> str:
    """Say how a weight is held afterwards: one that is int4 already stays so, though nothing is decided about it."""
    return "int4" if row.kind == INT4 else row.decision


def left_dense(rows: Iterable[CoverageRow]) -> tuple[DenseGroup, ...]:
    """Group the weights that stay dense (see `dense_groups`)."""
    return dense_groups((row.kind, row.reason, row.before_bytes) for row in rows if held_as(row) != "int4")


def dense_groups(weights: Iterable[tuple[str, str, int]]) -> tuple[DenseGroup, ...]:
    """Group dense weights by kind, and those that could be int4 by their reason too; these come last.

    Args:
        weights: Kind, reason and bytes of each.
    """
    counts: Counter[tuple[str, str]] = Counter()
    sizes: Counter[tuple[str, str]] = Counter()
    for kind, reason, size_bytes in weights:
        key = (kind, reason if kind in QUANTIZABLE_KINDS else "")
        counts[key] += 1
        sizes[key] += size_bytes
    ordered = sorted(counts, key=lambda key: (bool(key[1]), -sizes[key], key))
    return tuple(DenseGroup(*key, counts[key], sizes[key]) for key in ordered)


def left_dense_text(groups: Sequence[DenseGroup]) -> str:
    """Say in a line what stays dense: kinds first, then layers with their reasons; "" when nothing does."""
    kinds = ", ".join(str(group) for group in groups if not group.reason)
    layers = "; ".join(str(group) for group in groups if group.reason)
    return "; ".join(filter(None, [kinds, layers]))


def coverage_html(title: str, rows: Sequence[CoverageRow], lines: Sequence[str], size: Callable[[float], str]) -> str:
    """Return the coverage as HTML that runs no script; layers that differ by an index alone share a line.

    Args:
        title: Name of the model.
        rows: Every weight.
        lines: What stands above the table: the verdict, then notes.
        size: Writes a number of bytes.
    """
    dense = left_dense_text(left_dense(rows))
    said = [*lines[:1], *([f"Left dense: {dense}"] if dense else []), *lines[1:]]
    above = "".join(f'<div style="margin:2px 0">{escape(line)}</div>' for line in said)
    head = "".join(f'<th style="{_style(name)}">{name}</th>' for name in _HEADERS)
    body = "".join(_line(alike, size) for alike in alike_rows(rows))
    table = f'<table style="border-collapse:collapse"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    box = f'<div style="max-height:480px;overflow:auto;margin-top:6px">{table}</div>'
    return f'<div class="wb-coverage-table"><div><b>{escape(title)}</b></div>{above}{box}</div>'


def alike_rows(rows: Iterable[CoverageRow]) -> list[list[CoverageRow]]:
    """Group rows that are the same but for the indices in their names, in the order of the first of each."""
    found: dict[tuple[object, ...], list[CoverageRow]] = {}
    for row in rows:
        same = (row.kind, row.shape, row.decision, row.reason, row.padding, row.before_bytes, row.after_bytes)
        found.setdefault((_template(row.name), *same), []).append(row)
    return list(found.values())


def _template(name: str) -> str:
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", name)


def _line(alike: Sequence[CoverageRow], size: Callable[[float], str]) -> str:
    row, count = alike[0], len(alike)
    name = row.name if count == 1 else _template(row.name)
    cells = {
        "weight": f'<code title="{escape(_names(alike))}">{escape(name)}</code>',
        "count": f"{count:,}",
        "kind": escape(row.kind),
        "shape": " × ".join(map(str, row.shape)),
        "decision": "<b>int4</b>" if held_as(row) == "int4" else escape(row.decision),
        "reason": escape(row.reason),
        "padding": escape(row.padding),
        "bits": f"{row.bits_per_weight:.2f}",
        "before": size(sum(each.before_bytes for each in alike)),
        "after": size(sum(each.after_bytes for each in alike)),
    }
    return "<tr>" + "".join(f'<td style="{_style(name)}">{cells[name]}</td>' for name in _HEADERS) + "</tr>"


def _names(alike: Sequence[CoverageRow]) -> str:
    shown = [row.name for row in alike[:3]]
    return ", ".join(shown) + (f" and {len(alike) - 3:,} more" if len(alike) > 3 else "")


def _style(column: str) -> str:
    return _NUMBER if column in _NUMBERS else _CELL


__all__ = ["DenseGroup", "alike_rows", "coverage_html", "dense_groups", "held_as", "left_dense", "left_dense_text"]
