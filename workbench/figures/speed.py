"""Charts of measured speed: int4 over dense, and the time of a call, by batch size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass

import plotly.graph_objects as go

from workbench.figures.style import Theme, ThemeName, faded, new_figure, say_empty, style_of
from workbench.records import SpeedPoint

_PATHS = {"int4": "int4", "int4_op": "int4 (bare op)", "dense": "dense"}
_DASHES = {"int4": "solid", "int4_op": "dot", "dense": "dash"}
_EMPTY = "Nothing is measured yet."


@dataclass(frozen=True, order=True)
class _Series:
    """What tells one line of a speed chart from another."""

    device: str
    dtype: str
    n: int
    k: int
    group_size: int

    @classmethod
    def of(cls, point: SpeedPoint) -> _Series:
        return cls(point.device, point.dtype, point.n, point.k, point.group_size)

    def parts(self) -> tuple[str, ...]:
        return (f"on {self.device}", self.dtype, f"{self.n} × {self.k}", f"g{self.group_size}")


def speedup_figure(points: Iterable[SpeedPoint], *, theme: ThemeName = "light") -> go.Figure:
    """Draw dense time over int4 time by batch size, with a band from the 10th and 90th percentiles of both.

    Args:
        points: Measured points; batch sizes where only one of the two was measured are left out.
        theme: "light" or "dark".
    """
    style = style_of(theme)
    measured = _measured(points)
    figure = new_figure(style, "Speedup of int4 by batch size", _where(measured))
    batches: set[int] = set()
    groups = _by_series(measured)
    for place, (series, own) in enumerate(groups.items()):
        dense = {point.batch: point for point in own if point.path == "dense"}
        pairs = [(point, dense[point.batch]) for point in own if point.path == "int4" and point.batch in dense]
        if not pairs:
            continue
        batches |= {int4.batch for int4, _ in pairs}
        y = [base.time_ms / int4.time_ms for int4, base in pairs]
        low = [base.p10_ms / int4.p90_ms for int4, base in pairs]
        high = [base.p90_ms / int4.p10_ms for int4, base in pairs]
        hover = [
            f"int4 {int4.time_ms:.3g} ms, dense {base.time_ms:.3g} ms<br>{int4.runs} and {base.runs} runs, "
            f"{int4.device_name}"
            for int4, base in pairs
        ]
        name = f"int4 {_label(series, groups)}"
        _add_line(figure, style, name, style.series[place % 6], "solid", [p.batch for p, _ in pairs], y, low, high)
        figure.data[-1].update(
            customdata=hover, hovertemplate="batch %{x}: <b>%{y:.2f}×</b><br>%{customdata}<extra>" + name + "</extra>"
        )
    _batch_axis(figure, batches)
    figure.update_yaxes(title_text="speedup over dense", ticksuffix="×", rangemode="tozero")
    figure.add_hline(
        y=1,
        line={"color": style.fg3, "width": 1.5, "dash": "dash"},
        annotation_text="as fast as dense",
        annotation_position="bottom left",
    ).update_annotations(font={"color": style.fg3, "size": 11})
    return figure if batches else say_empty(figure, style, _EMPTY)


def latency_figure(points: Iterable[SpeedPoint], *, theme: ThemeName = "light") -> go.Figure:
    """Draw the median time of a call by batch size, int4 and dense, with a band from its 10th to 90th percentile.

    Args:
        points: Measured points.
        theme: "light" or "dark".
    """
    style = style_of(theme)
    measured = _measured(points)
    figure = new_figure(style, "Time of a call by batch size", _where(measured))
    groups = _by_series(measured)
    for place, (series, own) in enumerate(groups.items()):
        for path in dict.fromkeys(point.path for point in own):
            line = [point for point in own if point.path == path]
            name = f"{_PATHS.get(path, path)} {_label(series, groups)}"
            color = style.fg3 if path == "dense" and len(groups) == 1 else style.series[place % 6]
            x, y = [p.batch for p in line], [p.time_ms for p in line]
            bounds = [p.p10_ms for p in line], [p.p90_ms for p in line]
            _add_line(figure, style, name, color, _DASHES.get(path, "solid"), x, y, *bounds)
            hover = [
                f"10th to 90th percentile {p.p10_ms:.3g} to {p.p90_ms:.3g} ms<br>{p.runs} runs, {p.gb_per_s:.3g} GB/s, "
                f"{p.gflop_per_s:.3g} GFLOP/s<br>{p.device_name}"
                for p in line
            ]
            figure.data[-1].update(
                customdata=hover,
                hovertemplate="batch %{x}: <b>%{y:.3g} ms</b><br>%{customdata}<extra>" + name + "</extra>",
            )
    _batch_axis(figure, {point.batch for point in measured})
    figure.update_yaxes(title_text="median time, ms", type="log", dtick="D2", tickformat="~g")
    return figure if measured else say_empty(figure, style, _EMPTY)


def _measured(points: Iterable[SpeedPoint]) -> list[SpeedPoint]:
    """Leave out what cannot be drawn on a log scale, and sort by batch size."""
    whole = [p for p in points if all(math.isfinite(t) and t > 0 for t in (p.time_ms, p.p10_ms, p.p90_ms))]
    return sorted(whole, key=lambda point: point.batch)


def _by_series(points: Sequence[SpeedPoint]) -> dict[_Series, list[SpeedPoint]]:
    found: dict[_Series, list[SpeedPoint]] = {}
    for point in points:
        found.setdefault(_Series.of(point), []).append(point)
    return dict(sorted(found.items()))


def _label(series: _Series, groups: Iterable[_Series]) -> str:
    """Name a line by what it does not share with all others, the device always."""
    everything = list(groups)
    differs = [len({astuple(one)[place] for one in everything}) > 1 for place in range(5)]
    device, dtype, shape, group = series.parts()
    kept = [dtype] * differs[1] + [shape] * (differs[2] or differs[3]) + [group] * differs[4]
    return ", ".join([device, *kept])


def _where(points: Sequence[SpeedPoint]) -> str:
    """Say what was measured, and on what."""
    if not points:
        return "dense time over int4 time: same layer, same machine, calls in turn"
    shapes = dict.fromkeys(f"{p.n} × {p.k}, group size {p.group_size}, {p.dtype}" for p in points)
    names = dict.fromkeys(f"{p.device_name} ({p.device})" for p in points)
    return f"{next(iter(shapes)) if len(shapes) == 1 else f'{len(shapes)} layers'} · measured on {', '.join(names)}"


def _add_line(
    figure: go.Figure,
    style: Theme,
    name: str,
    color: str,
    dash: str,
    x: Sequence[int],
    y: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
) -> None:
    """Add a band, then its line with markers (error bars where a single point has no band)."""
    band = {"x": [*x, *reversed(x)], "y": [*high, *reversed(low)]}
    figure.add_trace(
        go.Scatter(
            **band,
            fill="toself",
            fillcolor=faded(color, 0.16),
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
            legendgroup=name,
            mode="lines",
        )
    )
    bars = {
        "type": "data",
        "symmetric": False,
        "array": [h - v for h, v in zip(high, y, strict=True)],
        "arrayminus": [v - least for v, least in zip(y, low, strict=True)],
        "color": color,
        "thickness": 1.5,
        "width": 5,
        "visible": len(y) == 1,
    }
    figure.add_trace(
        go.Scatter(
            x=list(x),
            y=list(y),
            name=name,
            legendgroup=name,
            mode="lines+markers",
            line={"color": color, "width": 2.5, "dash": dash},
            marker={"size": 8, "color": color, "line": {"width": 2, "color": style.surface}},
            error_y=bars,
        )
    )


def _batch_axis(figure: go.Figure, batches: Iterable[int]) -> None:
    """A logarithmic axis with a tick at each measured batch size."""
    ticks = sorted(set(batches))
    figure.update_xaxes(
        title_text="batch size (rows of activations)",
        type="log",
        tickmode="array",
        tickvals=ticks,
        ticktext=[str(tick) for tick in ticks],
        zeroline=False,
    )
    if ticks:
        figure.update_xaxes(range=[math.log10(ticks[0] / 1.25), math.log10(ticks[-1] * 1.25)])
