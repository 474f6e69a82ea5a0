"""What is stored of a layer that came int4: a picture of its scales, zeros or weights, and how its codes are spread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from torch import Tensor

from workbench.affine import QUANT_MAX, QuantizedWeight
from workbench.checkpoint.native import ModuleFormat
from workbench.errors import ConfigError
from workbench.jobs import Job, Lane
from workbench.measure.error_map import picture_of
from workbench.records.errors import ErrorMap
from workbench.session.events import Event, EventKind
from workbench.session.given import Given

StoredMetric = Literal["scale", "zero", "dequantized"]
STORED_METRICS: tuple[StoredMetric, ...] = get_args(StoredMetric)


@dataclass(frozen=True)
class StoredView:
    """What is stored of a layer.

    Attributes:
        name: Module path.
        form: How it is stored.
        metric: What the picture shows.
        map: The picture, rows x groups, or rows x columns of the weights.
        codes: How many weights have each of the codes 0 to 15.
    """

    name: str
    form: ModuleFormat
    metric: StoredMetric
    map: ErrorMap
    codes: tuple[int, ...]


class Seen(Protocol):
    """What is seen of the session."""

    current: str
    given: Given | None

    def listen(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call `listener` with every event."""
        ...


class SessionStored:
    """Reads the layer on show and pictures what is stored of it; the newest request wins.

    Args:
        seen: The session.
        in_turn: Takes each step of work while nothing is timed.
        emit: Tells an event.
        on_job: Called after each change of a job.

    Attributes:
        metric: What the picture shows; change it with `show`.
        latest: What was found last, or None.
        lane: Where layers are read.
    """

    def __init__(
        self,
        seen: Seen,
        in_turn: Callable[[Iterator[Any], threading.Event], Iterator[Any]],
        emit: Callable[[EventKind, Any, Job | None], None],
        on_job: Callable[[Job], None],
    ) -> None:
        self._seen, self._in_turn, self._emit, self._on_job = seen, in_turn, emit, on_job
        self.metric: StoredMetric = "scale"
        self.latest: StoredView | None = None
        self.lane = Lane("stored", latest_wins=True)

    def show(self, metric: StoredMetric) -> None:
        """Change what the picture shows.

        Raises:
            ConfigError: for another word.
        """
        if metric not in STORED_METRICS:
            raise ConfigError(f"metric={metric!r}.", allowed=", ".join(map(repr, STORED_METRICS)))
        self.metric = metric
        self.refresh()

    def refresh(self) -> Job | None:
        """Picture the layer on show anew, where it came int4; what an older request still reads is dropped."""
        given, name, metric = self._seen.given, self._seen.current, self.metric
        form = None if given is None else given.forms.get(name)
        if given is None or form is None:
            self.lane.cancel()
            return None
        read = given.read

        def views() -> Iterator[StoredView]:
            weight = read(name)
            values = stored_values(weight, metric)
            counts = weight.codes.flatten().bincount(minlength=QUANT_MAX + 1).tolist()
            yield StoredView(name, form, metric, picture_of(values, metric), tuple(counts))

        def steps(cancel: threading.Event) -> Iterator[StoredView]:
            return self._in_turn(views(), cancel)

        return self.lane.submit(Job(f"What is stored of {name}", steps, self._take, self._on_job, quiet=True))

    def _take(self, job: Job, view: StoredView) -> None:
        if (view.name, view.metric) == (self._seen.current, self.metric):
            self.latest = view
            self._emit("stored", view, job)


def stored_values(weight: QuantizedWeight, metric: StoredMetric) -> Tensor:
    """Return what a picture shows, float32 [N, groups], or [N, K] of the weights."""
    if metric == "scale":
        return weight.scale.float()
    return weight.zero_in_weight_units() if metric == "zero" else weight.dequantize()
