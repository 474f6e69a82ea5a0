"""Results one under the other on one scale, each with its interval: so that a change can be seen at a glance."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import traitlets

from workbench.errors import ConfigError
from workbench.widgets.component import Component, bundle


@dataclass(frozen=True)
class Bar:
    """One result.

    Attributes:
        label: What it is the result of.
        value: The number, 0 or more.
        low: Lower end of its interval, or None.
        high: Upper end of its interval, or None.
        text: The number and its interval in words.
        beside: A second number, as text.
        current: Whether it is the result that holds now.
    """

    label: str
    value: float
    low: float | None
    high: float | None
    text: str
    beside: str
    current: bool = False

    def __post_init__(self) -> None:
        """Refuse what has no place on the scale.

        Raises:
            ConfigError: for a number that is not finite.
        """
        for value in (self.value, self.low, self.high):
            if value is not None and not math.isfinite(value):
                raise ConfigError(f"Bar {self.label!r}: {value}.", allowed="finite numbers")


class QualityBars(Component):
    """A table whose rows are drawn as bars with intervals.

    Traits:
        title: Heading.
        columns: Names of the three columns: what, the number that is drawn, the second number.
        empty: Text while there is nothing.
    """

    _esm = bundle("shared.js", "quality_bars.js")
    _css = bundle("theme.css", "quality_bars.css")
    title = traitlets.Unicode("").tag(sync=True)
    columns = traitlets.List(traitlets.Unicode(), ["", "", ""]).tag(sync=True)
    empty = traitlets.Unicode("Nothing is measured yet.").tag(sync=True)
    _bars = traitlets.List(traitlets.Dict()).tag(sync=True)

    def show(self, bars: Sequence[Bar]) -> None:
        """Show these results, top to bottom (any thread)."""
        self._bars = [dataclasses.asdict(bar) for bar in bars]

    def _summary(self) -> str:
        return f"{self.title!r}, results: {len(self._bars)}"
