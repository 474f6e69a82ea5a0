"""Speed against dense by batch size, with the roofline where it was measured, as SVG."""

from __future__ import annotations

from collections.abc import Sequence

from workbench.records.speed import SpeedPoint
from workbench.report.svg import MARKS, SERIES, Axis, frame, legend, line, mark, svg, text

_WIDTH, _HEIGHT, _LEFT, _RIGHT = 960.0, 300.0, 56.0, 16.0
_BOUND = "most that the roofline allows"


def speed_svg(points: Sequence[SpeedPoint]) -> str:
    """Draw how many times as fast as dense each path is, one device and dtype.

    Args:
        points: Measured points; a batch size without dense has nothing to compare with and stays out.
    """
    dense = {point.batch: point.time_ms for point in points if point.name == "dense"}
    compared = [point for point in points if point.name != "dense" and point.batch in dense]
    if not compared:
        return svg(_WIDTH, 60, "Speed", [text(_WIDTH / 2, 34, "Without dense there is nothing to compare.", "label")])
    names = sorted({point.name for point in compared}, key=lambda name: (name != "int4", name))[:SERIES]
    ratios = {name: {p.batch: dense[p.batch] / p.time_ms for p in compared if p.name == name} for name in names}
    bound = {
        p.batch: dense[p.batch] / p.attainable_ms for p in compared if p.name == "int4" and p.attainable_ms is not None
    }
    batches = sorted({p.batch for p in compared})
    every = [1.0, *bound.values(), *(ratio for of in ratios.values() for ratio in of.values())]
    marks, tall = legend(names, _LEFT, 42, _WIDTH - _LEFT - _RIGHT)
    top = 42 + tall
    x = Axis(batches[0] / 1.15, batches[-1] * 1.15, _LEFT, _WIDTH - _RIGHT, log=True)
    y = Axis(min(every) / 1.15, max(every) * 1.15, top + _HEIGHT, top, log=True)
    parts = [frame(x, y, "batch size", "times as fast as dense", lambda value: f"{value:g}×", batches), marks]
    parts.append(line(x.start, y.at(1), x.stop, y.at(1), "reference"))
    parts.append(text(x.stop, y.at(1) - 6, "dense", "tick", "end"))
    if bound:
        parts.append(_path([(x.at(batch), y.at(bound[batch])) for batch in sorted(bound)], "bound", ""))
        first = min(bound)
        parts.append(text(x.at(first), y.at(bound[first]) - 8, _BOUND, "tick", "start"))
    for place, name in enumerate(names):
        of = sorted(ratios[name].items())
        parts.append(_path([(x.at(b), y.at(r)) for b, r in of], "series", f"stroke:var(--c{place})"))
        shape = MARKS[place % len(MARKS)]
        parts += [mark(shape, x.at(b), y.at(r), place, f"{name}, batch {b}: {r:.2f}× dense") for b, r in of]
    return svg(_WIDTH, top + _HEIGHT + 48, "Speed against dense by batch size", parts)


def _path(places: Sequence[tuple[float, float]], kind: str, style: str) -> str:
    drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return f'<polyline points="{drawn}" class="{kind}" style="{style}"/>'
