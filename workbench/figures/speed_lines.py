"""The lines of a speed chart: a line with markers and its band for each path, and the bound of the machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from workbench.figures.style import Theme, faded

# Path → place in the palette (dense is grey), where a chart holds one series; else the colour tells the series apart.
COLORS = {"int4": 0, "op": 1, "fused": 2, "dequantize": 3}
_DASHES = {"int4": "solid", "dense": "dash"}


@dataclass(frozen=True)
class Place:
    """One value of a line.

    Attributes:
        x: Batch size.
        y: Value.
        low: Lower end of its spread.
        high: Upper end of its spread.
        hover: What its hover says under the value.
    """

    x: int
    y: float
    low: float
    high: float
    hover: str


def look_of(style: Theme, name: str, place: int, groups: int) -> tuple[str, str, float]:
    """Colour, dash and width of a line."""
    path, _, form = name.partition(" ")
    grey = path == "dense" and groups == 1
    number = COLORS.get(path, 5) if groups == 1 else place % 6
    dash = "dashdot" if form else _DASHES.get(path, "solid" if groups == 1 else "dot")
    return style.fg3 if grey else style.series[number], dash, 3.0 if name == "int4" else 2.0


def add_line(
    figure: go.Figure,
    style: Theme,
    name: str,
    look: tuple[str, str, float],
    places: Sequence[Place],
    unit: str,
    *,
    band: bool,
) -> None:
    """Add a band, then its line with markers (error bars where a single point has no band)."""
    color, dash, width = look
    x, y = [place.x for place in places], [place.y for place in places]
    if band:
        _add_band(figure, name, color, places)
    bars = {
        "type": "data",
        "symmetric": False,
        "array": [place.high - place.y for place in places],
        "arrayminus": [place.y - place.low for place in places],
        "color": color,
        "thickness": 1.5,
        "width": 5,
        "visible": len(y) == 1,
    }
    figure.add_trace(
        go.Scatter(
            x=x,
            y=y,
            name=name,
            legendgroup=name,
            mode="lines+markers",
            zorder=1 if width > 2 else 0,
            line={"color": color, "width": width, "dash": dash},
            marker={"size": 8, "color": color, "line": {"width": 2, "color": style.surface}},
            error_y=bars,
            customdata=[place.hover for place in places],
            hovertemplate=f"batch %{{x}}: <b>%{{y:.3g}}{unit}</b><br>%{{customdata}}<extra>{name}</extra>",
        )
    )


def _add_band(figure: go.Figure, name: str, color: str, places: Sequence[Place]) -> None:
    figure.add_trace(
        go.Scatter(
            x=[*(place.x for place in places), *(place.x for place in reversed(places))],
            y=[*(place.high for place in places), *(place.low for place in reversed(places))],
            fill="toself",
            fillcolor=faded(color, 0.16),
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
            legendgroup=name,
            mode="lines",
        )
    )


def add_bound(figure: go.Figure, style: Theme, name: str, places: Sequence[Place], unit: str) -> None:
    """Add the line that no point of int4 can pass."""
    if places:
        figure.add_trace(
            go.Scatter(
                x=[place.x for place in places],
                y=[place.y for place in places],
                name=name,
                mode="lines",
                line={"color": style.fg3, "width": 1.75, "dash": "dot"},
                customdata=[place.hover for place in places],
                hovertemplate=f"batch %{{x}}: <b>%{{y:.3g}}{unit}</b><br>%{{customdata}}<extra>{name}</extra>",
            )
        )
