"""Figures of one weight: its error map, and the distribution of its errors."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.figures.style import Theme, ThemeName, color_scale, dress, new_figure, style_of
from workbench.records.errors import ErrorMap, Histogram

_WEIGHTS = ("original", "dequantized")  # metrics whose columns are weights, not groups


def error_map_figure(error_map: ErrorMap, *, title: str = "", theme: ThemeName = "light") -> go.Figure:
    """Draw a picture of a weight, rows × groups, in true values.

    Args:
        error_map: What `measure.error_map.error_map` made.
        title: For instance the layer's name.
        theme: "light" or "dark".
    """
    style = style_of(theme)
    values = map_values(error_map)
    columns = "input feature" if error_map.metric in _WEIGHTS else "group"
    figure = new_figure(style, title or _first_upper(error_map.unit), _reduction(error_map, columns))
    figure.add_trace(
        go.Heatmap(
            z=np.log10(values) if error_map.log else values,
            customdata=values if error_map.log else None,
            x0=(error_map.col_span - 1) / 2,
            dx=error_map.col_span,
            y0=(error_map.row_span - 1) / 2,
            dy=error_map.row_span,
            zmin=math.log10(error_map.lo) if error_map.log else error_map.lo,
            zmax=math.log10(error_map.hi) if error_map.log else error_map.hi,
            colorscale=color_scale(style, signed=not error_map.log and error_map.lo < 0 < error_map.hi),
            colorbar=_color_bar(error_map, style),
            hovertemplate=(
                f"{_axis_hover('output feature', 'y', error_map.row_span)}<br>"
                f"{_axis_hover(columns, 'x', error_map.col_span)}<br>"
                f"<b>%{{{'customdata' if error_map.log else 'z'}:.3g}}</b> {error_map.unit}<extra></extra>"
            ),
        )
    )
    figure.update_yaxes(title_text="output feature", autorange="reversed", showgrid=False, zeroline=False)
    figure.update_xaxes(title_text=f"{columns}{'' if columns != 'group' else ' of input features'}", showgrid=False)
    if error_map.total_cols <= 20:
        figure.update_xaxes(tick0=0, dtick=1)  # few groups: a tick for each, none between them
    figure.update_layout(margin={"t": 88})
    return figure


def map_values(error_map: ErrorMap) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the values that the codes of a picture stand for, float32 [rows, cols]."""
    codes = np.frombuffer(error_map.values, np.uint8).reshape(error_map.rows, error_map.cols)
    share = codes.astype(np.float64) / 255
    if error_map.log:
        return (error_map.lo * (error_map.hi / error_map.lo) ** share).astype(np.float32)
    return (error_map.lo + (error_map.hi - error_map.lo) * share).astype(np.float32)


def histogram_figure(histogram: Histogram, *, theme: ThemeName = "light") -> go.Figure:
    """Draw how the weights and their errors are distributed, each over its own range.

    Args:
        histogram: What `measure.errors.histogram` made.
        theme: "light" or "dark".
    """
    style = style_of(theme)
    titles = ["Weights", "Errors of int4"]
    figure = make_subplots(rows=1, cols=2, subplot_titles=titles, horizontal_spacing=0.1)
    subtitle = f"{sum(histogram.counts):,} weights in {histogram.bins} bins, each over its own range"
    dress(figure, style, "Weights and their int4 errors", subtitle)
    parts = ((histogram.counts, histogram.limit, "weights"), (histogram.error_counts, histogram.error_limit, "errors"))
    for place, (counts, limit, what) in enumerate(parts):
        width = 2 * limit / max(1, len(counts))
        centres = [-limit + width * (bin + 0.5) for bin in range(len(counts))]
        kept = [(x, int(count)) for x, count in zip(centres, counts, strict=True) if math.isfinite(x)]
        figure.add_trace(
            go.Bar(
                x=[x for x, _ in kept],
                y=[count for _, count in kept],
                width=width if math.isfinite(width) else None,
                name=what,
                marker={"color": style.series[place], "line": {"width": 0}},
                customdata=[(f"{x - width / 2:.3g}", f"{x + width / 2:.3g}") for x, _ in kept],
                hovertemplate="%{customdata[0]} to %{customdata[1]}<br><b>%{y:,}</b> " + what + "<extra></extra>",
            ),
            row=1,
            col=place + 1,
        )
    figure.update_annotations(font={"size": 12, "color": style.fg2})
    figure.update_layout(bargap=0, showlegend=False)
    figure.update_xaxes(title_text="weight units", showgrid=False, nticks=6)
    figure.update_yaxes(rangemode="tozero", tickformat="~s")
    figure.update_yaxes(title_text="count", col=1)
    return figure


def _reduction(error_map: ErrorMap, columns: str) -> str:
    """Say what a cell stands for."""
    whole = f"{error_map.total_rows:,} output features × {error_map.total_cols:,} {columns}s"
    if error_map.reduce == "none":
        return f"{whole}, one cell each"
    spans = f"{_plural(error_map.row_span, 'row')} × {_plural(error_map.col_span, columns)}"
    return f"{whole}, each cell the {error_map.reduce} of {spans}"


def _plural(count: int, name: str) -> str:
    return f"{count} {name}" if count == 1 else f"{count} {name}s"


def _axis_hover(name: str, axis: str, span: int) -> str:
    return f"{name} %{{{axis}}}" if span == 1 else f"{span} {name}s around %{{{axis}:.0f}}"


def _color_bar(error_map: ErrorMap, style: Theme) -> dict[str, Any]:
    bar: dict[str, Any] = {
        "title": {"text": error_map.unit, "side": "right", "font": {"size": 11, "color": style.fg2}},
        "thickness": 12,
        "outlinewidth": 0,
        "ypad": 0,
        "tickfont": {"size": 11, "color": style.fg2},
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": style.line_strong,
    }
    if not error_map.log:
        return {**bar, "tickformat": ".3~g"}
    ticks = _log_ticks(error_map.lo, error_map.hi)
    return {**bar, "tickvals": [math.log10(tick) for tick in ticks], "ticktext": [f"{tick:.3g}" for tick in ticks]}


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between two values: 1, 2 and 5 of each decade, or the ends where there are too few."""
    for steps in ((1,), (1, 2, 5), range(1, 10)):
        found = [tick for tick in _round_numbers(low, high, steps) if low <= tick <= high]
        if len(found) >= 3:
            return found
    return [low, math.sqrt(low * high), high]


def _round_numbers(low: float, high: float, steps: Iterable[int]) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [step * 10.0**decade for decade in decades for step in steps]


def _first_upper(text: str) -> str:
    return text[:1].upper() + text[1:]
