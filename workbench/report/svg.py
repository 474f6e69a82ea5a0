"""Axes, ticks and texts of figures in SVG; colours are the page's CSS variables, so that they follow its theme."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

SERIES = 7  # colours --c0 to --c6
MARKS = (
    "circle",
    "square",
    "diamond",
    "up",
    "down",
    "cross",
    "bar",
)  # beside the colours, for those who cannot tell them

_FAR = 5  # a logarithmic axis over less than this has even ticks


@dataclass(frozen=True)
class Axis:
    """Values along one side of a plot.

    Attributes:
        low: Value at `start`.
        high: Value at `stop`.
        start: Where the axis begins, in pixels.
        stop: Where it ends, in pixels.
        log: Whether it is logarithmic; the values are then above 0.
    """

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def at(self, value: float) -> float:
        """Return the place of a value, in pixels."""
        return self.start + (self.stop - self.start) * self._share(value)

    def _share(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return (value - low) / (high - low) if high > low else 0.5

    def ticks(self, count: int = 5) -> list[float]:
        """Return round values within the axis: about `count` of them."""
        far = self.log and self.high / self.low > _FAR
        return _log_ticks(self.low, self.high) if far else _even_ticks(self.low, self.high, count)


def _even_ticks(low: float, high: float, count: int) -> list[float]:
    if not high > low:
        return [low]
    rough = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [step * n for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten; where there are fewer than three, 2 and 5 of each as well."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    tens = [10.0**power for power in powers if low <= 10.0**power <= high]
    if len(tens) >= 3:
        return tens
    return [m * 10.0**power for power in powers for m in (1, 2, 5) if low <= m * 10.0**power <= high]


def text(x: float, y: float, said: str, kind: str = "", anchor: str = "middle") -> str:
    """Return a text; `kind` is a CSS class."""
    name = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{name}>{escape(said)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """Return a straight line of a CSS class."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


_CROSS = (
    *((-1.2, -0.4), (-0.4, -0.4), (-0.4, -1.2), (0.4, -1.2), (0.4, -0.4), (1.2, -0.4)),
    *((1.2, 0.4), (0.4, 0.4), (0.4, 1.2), (-0.4, 1.2), (-0.4, 0.4), (-1.2, 0.4)),
)


def mark(shape: str, x: float, y: float, color: int, title: str, radius: float = 4) -> str:
    """Return a point with a tooltip; shapes tell series apart beside colours."""
    r = radius
    drawn = {
        "circle": f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}"/>',
        "square": f'<rect x="{x - r:.1f}" y="{y - r:.1f}" width="{2 * r}" height="{2 * r}"/>',
        "diamond": _polygon(x, y, [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)], r),
        "up": _polygon(x, y, [(0, -1.2), (1.2, 1), (-1.2, 1)], r),
        "down": _polygon(x, y, [(0, 1.2), (1.2, -1), (-1.2, -1)], r),
        "cross": _polygon(x, y, _CROSS, r),
        "bar": _polygon(x, y, [(-1.4, -0.5), (1.4, -0.5), (1.4, 0.5), (-1.4, 0.5)], r),
    }[shape]
    return f'<g class="mark" fill="var(--c{color % SERIES})"><title>{escape(title)}</title>{drawn}</g>'


def _polygon(x: float, y: float, corners: Sequence[tuple[float, float]], radius: float) -> str:
    points = " ".join(f"{x + radius * dx:.1f},{y + radius * dy:.1f}" for dx, dy in corners)
    return f'<polygon points="{points}"/>'


def legend(names: Sequence[str], x: float, y: float, width: float) -> tuple[str, float]:
    """Return the marks and names of the series in rows, and the height that they take."""
    parts, at, row = [], x, 0
    for place, name in enumerate(names):
        need = 30 + 7.2 * len(name)
        if at > x and at + need > x + width:
            at, row = x, row + 1
        shape = MARKS[place % len(MARKS)]
        parts.append(mark(shape, at + 6, y + 20 * row, place, name))
        parts.append(text(at + 16, y + 20 * row + 4, name, "label", "start"))
        at += need
    return "".join(parts), 20.0 * (row + 1)


def frame(x: Axis, y: Axis, x_title: str, y_title: str, say: Callable[[float], str], x_ticks: Sequence[float]) -> str:
    """Return grid, ticks and titles of a plot.

    Args:
        x: The axis below.
        y: The axis at the left.
        x_title: What is along it.
        y_title: The same.
        say: Writes a value of `y`.
        x_ticks: Values of `x` that have a tick.
    """
    parts = []
    for value in y.ticks():
        parts.append(line(x.start, y.at(value), x.stop, y.at(value), "grid"))
        parts.append(text(x.start - 8, y.at(value) + 4, say(value), "tick", "end"))
    for value in x_ticks:
        parts.append(text(x.at(value), y.start + 18, f"{value:g}", "tick"))
    parts.append(line(x.start, y.start, x.stop, y.start, "axis"))
    parts.append(text((x.start + x.stop) / 2, y.start + 38, x_title, "label"))
    parts.append(text(0, 14, y_title, "label", "start"))
    return "".join(parts)


def svg(width: float, height: float, name: str, parts: Sequence[str]) -> str:
    """Return a figure that takes the width of its place; `name` is what a screen reader says."""
    head = f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(name)}">'
    return f"{head}{''.join(parts)}</svg>"
