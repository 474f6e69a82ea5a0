"""A session as a plain table of facts, for pages where no widget runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Protocol

from workbench.coverage.coverage import Coverage
from workbench.exporting import ExportResult
from workbench.recipe.history import recipe_said
from workbench.recipe.recipe import Recipe
from workbench.records.speed import SpeedPoint
from workbench.session.exact import SessionErrors
from workbench.session.given import Given
from workbench.session.speed import SessionSpeed
from workbench.sizes import size
from workbench.sources import Source
from workbench.views.views import LayerView

_CELL = "padding:2px 16px 2px 0;text-align:left;vertical-align:top"


class Told(Protocol):
    """What of a session is told."""

    source: Source
    device: str
    recipe: Recipe
    coverage: Coverage
    given: Given | None
    exact: SessionErrors
    current: str
    speed: SessionSpeed

    @property
    def exported(self) -> ExportResult | None:
        """The latest finished export, or None."""
        ...


def session_facts(session: Told) -> dict[str, str]:
    """Return what a session knows: what it is → a line in words; what was not measured is left out."""
    coverage, errors = session.coverage, session.exact.views
    facts = {
        "Model": f"{session.source.name}, to run on {session.device}",
        "Size": f"{size(coverage.before_bytes)} → {size(coverage.after_bytes)}",
        "Coverage": coverage.verdict().partition(", " + size(coverage.before_bytes))[0],
        "Recipe": recipe_said(session.recipe),
    }
    if session.given is not None:
        given = session.given
        facts |= {"Size": given.size_said(coverage.before_bytes), "Recipe": f"none: int4 already, {given.said()}"}
    if known := [errors[row.name] for row in coverage.int4_rows if row.name in errors]:
        worst = max(known, key=lambda view: view.summary.relative_rmse)
        said = f"{len(known)} of {len(coverage.int4_rows)} layers solved, the largest {_error(worst)}"
        facts["Relative error"] = said
    if (shown := errors.get(session.current)) is not None:
        facts["Layer on show"] = f"{_error(shown)}, SQNR {shown.summary.sqnr_db:.1f} dB"
    if said := _speed(session.speed.points):
        facts["Speed"] = said
    if (done := session.exported) is not None:
        checked = ", checked" if done.verified else ""
        target = done.report.target
        facts["Exported"] = f"{done.directory} ({target}), {size(done.size_bytes)}{checked}"
    return facts


def facts_html(title: str, facts: Mapping[str, str], lines: Sequence[str] = ()) -> str:
    """Return a table of facts as HTML that runs no script and asks no network for anything.

    Args:
        title: What it is about.
        facts: What it is → its words.
        lines: What stands under the table.
    """
    cell = f'<tr><th scope="row" style="{_CELL}">{{}}</th><td style="{_CELL}">{{}}</td></tr>'
    rows = "".join(cell.format(escape(name), escape(said)) for name, said in facts.items())
    below = "".join(f'<div style="margin:4px 0">{escape(line)}</div>' for line in lines)
    table = f'<table style="border-collapse:collapse"><tbody>{rows}</tbody></table>'
    return f'<div class="wb-session-facts"><div><b>{escape(title)}</b></div>{table}{below}</div>'


def _error(view: LayerView) -> str:
    return f"{view.name} {view.summary.relative_rmse:.4f}"


def _speed(points: Sequence[SpeedPoint]) -> str:
    """Say how int4 stands against dense at the smallest and largest measured batch size."""
    times = {(point.path, point.batch): point for point in points if point.form == "eager"}
    both = sorted(batch for path, batch in times if path == "int4" and ("dense", batch) in times)
    said = []
    for batch in dict.fromkeys([both[0], both[-1]]) if both else []:
        int4, dense = times["int4", batch], times["dense", batch]
        said.append(f"batch {batch}: {dense.time_ms / int4.time_ms:.2f}× dense {int4.dtype} ({int4.time_ms:.3g} ms)")
    return "; ".join(said)
