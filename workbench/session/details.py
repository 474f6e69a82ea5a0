"""What a session knows of the layer on show beyond its heatmap: histograms, output error, and blocks at full size."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any

from workbench.affine import QuantizedWeight
from workbench.config import ResolvedConfig
from workbench.errors import Cancelled
from workbench.jobs import Job
from workbench.measure.distribution import OutputError, Spread, iter_output_error, iter_spread
from workbench.session.events import Event
from workbench.session.rooms import Means, Room, Seen
from workbench.views.cache import Inputs
from workbench.views.views import LayerView, held_layer


@dataclass(frozen=True)
class LayerDetails:
    """The spread of a layer's weights, errors and levels, and the error of its output.

    Attributes:
        name: Module path.
        config: Everything resolved.
        spread: The counts.
        output: The error of the layer's output, or None where nothing is known of its inputs, or not yet.
        inputs: What they are the inputs of, or "".
    """

    name: str
    config: ResolvedConfig
    spread: Spread
    output: OutputError | None = None
    inputs: str = ""


class SessionDetails(Room):
    """Counts each exact view's layer, then measures its output error where its inputs are held.

    Attributes:
        latest: What was found last, or None; of the layer on show once the lane is idle.
    """

    def __init__(self, seen: Seen, means: Means) -> None:
        super().__init__("details", seen, means)
        self.latest: LayerDetails | None = None
        self._counted: tuple[weakref.ref[QuantizedWeight], Spread] | None = None

    def hear(self, event: Event) -> None:
        """Follow the view of the layer on show."""
        if event.kind == "view" and event.data.exact:
            self._follow(event.data)

    def take(self, job: Job, item: Any) -> None:
        """Keep what is of the settings that hold now, and tell it."""
        if isinstance(item, LayerDetails) and self.holds(item.name, item.config):
            self.latest = item
            self.means.emit("details", item, job)

    def _follow(self, view: LayerView) -> None:
        inputs = self.means.inputs(view.name)

        def work(cancel: threading.Event) -> Iterator[LayerDetails | float]:
            return self._found(view, inputs, cancel)

        self.submit(f"Details of {view.name}", work)

    def _found(self, view: LayerView, inputs: Inputs | None, cancel: threading.Event) -> Iterator[LayerDetails | float]:
        """Yield the counts, then with the output error; between them, where the work stands."""
        held = held_layer(self.seen.source, view.name, view.config, self.means.cache)
        if held is None:
            return
        weight, quantized = held
        before = self._counted
        if before is not None and before[0]() is quantized:  # another metric of the same result is on show
            spread = before[1]
        else:
            spread = yield from _until(cancel, iter_spread(weight, quantized, error_limit=view.summary.max_abs))
            self._counted = (weakref.ref(quantized), spread)
        found = LayerDetails(view.name, view.config, spread)
        yield found
        if inputs is not None and inputs.moments is not None:
            output: OutputError = yield from _until(cancel, iter_output_error(weight, quantized, inputs.moments))
            yield replace(found, output=output, inputs=inputs.note)


def _until(cancel: threading.Event, steps: Generator[float, None, Any]) -> Generator[float, None, Any]:
    """Pass on what a generator yields and returns.

    Raises:
        Cancelled: when `cancel` was set.
    """
    while True:
        if cancel.is_set():
            raise Cancelled("Something newer is on show.")
        try:
            yield next(steps)
        except StopIteration as end:
            return end.value
