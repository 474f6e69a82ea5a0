"""The error of every layer in the model's order, as dots drawn as SVG in the page; they fill as layers are solved."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import traitlets

from workbench.errors import ConfigError
from workbench.widgets.component import SYNC_FROM_PAGE, Component, ErrorHandler, bundle

MAX_FAMILIES = 8


class LayerChart(Component):
    """A dot for each layer that has a value; a click picks the layer.

    Traits:
        current: Name of the layer on show, or ""; the page sets it too.
        selected: Names of the selected layers.
        title: Title.
        subtitle: A line under it.
        y_label: Name of the value axis, with its unit.
        y_log: Whether it is logarithmic, where the values span enough for that.
        y_suffix: Unit after each value, for instance " dB".
        empty: Text while no layer has a value.
        height: Height of the plot in CSS pixels.
        busy: Whether more layers are being solved (a moving line at the top).

    Args:
        on_error: Called as (exception, where) for each error of a handler; by default it is logged.
        traits: Initial values of traits.
    """

    _esm = bundle("shared.js", "line_chart_scales.js", "layer_chart.js")
    _css = bundle("theme.css", "layer_chart.css")
    _layers = traitlets.Dict().tag(sync=True)
    current = traitlets.Unicode("").tag(**SYNC_FROM_PAGE)
    selected = traitlets.List(traitlets.Unicode()).tag(sync=True)
    title = traitlets.Unicode("").tag(sync=True)
    subtitle = traitlets.Unicode("").tag(sync=True)
    y_label = traitlets.Unicode("").tag(sync=True)
    y_log = traitlets.Bool(True).tag(sync=True)
    y_suffix = traitlets.Unicode("").tag(sync=True)
    empty = traitlets.Unicode("No layer is solved yet.").tag(sync=True)
    height = traitlets.Int(230, min=120, max=2000).tag(sync=True)
    busy = traitlets.Bool(False).tag(sync=True)

    def __init__(self, *, on_error: ErrorHandler | None = None, **traits: Any) -> None:
        self._places: dict[str, int] = {}
        self._on_pick: list[Callable[[str], None]] = []
        super().__init__(on_error=on_error, **traits)

    def show(self, names: Sequence[str], values: Mapping[str, float], **traits: Any) -> None:
        """Show these layers, with the values of those that have one, and change other traits with them (any thread).

        Raises:
            ConfigError: when a name stands twice, or a value is of none of the layers.
        """
        places = {name: place for place, name in enumerate(names)}
        if len(places) < len(names):
            raise ConfigError("A layer stands twice in the chart.", allowed="names of their own")
        self._known(values, places)
        with self.hold_sync():
            self._places = places
            self._layers = {
                "names": list(names),
                "values": [_plain(values.get(name)) for name in names],
                "families": families_of(names),
                "blocks": [block_of(name) for name in names],
            }
            for name, value in traits.items():
                setattr(self, name, value)

    def update(self, values: Mapping[str, float | None]) -> None:
        """Change the values of some layers (any thread) without sending the others; None takes a value away.

        Raises:
            ConfigError: for an unknown layer.
        """
        self._known(values, self._places)
        places = [self._places[name] for name in values]
        cells = [_plain(value) for value in values.values()]
        for place, cell in zip(places, cells, strict=True):
            self._layers["values"][place] = cell  # in place: a page that is opened later reads the state of now
        self.send({"type": "update", "places": places, "values": cells})

    @property
    def values(self) -> dict[str, float]:
        """Layer name → its value, of those that have one."""
        layers = self._layers
        pairs = zip(layers.get("names", ()), layers.get("values", ()), strict=True)
        return {name: value for name, value in pairs if value is not None}

    def on_pick(self, callback: Callable[[str], None]) -> None:
        """Call `callback` with the name of each layer that a person picks."""
        self._on_pick.append(callback)

    def _receive(self, content: Any, buffers: Any) -> None:
        if not isinstance(content, dict) or content.get("type") != "pick":
            return
        name = content.get("name")
        if name not in self._places:
            raise ConfigError(f"The chart has no layer {name!r}.")
        self._call_each(self._on_pick, name)

    def _known(self, values: Mapping[str, Any], places: Mapping[str, int]) -> None:
        strange = [name for name in values if name not in places]
        if strange:
            raise ConfigError(f"The chart has no layer {strange[0]!r}.", mend="show the layers before their values")

    def _summary(self) -> str:
        return f"{self.title!r}, {len(self.values)} of {len(self._places)} layers"


def families_of(names: Sequence[str]) -> list[str]:
    """Return what each layer is called without where it is, of the most frequent such names; "other" for the rest."""
    ends = [_end(name) for name in names]
    kept = {end for end, _ in Counter(ends).most_common(MAX_FAMILIES)}
    return [end if end in kept else "other" for end in ends]


def block_of(name: str) -> str:
    """Return the first number in a layer's name, which is its block in most models; "" where there is none."""
    return next((part for part in name.split(".") if part.isdigit()), "")


def _end(name: str) -> str:
    return next((part for part in reversed(name.split(".")) if not part.isdigit()), name)


def _plain(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value
