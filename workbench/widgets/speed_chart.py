"""Measured points of a linear layer as a chart: a line for each path by batch size, against dense and the roofline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from workbench.measure.speed import crossover, environment, speedups
from workbench.records.speed import SpeedPoint
from workbench.widgets.line_chart import Chart, Choice, LineStyle, Scale, Series

View = Literal["speedup", "time", "share"]
TITLES: dict[View, str] = {
    "speedup": "Speedup of int4 by batch size",
    "time": "Time of a call by batch size",
    "share": "Share of the roofline by batch size",
}
_SCALES: dict[View, Scale] = {"speedup": "log2", "time": "log10", "share": "linear"}
# Path → place in the palette: a path has the same colour in every view, and in the ribbon.
COLORS = {"int4": 0, "op": 1, "fused": 2, "dequantize": 3, "dense": 4}
_X_LABEL = "batch size (rows of activations)"
_BOUND = "roofline"


@dataclass(frozen=True)
class _Place:
    """One value of a line, with its spread and what the read-out says beside it."""

    y: float
    low: float
    high: float
    detail: str


def speed_chart(
    points: Sequence[SpeedPoint], view: View = "speedup", *, dtype: str, x_ticks: Sequence[int] = (), empty: str = ""
) -> Chart:
    """Return the chart of the points of one device and dtype.

    Args:
        points: Measured points of one layer shape on one device; other dtypes are left out.
        view: Dense time over each time, times, or how near the roofline they are.
        dtype: dtype of the activations.
        x_ticks: Batch sizes that will be measured.
        empty: Text while there are no points.
    """
    own = [point for point in points if point.dtype == dtype]
    ratios = speedups(own, dtype)
    cross = crossover(ratios)
    return Chart(
        series=tuple(_lines(own, view)),
        title=TITLES[view],
        subtitle=_where(own, dtype),
        x_label=_X_LABEL,
        y_label={"speedup": f"speedup over dense {dtype}", "time": "median time", "share": "of the roofline"}[view],
        y_scale=_SCALES[view],
        y_suffix={"speedup": "×", "time": " ms", "share": "%"}[view],
        reference={"speedup": 1.0, "time": None, "share": 100.0}[view],
        reference_label={"speedup": f"dense {dtype}", "time": "", "share": _BOUND}[view],
        mark=None if view == "share" or cross == min(ratios, default=None) else cross,
        mark_label="dense is faster from here",
        ribbon=tuple(Choice(p.batch, p.chosen_path, COLORS.get(p.chosen_path, 5)) for p in own if p.name == "int4"),
        ribbon_label="path",
        x_ticks=tuple(float(batch) for batch in x_ticks),
        empty=empty,
    )


def _lines(own: Sequence[SpeedPoint], view: View) -> Iterable[Series]:
    dense = {point.batch: point for point in own if point.name == "dense"}
    for name in dict.fromkeys(point.name for point in own):
        if view == "speedup" and name == "dense":
            continue  # the reference line
        line = [point for point in own if point.name == name]
        style: LineStyle = "measured" if line[0].form == "eager" else "variant"
        found = [(point.batch, _place(point, dense.get(point.batch), view)) for point in line]
        series = _series(name, [(batch, place) for batch, place in found if place is not None])
        yield series.styled(style, COLORS.get(line[0].path, 5), strong=name == "int4")
    if view != "share":
        yield from _bound(own, dense, view)


def _place(point: SpeedPoint, base: SpeedPoint | None, view: View) -> _Place | None:
    """Where a point stands; None where there is nothing to compare it with."""
    share = "" if point.roofline_share is None else f" · {point.roofline_share:.0%} of roofline"
    if view == "time":
        return _Place(point.time_ms, point.p10_ms, point.p90_ms, f"{point.gflop_per_s:.3g} GFLOP/s{share}")
    if view == "speedup":
        if base is None:
            return None
        low, high = base.p10_ms / point.p90_ms, base.p90_ms / point.p10_ms
        return _Place(base.time_ms / point.time_ms, low, high, f"{point.time_ms:.3g} ms{share}")
    least = point.attainable_ms
    if least is None:
        return None
    moved = f"{point.gb_per_s:.3g} GB/s, {point.gflop_per_s:.3g} GFLOP/s"
    return _Place(100 * least / point.time_ms, 100 * least / point.p90_ms, 100 * least / point.p10_ms, moved)


def _bound(own: Sequence[SpeedPoint], dense: dict[int, SpeedPoint], view: View) -> Iterable[Series]:
    """The best that int4 could do on this machine."""
    places = []
    for point in own:
        least, base = point.attainable_ms, dense.get(point.batch)
        if point.name == "int4" and least is not None and (view == "time" or base is not None):
            y = least if view == "time" or base is None else base.time_ms / least
            places.append((point.batch, _Place(y, y, y, "the machine's best")))
    if places:
        yield _series(_BOUND, places).styled("bound")


def _series(name: str, places: Sequence[tuple[int, _Place]]) -> Series:
    line = Series(name)
    for batch, place in places:
        line = line.with_point(float(batch), place.y, place.low, place.high, place.detail)
    return line


def _where(own: Sequence[SpeedPoint], dtype: str) -> str:
    """Say what was measured, and on what."""
    if not own:
        return f"int4 and dense with {dtype} activations: same layer, same machine, calls in turn"
    first = own[0]
    here = environment()
    threads = f"{here.threads} threads, " if first.device == "cpu" else ""
    shape = f"{first.n} × {first.k}, group size {first.group_size}, {dtype}"
    return f"{shape} · {first.device_name} ({first.device}), {threads}torch {here.torch_version}"
