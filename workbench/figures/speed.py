"""Charts of measured speed: int4 over dense, and the time of a call, by batch size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass

import plotly.graph_objects as go

from workbench.figures.speed_lines import COLORS, Place, add_bound, add_line, look_of
from workbench.figures.speed_marks import MARGIN, add_ribbon, mark_crossover, mark_equal
from workbench.figures.style import ThemeName, new_figure, say_empty, style_of
from workbench.measure.speed_report import crossover, speedups
from workbench.records.speed import SpeedPoint

_BOUND = "roofline"
_TICKS = tuple(2.0**power for power in range(-8, 9))
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
    """Draw dense time over the time of int4 and of each of its paths by batch size, under what the machine allows.

    The band of int4 comes from the 10th and 90th percentiles of both times. Where all points are of one layer, dtype
    and device, the crossover is marked, and under the plot stands which path int4 took.

    Args:
        points: Measured points; batch sizes where a path or dense was not measured are left out.
        theme: "light" or "dark".
    """
    style = style_of(theme)
    measured = _measured(points)
    figure = new_figure(style, "Speedup of int4 by batch size", _where(measured))
    groups = _by_series(measured)
    drawn: set[int] = set()
    for place, (series, own) in enumerate(groups.items()):
        dense = {point.batch: point for point in own if point.name == "dense"}
        pairs = [(point, dense[point.batch]) for point in own if point.batch in dense and point.name != "dense"]
        drawn |= {point.batch for point, _ in pairs}
        for name in dict.fromkeys(point.name for point, _ in pairs):
            places = [_speedup(point, base) for point, base in pairs if point.name == name]
            look = look_of(style, name, place, len(groups))
            add_line(figure, style, f"{name} {_label(series, groups)}".rstrip(), look, places, "×", band=name == "int4")
        best = [_best(base.time_ms / p.attainable_ms, p) for p, base in pairs if p.name == "int4" and p.attainable_ms]
        add_bound(figure, style, f"{_BOUND} {_label(series, groups)}".rstrip(), best, "×")
    _batch_axis(figure, drawn)
    figure.update_yaxes(title_text="speedup over dense", type="log", tickvals=_TICKS, ticktext=[*map(_times, _TICKS)])
    if not drawn:
        return say_empty(figure, style, _EMPTY)
    mark_equal(figure, style)
    if len(groups) == 1:
        mark_crossover(figure, style, crossover(speedups(measured, measured[0].dtype)))
        add_ribbon(figure, style, [point for point in measured if point.name == "int4"], COLORS)
    return figure


def latency_figure(points: Iterable[SpeedPoint], *, theme: ThemeName = "light") -> go.Figure:
    """Draw the median time of a call by batch size: int4, each of its paths, dense, and the least that can be.

    The bands of int4 and dense reach from their 10th to their 90th percentile.

    Args:
        points: Measured points.
        theme: "light" or "dark".
    """
    style = style_of(theme)
    measured = _measured(points)
    figure = new_figure(style, "Time of a call by batch size", _where(measured))
    groups = _by_series(measured)
    for place, (series, own) in enumerate(groups.items()):
        for name in dict.fromkeys(point.name for point in own):
            places = [_latency(point) for point in own if point.name == name]
            look = look_of(style, name, place, len(groups))
            banded = name in ("int4", "dense")
            add_line(figure, style, f"{name} {_label(series, groups)}".rstrip(), look, places, " ms", band=banded)
        best = [_best(point.attainable_ms, point) for point in own if point.name == "int4" and point.attainable_ms]
        add_bound(figure, style, f"{_BOUND} {_label(series, groups)}".rstrip(), best, " ms")
    _batch_axis(figure, {point.batch for point in measured})
    figure.update_yaxes(title_text="median time, ms", type="log", dtick="D2", tickformat="~g")
    if not measured:
        return say_empty(figure, style, _EMPTY)
    if len(groups) == 1:
        add_ribbon(figure, style, [point for point in measured if point.name == "int4"], COLORS)
    return figure


def _times(value: float) -> str:
    return f"{value:g}×" if value >= 1 else f"1/{1 / value:g}×"


def _speedup(point: SpeedPoint, base: SpeedPoint) -> Place:
    hover = (
        f"{point.path} {point.time_ms:.3g} ms, dense {base.time_ms:.3g} ms{_share(point)}<br>"
        f"{point.runs} and {base.runs} runs, {point.device_name}"
    )
    low, high = base.p10_ms / point.p90_ms, base.p90_ms / point.p10_ms
    return Place(point.batch, base.time_ms / point.time_ms, low, high, hover)


def _latency(point: SpeedPoint) -> Place:
    hover = (
        f"10th to 90th percentile {point.p10_ms:.3g} to {point.p90_ms:.3g} ms{_share(point)}<br>{point.runs} runs, "
        f"{point.gb_per_s:.3g} GB/s, {point.gflop_per_s:.3g} GFLOP/s<br>{point.device_name}"
    )
    return Place(point.batch, point.time_ms, point.p10_ms, point.p90_ms, hover)


def _share(point: SpeedPoint) -> str:
    """Say how near a point is to what the machine allows, and which path int4 took."""
    share = "" if point.roofline_share is None else f"<br>{point.roofline_share:.0%} of the roofline"
    return share + (f"<br>path: {point.chosen_path}" if point.chosen_path else "")


def _best(y: float, point: SpeedPoint) -> Place:
    return Place(point.batch, y, y, y, f"what {point.device_name} allows int4")


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
    """Name a line by what it does not share with all others, and the device where there are several lines."""
    everything = list(groups)
    if len(everything) == 1:
        return ""
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
        figure.update_xaxes(range=[math.log10(ticks[0]) - MARGIN, math.log10(ticks[-1]) + MARGIN])
