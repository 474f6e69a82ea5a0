"""A histogram as bars, with an outline over them, drawn as SVG in the page."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import traitlets

from workbench.errors import ConfigError
from workbench.widgets.component import SYNC_FROM_PAGE, Component, bundle

MAX_BINS = 512


@dataclass(frozen=True)
class BarChart:
    """What a histogram shows.

    Attributes:
        counts: Count of each bin.
        low: Where the first bin begins, in `unit`.
        high: Where the last one ends.
        title: Title.
        subtitle: A line under it.
        x_label: Name of the x axis, with its unit.
        what: What is counted, in the plural, for instance "weights".
        outline: A second count for each bin, drawn as a line, or empty.
        outline_label: What it is.
        empty: Text while there is nothing to show.
    """

    counts: tuple[int, ...] = ()
    low: float = -1.0
    high: float = 1.0
    title: str = ""
    subtitle: str = ""
    x_label: str = ""
    what: str = "weights"
    outline: tuple[float, ...] = ()
    outline_label: str = ""
    empty: str = "Nothing counted yet."

    def __post_init__(self) -> None:
        """Refuse what could not be drawn.

        Raises:
            ConfigError: for too many bins, lengths that disagree, negative counts, or an axis without extent.
        """
        if len(self.counts) > MAX_BINS:
            raise ConfigError(f"A histogram of {len(self.counts)} bins.", allowed=f"up to {MAX_BINS}")
        if self.outline and len(self.outline) != len(self.counts):
            raise ConfigError(f"An outline of {len(self.outline)} bins over {len(self.counts)}.", allowed="as many")
        bad = [count for count in (*self.counts, *self.outline) if not (math.isfinite(count) and count >= 0)]
        if bad:
            raise ConfigError(f"A count of {bad[0]}.", allowed="finite counts from 0")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ConfigError(f"The axis {self.low} to {self.high} has no extent.", allowed="finite low < high")


class Bars(Component):
    """A histogram with a read-out of each bin, and counts on a linear or logarithmic axis.

    Traits:
        log: Whether counts stand on a logarithmic axis; the page sets it too.
        height: Height of the plot in CSS pixels.
        busy: Whether newer counts are being made (a moving line at the top).

    Args:
        on_error: Called as (exception, where) for each error of a handler; by default it is logged.
        traits: Initial values of traits.
    """

    _esm = bundle("shared.js", "bars.js")
    _css = bundle("theme.css", "bars.css")
    _chart = traitlets.Dict().tag(sync=True)
    log = traitlets.Bool(True).tag(**SYNC_FROM_PAGE)
    height = traitlets.Int(210, min=120, max=2000).tag(sync=True)
    busy = traitlets.Bool(False).tag(sync=True)

    def __init__(self, chart: BarChart | None = None, **traits: Any) -> None:
        self._shown = chart or BarChart()
        super().__init__(**traits)
        self.show(self._shown)

    @property
    def chart(self) -> BarChart:
        """What is shown."""
        return self._shown

    def show(self, chart: BarChart) -> None:
        """Show a histogram (any thread)."""
        self._shown = chart
        self._chart = dataclasses.asdict(chart)

    def _summary(self) -> str:
        return f"{self._shown.title!r}, {len(self._shown.counts)} bins"
