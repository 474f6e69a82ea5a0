"""What a session knows of the layer on show beyond its heatmap: histograms, output error, and blocks at full size."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from workbench.affine import QuantizedWeight
from workbench.config import ResolvedConfig
from workbench.coverage.coverage import Coverage
from workbench.errors import Cancelled, ConfigError
from workbench.jobs import Job, Lane
from workbench.kinds import EXPERTS, STACK
from workbench.measure.distribution import OutputError, Spread, iter_output_error, iter_spread
from workbench.session.events import Event
from workbench.session.rooms import Means, Room, Seen, linear_row
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


class Calibrating(Protocol):
    """What runs the calibration text through the model."""

    text: str
    state: Any
    lane: Lane

    def check(self) -> None:
        """Refuse to go on without a text that can be used."""
        ...

    def request(self, name: str, wanted: Sequence[str]) -> Job:
        """Collect the inputs of a layer, with those of as many of `wanted` as fit."""
        ...


class Detailed(Seen, Protocol):
    """What the details need of their session."""

    coverage: Coverage

    @property
    def calibration(self) -> Calibrating:
        """What runs the calibration text."""
        ...


class SessionDetails(Room):
    """Counts each exact view's layer, then measures its output error where its inputs are held, or wanted.

    Attributes:
        latest: What was found last, or None; of the layer on show once the lane is idle.
        wants_output: Whether a person has asked for the output error, and the inputs of what is shown are collected.
    """

    def __init__(self, seen: Detailed, means: Means) -> None:
        super().__init__("details", seen, means)
        self._session = seen
        self.latest: LayerDetails | None = None
        self.wants_output = False
        self._view: LayerView | None = None
        self._counted: tuple[weakref.ref[QuantizedWeight], Spread] | None = None

    def hear(self, event: Event) -> None:
        """Follow the view of the layer on show, and the inputs that were collected."""
        if event.kind == "view" and event.data.exact:
            self._view = event.data
            self._follow(event.data)
            self._collect()
        elif event.kind == "job" and event.job is not None and event.job is self._session.calibration.lane.latest:
            self._follow_inputs(event.job)

    def measure_output(self) -> None:
        """Measure the error of the output of the layer on show, and of each that comes on show from now on.

        The calibration text is run through the dense model, for as many int4 layers as their inputs fit.

        Raises:
            ConfigError: when the layer on show is not linear or a stack of experts, or there is no text of use.
        """
        row = linear_row(self.seen, "its output has no error")
        if row.kind in (EXPERTS, STACK):
            raise ConfigError(
                f"{row.name} is a stack of experts, whose inputs are not recorded one by one.",
                mend="select a linear layer in the table",
            )
        self.wants_output = True
        self.means.emit("calibration", self._session.calibration.state, None)  # where a text can be given
        self._session.calibration.check()
        self._collect()

    def take(self, job: Job, item: Any) -> None:
        """Keep what is of the settings that hold now, and tell it."""
        if isinstance(item, LayerDetails) and self.holds(item.name, item.config):
            self.latest = item
            self.means.emit("details", item, job)

    def _collect(self) -> None:
        """Collect the inputs of the layer on show where they are wanted and not known, and there is a text."""
        session, view = self._session, self._view
        if not self.wants_output or view is None or not self.holds(view.name, view.config):
            return
        usable = session.calibration.state.problem is None and session.calibration.text.strip()
        stacked = self.seen.row(view.name).kind in (EXPERTS, STACK)
        if usable and not stacked and self.means.inputs(view.name) is None:
            rows = session.coverage.int4_rows
            session.calibration.request(view.name, [row.name for row in rows if row.kind not in (EXPERTS, STACK)])

    def _follow_inputs(self, job: Job) -> None:
        """Measure with inputs that were collected; one that a person stopped is not begun again by the next view."""
        view = self._view
        if job.state == "cancelled":
            self.wants_output = False
        elif job.state == "done" and view is not None and self.holds(view.name, view.config):
            if self.latest is None or self.latest.output is None or self.latest.name != view.name:
                self._follow(view)

    def _follow(self, view: LayerView) -> None:
        def work(cancel: threading.Event) -> Iterator[LayerDetails | float]:
            return self._found(view, self.means.inputs(view.name), cancel)  # asked late: they may come until then

        self.submit("Details", view, work)

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
