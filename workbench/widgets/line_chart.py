"""A small line chart for live measurements, drawn as SVG in the page."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

import traitlets

from workbench.errors import ConfigError
from workbench.widgets.component import Component, bundle

MAX_SERIES = 8
Scale = Literal["linear", "log2", "log10"]
LineStyle = Literal["measured", "variant", "estimated", "bound"]


@dataclass(frozen=True)
class Series:
    """One line.

    Attributes:
        name: Name in the legend.
        x: Positions, for instance batch sizes.
        y: Values; None where there is none yet.
        low: Lower ends of the spread (for instance the first quartile), or empty.
        high: Upper ends of the spread, or empty.
        detail: A text for each point's read-out (for instance "0.81 ms, 30 runs"), or empty.
        style: "measured", "variant" (of a measured one: dashed), "estimated" (dashed, grey and named an estimate), or
            "bound" (what cannot be passed: dotted, grey, without markers).
        color: Place in the palette, 0 to 5, and of the marker's shape; None takes the series' own place.
        strong: Whether it is what the chart is about: a thicker line on top of the others.
    """

    name: str
    x: tuple[float, ...] = ()
    y: tuple[float | None, ...] = ()
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()
    detail: tuple[str, ...] = ()
    style: LineStyle = "measured"
    color: int | None = None
    strong: bool = False

    def __post_init__(self) -> None:
        """Refuse ragged or infinite data.

        Raises:
            ConfigError: when the lengths disagree or a value is not finite.
        """
        for name in ("y", "low", "high", "detail"):
            values = getattr(self, name)
            if len(values) != len(self.x) and (name == "y" or values):
                raise ConfigError(f"Series {self.name!r}: {len(values)} values of {name} for {len(self.x)} of x.")
        for name in ("x", "y", "low", "high"):
            bad = [value for value in getattr(self, name) if value is not None and not math.isfinite(value)]
            if bad:
                raise ConfigError(
                    f"Series {self.name!r}: {name} holds {bad[0]}.", allowed="finite numbers, or None in y"
                )

    def styled(self, style: LineStyle, color: int | None = None, *, strong: bool = False) -> Series:
        """Return the series in another look."""
        return dataclasses.replace(self, style=style, color=color, strong=strong)

    def with_point(self, x: float, y: float, low: float | None, high: float | None, detail: str) -> Series:
        """Return the series with a point added (or replaced) at x, kept in the order of x."""
        count = len(self.x)
        columns = (
            self.x,
            self.y,
            self.low or (None,) * count,
            self.high or (None,) * count,
            self.detail or ("",) * count,
        )
        points = {row[0]: row for row in zip(*columns, strict=True)}
        points[x] = (x, y, low, high, detail)
        xs, ys, lows, highs, details = zip(*(points[key] for key in sorted(points)), strict=True)
        return dataclasses.replace(self, x=xs, y=ys, low=lows, high=highs, detail=details)


@dataclass(frozen=True)
class Choice:
    """What was chosen at one place of the x axis: a piece of the ribbon under the plot.

    Attributes:
        x: Position.
        label: What was chosen.
        color: Place in the palette, 0 to 5.
    """

    x: float
    label: str
    color: int


@dataclass(frozen=True)
class Chart:
    """What a line chart shows.

    Attributes:
        series: The lines, at most eight; the first is drawn on top.
        title: Title.
        subtitle: A line under it: device, dtype, how it was measured.
        x_label: Name of the x axis.
        y_label: Name of the y axis, with its unit.
        x_scale: "log2" or "linear".
        y_scale: "linear", "log2" or "log10".
        y_from_zero: Whether a linear axis begins at zero; without, at the values.
        y_suffix: Unit after each value, for instance "x" or " ms".
        reference: y of a reference line, for instance 1.0, or None.
        reference_label: What the line is, for instance "bf16".
        mark: x of a vertical line, for instance where two series cross, or None.
        mark_label: What it is.
        ribbon: What was chosen at each x; neighbours with the same label become one piece.
        ribbon_label: What the ribbon tells, for instance "path".
        x_ticks: Ticks of the x axis, known before they are measured; empty takes the series' own.
        empty: Text while there are no points.
    """

    series: tuple[Series, ...] = ()
    title: str = ""
    subtitle: str = ""
    x_label: str = ""
    y_label: str = ""
    x_scale: Literal["log2", "linear"] = "log2"
    y_scale: Scale = "linear"
    y_from_zero: bool = True
    y_suffix: str = ""
    reference: float | None = None
    reference_label: str = ""
    mark: float | None = None
    mark_label: str = ""
    ribbon: tuple[Choice, ...] = ()
    ribbon_label: str = ""
    x_ticks: tuple[float, ...] = ()
    empty: str = "Nothing measured yet."

    def __post_init__(self) -> None:
        """Refuse what could not be drawn.

        Raises:
            ConfigError: when there are too many series, names repeat, or a logarithmic axis meets zero.
        """
        names = [series.name for series in self.series]
        if len(names) > MAX_SERIES or len(set(names)) < len(names):
            raise ConfigError(f"A chart cannot show the series {names}.", allowed=f"up to {MAX_SERIES}, names unique")
        xs = [*self.x_ticks, *(x for series in self.series for x in series.x), *(choice.x for choice in self.ribbon)]
        xs += [] if self.mark is None else [self.mark]
        ys = [y for series in self.series for y in (*series.y, *series.low, *series.high) if y is not None]
        ys += [] if self.reference is None else [self.reference]
        if self.x_scale == "log2" and min(xs, default=1) <= 0:
            raise ConfigError(f"x = {min(xs)} has no place on a logarithmic axis.", allowed="x > 0")
        if self.y_scale != "linear" and min(ys, default=1) <= 0:
            raise ConfigError(f"y = {min(ys)} has no place on a logarithmic axis.", allowed="y > 0")


class LineChart(Component):
    """A line chart with legend, read-out and live points.

    Traits:
        height: Height of the plot in CSS pixels.
        busy: Whether more points are on their way (a moving line at the top).

    Args:
        on_error: Called as (exception, where) for each error of a handler; by default it is logged.
        traits: Initial values of traits.
    """

    _esm = bundle("shared.js", "line_chart_scales.js", "line_chart_ribbon.js", "line_chart.js")
    _css = bundle("theme.css", "line_chart.css")
    _chart = traitlets.Dict().tag(sync=True)
    height = traitlets.Int(260, min=120, max=2000).tag(sync=True)
    busy = traitlets.Bool(False).tag(sync=True)

    def __init__(self, chart: Chart | None = None, **traits: Any) -> None:
        self._shown = chart or Chart()
        super().__init__(**traits)
        self.show(self._shown)

    @property
    def chart(self) -> Chart:
        """What is shown."""
        return self._shown

    def show(self, chart: Chart) -> None:
        """Show a chart (any thread)."""
        self._shown = chart
        self._chart = dataclasses.asdict(chart)

    def add_point(
        self,
        series: str,
        x: float,
        y: float,
        *,
        low: float | None = None,
        high: float | None = None,
        detail: str = "",
    ) -> None:
        """Add a point to a series, or replace the one at the same x (any thread).

        Raises:
            ConfigError: when there is no such series or the point cannot be drawn.
        """
        names = [line.name for line in self._shown.series]
        if series not in names:
            raise ConfigError(f"There is no series {series!r}.", allowed=", ".join(names))
        lines = tuple(
            line.with_point(x, y, low, high, detail) if line.name == series else line for line in self._shown.series
        )
        self.show(dataclasses.replace(self._shown, series=lines))

    def _summary(self) -> str:
        points = sum(len(series.x) for series in self._shown.series)
        return f"{self._shown.title!r}, {len(self._shown.series)} series, {points} points"
