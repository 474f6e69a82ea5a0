"""The tables of a report: coverage with errors, what Improve changed, times, numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

from workbench.coverage.coverage import Coverage
from workbench.coverage.words import held_as
from workbench.improve.improvement import ChangeGroup
from workbench.measure.paired import Comparison, Estimate
from workbench.records.layers import CoverageRow
from workbench.records.speed import SpeedPoint
from workbench.sizes import size
from workbench.views.views import LayerView

Cell = tuple[str, float | str | None]  # HTML, and what it is sorted by


def coverage_table(coverage: Coverage, errors: Mapping[str, LayerView]) -> str:
    """Return a row for each weight; every column can be sorted where scripts run."""
    heads = ("Weight", "Kind", "Shape", "Decision", "Why", "Error", "Bits", "Before", "After")
    rows = [_coverage_row(row, errors.get(row.name)) for row in coverage.rows]
    return table(heads, rows, numbers=(2, 5, 6, 7, 8), kind="sortable")


def _coverage_row(row: CoverageRow, view: LayerView | None) -> list[Cell]:
    error = None if view is None else view.summary.relative_rmse
    padded = f"; padded {row.padding}" if row.padding else ""
    return [
        (f"<code>{escape(row.name)}</code>", row.name),
        (escape(row.kind.replace("_", " ")), row.kind),
        (" × ".join(map(str, row.shape)), row.parameters),
        (f'<span class="{held_as(row)}">{held_as(row)}</span>', held_as(row)),
        (escape(row.reason + padded), row.reason),
        ("–" if error is None else percent(error), error),
        (f"{row.bits_per_weight:.2f}", row.bits_per_weight),
        (size(row.before_bytes), row.before_bytes),
        (size(row.after_bytes), row.after_bytes),
    ]


def changes_table(groups: Sequence[ChangeGroup], objective: str) -> str:
    """Return a row for each kind of layer that Improve changed."""
    rows: list[list[Cell]] = []
    for group in groups:
        count = f" <small>{len(group.names)} layers</small>" if len(group.names) > 1 else ""
        rows.append(
            [
                (f"<code>{escape(group.pattern)}</code>{count}", None),
                (escape(group.before), None),
                (f"<b>{escape(group.after)}</b>", None),
                (f"{percent(group.error_before)} → {percent(group.error_after)}", None),
                (f"{size(group.bytes_before)} → {size(group.bytes_after)}", None),
            ]
        )
    return table(("Layers", "Before", "After", objective.capitalize(), "Bytes"), rows, numbers=(3, 4))


def speed_table(points: Sequence[SpeedPoint]) -> str:
    """Return the times of each path in a column, a row for each batch size."""
    names = sorted({point.name for point in points}, key=lambda name: (name != "int4", name == "dense", name))
    by_place = {(point.name, point.batch): point for point in points}
    rows: list[list[Cell]] = []
    for batch in sorted({point.batch for point in points}):
        cells: list[Cell] = [(str(batch), None)]
        for name in names:
            point = by_place.get((name, batch))
            cells.append(("–" if point is None else f"{point.time_ms:.3g} ms", None))
        ours = by_place.get(("int4", batch))
        cells.append((escape(ours.chosen_path) if ours else "", None))
        rows.append(cells)
    return table(("Batch", *names, "int4 takes"), rows, numbers=range(1, len(names) + 1))


def quality_table(found: Comparison) -> str:
    """Return perplexity and divergence with their intervals."""
    ratio, kl = found.perplexity_ratio, found.mean_kl
    said: list[list[Cell]] = [
        [("Perplexity", None), (f"{found.reference_perplexity:.3f} → {found.perplexity:.3f}", None), ("", None)],
        [("Difference", None), (f"{ratio.value - 1:+.2%}", None), (_interval(ratio, lambda r: f"{r - 1:+.2%}"), None)],
        [("Mean KL, nats a token", None), (f"{kl.value:.5f}", None), (_interval(kl, lambda v: f"{v:.5f}"), None)],
        [("Same first choice", None), (f"{found.agreement:.1%}", None), (f"of {found.tokens:,} tokens", None)],
    ]
    return table(("Original → int4", "", "95 % interval"), said, numbers=(1,))


def facts_table(facts: Mapping[str, str]) -> str:
    """Return what it is → its words."""
    lines = (f'<tr><th scope="row">{escape(name)}</th><td>{escape(said)}</td></tr>' for name, said in facts.items())
    return f'<table class="facts"><tbody>{"".join(lines)}</tbody></table>'


def table(heads: Sequence[str], rows: Sequence[Sequence[Cell]], *, numbers: Sequence[int] = (), kind: str = "") -> str:
    """Return a table in a box that scrolls.

    Args:
        heads: Names of the columns.
        rows: Cells, as HTML, with what they are sorted by.
        numbers: Columns that are aligned at the right.
        kind: CSS class; "sortable" gives each head a button where scripts run.
    """
    aligned = [' class="number"' if place in numbers else "" for place in range(len(heads))]
    head = "".join(f'<th scope="col"{of}>{escape(name)}</th>' for name, of in zip(heads, aligned, strict=True))
    body = "".join(
        "<tr>" + "".join(_cell(cell, of) for cell, of in zip(row, aligned, strict=True)) + "</tr>" for row in rows
    )
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _cell(cell: Cell, aligned: str) -> str:
    said, key = cell
    sort = "" if key is None else f' data-sort="{escape(str(key))}"'
    return f"<td{aligned}{sort}>{said}</td>"


def percent(share: float) -> str:
    """Write a share as a percentage of three digits."""
    if not math.isfinite(share):
        return "∞" if share > 0 else "–"
    return f"{share:.1%}" if share >= 0.0995 else f"{share:.2%}"


def _interval(found: Estimate, say: Callable[[float], str]) -> str:
    if found.low is None or found.high is None:
        return "a single window gives none"
    return f"{say(found.low)} to {say(found.high)}"
