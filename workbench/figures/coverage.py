"""The figure of a model's coverage: bytes by kind of weight, before and after."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from workbench.coverage.coverage import Coverage
from workbench.figures.style import ThemeName, new_figure, say_empty, style_of
from workbench.records.layers import CoverageRow
from workbench.sizes import size


def coverage_figure(coverage: Coverage, *, theme: ThemeName = "light") -> go.Figure:
    """Draw the bytes of each kind of weight, now and afterwards.

    Args:
        coverage: What becomes of every weight.
        theme: "light" or "dark".
    """
    style = style_of(theme)
    figure = new_figure(style, f"Bytes of {coverage.model}, before and after", coverage.verdict())
    kinds = sorted(dict.fromkeys(row.kind for row in coverage.rows))
    rows = {kind: [row for row in coverage.rows if row.kind == kind] for kind in kinds}
    before = {kind: sum(row.before_bytes for row in rows[kind]) for kind in kinds}
    after = {kind: sum(row.after_bytes for row in rows[kind]) for kind in kinds}
    shown = sorted((kind for kind in kinds if before[kind] or after[kind]), key=lambda kind: (before[kind], kind))
    labels = [kind.replace("_", " ") for kind in shown]
    for name, held, color in (("after", after, style.series[0]), ("before", before, style.line_strong)):
        figure.add_trace(
            go.Bar(
                y=labels,
                x=[held[kind] for kind in shown],
                orientation="h",
                name=name,
                marker={"color": color, "line": {"width": 0}},
                text=[size(held[kind]) for kind in shown],
                textposition="outside",
                textfont={"color": style.fg2, "size": 11},
                cliponaxis=False,
                customdata=[_kind_hover(rows[kind]) for kind in shown],
                hovertemplate="%{y}, " + name + ": <b>%{text}</b><br>%{customdata}<extra></extra>",
            )
        )
    figure.update_layout(barmode="group", bargap=0.35, bargroupgap=0.08, legend={"traceorder": "reversed"})
    top = max([*before.values(), *after.values(), 1])
    figure.update_xaxes(title_text="bytes", tickformat="~s", ticksuffix="B", range=[0, 1.15 * top], nticks=7)
    figure.update_yaxes(showgrid=False, automargin=True)
    return figure if shown else say_empty(figure, style, "The model has no weights.")


def _kind_hover(rows: Sequence[CoverageRow]) -> str:
    int4 = sum(row.decision == "int4" for row in rows)
    return f"{len(rows)} weights, {int4} of them become int4"
