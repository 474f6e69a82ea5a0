"""What stands beside the lines of a speed chart: where int4 is as fast as dense, and which path it took."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from workbench.figures.style import Theme, faded
from workbench.records.speed import SpeedPoint

_TOP, _BOTTOM = -0.025, -0.085  # of the ribbon, as shares of the plot's height under its axis
MARGIN = math.log10(1.25)  # of the batch axis, on either side of what is measured
_ROOM = 26  # pixels that the axis labels move down for it


def mark_equal(figure: go.Figure, style: Theme) -> None:
    """Draw the line of a speedup of one, on a logarithmic axis."""
    figure.add_hline(y=1, line={"color": style.fg3, "width": 1.5, "dash": "dash"})
    figure.add_annotation(
        **{"x": 0, "xref": "paper", "xanchor": "left", "y": math.log10(1), "yanchor": "top"},
        **{"text": "as fast as dense", "showarrow": False, "font": {"color": style.fg3, "size": 11}},
    )


def mark_crossover(figure: go.Figure, style: Theme, batch: float | None) -> None:
    """Draw the batch size from which dense is faster, where there is one."""
    if batch is None:
        return
    figure.add_vline(x=batch, line={"color": style.fg3, "width": 1.25, "dash": "dot"})
    figure.add_annotation(
        x=math.log10(batch),
        y=1,
        yref="paper",
        yanchor="top",
        xanchor="right",
        xshift=-4,
        text=f"dense is faster from about {batch:.0f}",
        showarrow=False,
        font={"color": style.fg2, "size": 11},
    )


def add_ribbon(figure: go.Figure, style: Theme, points: Sequence[SpeedPoint], colors: Mapping[str, int]) -> None:
    """Draw under the plot which path was taken at each batch size, neighbours with the same path joined.

    Args:
        figure: A figure with a logarithmic x axis.
        style: Its theme.
        points: Points of our layer, by batch size; those without a chosen path are left out.
        colors: Path → place in the palette.
    """
    chosen = [(math.log10(point.batch), point.chosen_path) for point in points if point.chosen_path]
    if not chosen:
        return
    at = [x for x, _ in chosen]
    edges = [2 * at[0] - at[1], *at, 2 * at[-1] - at[-2]] if len(at) > 1 else [at[0] - 0.3, at[0], at[0] + 0.3]
    halves = [(low + high) / 2 for low, high in itertools.pairwise(edges)]
    halves[0], halves[-1] = max(halves[0], at[0] - MARGIN), min(halves[-1], at[-1] + MARGIN)
    spans = zip(halves, halves[1:], (path for _, path in chosen), strict=False)
    for path, joined in itertools.groupby(spans, key=lambda span: span[2]):
        pieces = list(joined)
        _add_piece(figure, style, path, pieces[0][0], pieces[-1][1], style.series[colors.get(path, 5)])
    figure.add_annotation(
        **{"x": 0, "xref": "paper", "xanchor": "right", "xshift": -6, "y": (_TOP + _BOTTOM) / 2, "yref": "paper"},
        **{"yanchor": "middle", "text": "path", "showarrow": False, "font": {"color": style.fg2, "size": 11}},
    )
    figure.update_xaxes(ticklabelstandoff=_ROOM)


def _add_piece(figure: go.Figure, style: Theme, path: str, low: float, high: float, color: str) -> None:
    """Add one coloured piece with its name, from 10^low to 10^high."""
    figure.add_shape(
        type="rect",
        x0=10**low,
        x1=10**high,
        y0=_TOP,
        y1=_BOTTOM,
        yref="paper",
        fillcolor=faded(color, 0.22),
        line={"color": faded(color, 0.6), "width": 1},
    )
    figure.add_annotation(
        **{"x": (low + high) / 2, "y": (_TOP + _BOTTOM) / 2, "yref": "paper", "yanchor": "middle", "text": path},
        **{"showarrow": False, "font": {"color": style.fg, "size": 11}},
    )
