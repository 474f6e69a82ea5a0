"""The verdict in one line: size before and after, error, and the measured speed of decoding on this machine."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

import torch

from workbench.coverage.coverage import Coverage
from workbench.errors import Cancelled
from workbench.improve.improvement import OUTPUT_ERROR
from workbench.jobs import Job, Lane
from workbench.kinds import QUANTIZABLE_KINDS
from workbench.machine import present_devices
from workbench.measure.decode import DecodeSpeed, iter_decode
from workbench.records.layers import CoverageRow
from workbench.session.decode_target import Target, target_of
from workbench.session.events import Event, EventKind
from workbench.session.exact import SessionErrors
from workbench.session.given import Given, dense_rows, int4_rows
from workbench.session.improve import SessionImprove
from workbench.sizes import size
from workbench.sources import Source
from workbench.views.views import LayerView

MEASURING = "measuring speed…"


class Judged(Protocol):
    """What the verdict sees of its session."""

    source: Source
    device: str
    current: str
    coverage: Coverage
    given: Given | None
    exact: SessionErrors
    improving: SessionImprove
    work: Lane

    def row(self, name: str) -> CoverageRow:
        """What becomes of one weight."""
        ...

    def listen(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call `listener` with every event."""
        ...


class SessionVerdict:
    """Says in one line what a recipe does; the speed is measured behind the first view, and after a new group size.

    Args:
        seen: The session.
        alone: Takes each step while nothing else computes.
        emit: Tells an event.

    Attributes:
        lane: Where the speed is measured; whatever the person does comes first.
    """

    def __init__(
        self,
        seen: Judged,
        alone: Callable[[Iterator[Any], threading.Event], Iterator[Any]],
        emit: Callable[[EventKind, Any, Job | None], None],
    ) -> None:
        self._seen, self._alone, self._emit = seen, alone, emit
        self.lane = Lane("verdict", latest_wins=True)
        self._known: dict[Target, DecodeSpeed] = {}
        self._problems: dict[Target, str] = {}
        self._latest: tuple[Coverage, Target | None] | None = None
        self._begun_for: tuple[Coverage, str] | None = None  # recipe and layer on show when the newest run began
        self._gave_way = False  # whether the newest run ended because other work had begun
        self._stopped = False  # whether a person has stopped what would bring what is not known
        self._dtypes = {record.name: record.dtype for record in seen.source.records()}
        seen.listen(self._hear)

    @property
    def speed(self) -> DecodeSpeed | None:
        """The measured speed under the recipe, or None until it is there."""
        target = self.target()
        return None if target is None else self._known.get(target)

    def target(self) -> Target | None:
        """Return what is measured under the recipe, or None where no layer becomes int4."""
        coverage, device = self._seen.coverage, torch.device(self._seen.device).type
        if self._latest is None or self._latest[0] is not coverage:
            self._latest = coverage, target_of(coverage, self._dtypes, device, self._seen.given)
        return self._latest[1]

    def line(self) -> str:
        """Say size, error and speed; what is not measured yet is said to be so."""
        coverage = self._seen.coverage
        if self._seen.given is not None:
            return " · ".join([*self._given_said(coverage, self._seen.given), self.speed_said()])
        if not coverage.configs:
            done = sum(row.kind == "int4_linear" for row in coverage.rows)
            if done:
                layers = f"{done} layer{'s are' if done > 1 else ' is'} int4 already"
                return f"{layers}, {size(coverage.before_bytes)}: open the model that it was made from to choose anew."
            return f"No weight becomes int4: {size(coverage.before_bytes)} stay as they are."
        ratio = coverage.before_bytes / max(1, coverage.after_bytes)
        smaller = f"{size(coverage.before_bytes)} → {size(coverage.after_bytes)}, {ratio:.2f}× smaller"
        return " · ".join([smaller, self.error_said(), self.speed_said()])

    @staticmethod
    def _given_said(coverage: Coverage, given: Given) -> list[str]:
        """Say what a model came with: its size, its int4 layers, their bits and their form."""
        rows = int4_rows(coverage)
        bits = 8 * sum(row.before_bytes for row in rows) / max(1, sum(row.parameters for row in rows))
        layers = f"{len(rows)} layer{'s' * (len(rows) != 1)} in int4 already"
        if dense := len(dense_rows(coverage)):
            layers += f" and {dense} dense"
        return [given.size_said(coverage.before_bytes), f"{layers}, {bits:.2f} bits per weight", given.said()]

    def error_said(self) -> str:
        """Say the relative RMS error of all int4 layers where all are solved, else that of the layer on show.

        What Improve found on the outputs of all layers says more, and is said while its recipe holds.
        """
        errors, names = self._seen.exact.views, list(self._seen.coverage.configs)
        found = self._seen.improving.latest
        if found is not None and self._seen.improving.applied and found.objective == OUTPUT_ERROR:
            return f"{OUTPUT_ERROR} {_percent(found.error_after)} over all layers in int4"
        if all(name in errors for name in names):
            what = "all layers in int4" if len(names) > 1 else short_name(names[0])
            return f"weight error {_percent(relative_error([errors[name] for name in names]))} of {what}"
        view = errors.get(self._seen.current)
        broken = self._seen.exact.broken.get(self._seen.current)
        if view is None and broken and self._seen.current in names:
            return f"no error: {broken.removesuffix('.')}"
        if view is None and self._seen.current in names:
            return "error not measured: stopped" if self._stopped else "measuring error…"
        if view is None:  # a dense layer is on show, and has none
            known = [errors[name] for name in names if name in errors]
            some = f"{len(known)} layer{'s' if len(known) > 1 else ''}"
            return f"weight error {_percent(relative_error(known))} of {some}" if known else "error not measured"
        return f"weight error {_percent(view.summary.relative_rmse)} of {short_name(view.name)}"

    def speed_said(self) -> str:
        """Say the speed of decoding, or that it is not measured, and why."""
        target = self.target()
        if target is None:
            return ""
        problem = self._problems.get(target, "")
        known = self._known.get(target)
        if known is not None:
            return f"decoding {known.said} on this {'GPU' if target.device == 'cuda' else 'CPU'}"
        why = problem or ("stopped" if self._stopped else "")
        return f"speed not measured: {why}" if why else MEASURING

    def stop(self) -> None:
        """Say from now on that what is not measured was stopped by a person, until it is begun anew."""
        self._stopped = True
        self.lane.cancel()
        self._emit("verdict", self, None)

    def follow(self) -> Job | None:
        """Measure the speed under the recipe, unless it is known or other work runs; then, once that has ended."""
        target = self.target()
        if target is None or target in self._known or target in self._problems or self._seen.work.busy:
            return None
        if target.device not in present_devices():
            self._problems[target] = f"{target.device} is not on this machine"
            self._emit("verdict", self, None)
            return None
        running = self.lane.current
        if running is not None and running.state != "cancelling" and self._is_of_now():
            return running
        self._begun_for, self._stopped = (self._seen.coverage, self._seen.current), False
        steps, take = partial(self._steps, target), partial(self._take, target)
        return self.lane.submit(Job("Speed of decoding", steps, take, partial(self._changed, target), True))

    def _is_of_now(self) -> bool:
        """Say whether the newest run was begun under the recipe that holds, with the layer on show."""
        begun = self._begun_for
        return begun is not None and begun[0] is self._seen.coverage and begun[1] == self._seen.current

    def _hear(self, event: Event) -> None:
        if event.kind in ("coverage", "selection"):
            self._stopped = False
            if self._is_of_now():
                return  # a view may have come before its recipe was told
            self.lane.cancel()  # the person's view comes first, and its end begins anew
            if self._no_view_comes():
                self.follow()
        elif event.kind == "job" and event.data.finished and event.data.state != "cancelled":
            self.follow()

    def _no_view_comes(self) -> bool:
        """Say whether what was put on show is a weight without a view."""
        name = self._seen.current
        return bool(name) and self._seen.row(name).kind not in QUANTIZABLE_KINDS

    def _steps(self, target: Target, cancel: threading.Event) -> Iterator[DecodeSpeed]:
        steps = iter_decode(
            target.n, target.k, target.group_size, device=target.device, dtype=target.dtype, cancel=cancel
        )
        next(steps)
        for found in self._alone(steps, cancel):
            if self._seen.work.busy:
                self._gave_way = not cancel.is_set()
                raise Cancelled("Other work began meanwhile.")
            yield found

    def _take(self, target: Target, _job: Job, found: DecodeSpeed) -> None:
        self._known[target] = found
        self._emit("verdict", self, None)

    def _changed(self, target: Target, job: Job) -> None:
        if job.state == "cancelled" and self._gave_way:
            self._gave_way = False
            self.follow()  # unless that work still runs, whose end begins anew
        if job.error is not None:
            self._problems[target] = str(job.error)
            self._emit("problem", job.error, job)
            self._emit("verdict", self, None)


def short_name(name: str) -> str:
    """Return a module path from the last index on: "0.self_attn.q_proj"; all of one without an index."""
    parts = name.split(".")
    last = max((at for at, part in enumerate(parts) if part.isdecimal()), default=0)
    return ".".join(parts[last:])


def relative_error(views: list[LayerView]) -> float:
    """Return the RMS error over the RMS weight of several layers together.

    Args:
        views: Exact views; each brings its mean squared error and, by its relative error, its mean squared weight.
    """
    noise = sum(one.summary.mse * one.summary.count for one in views)
    finite = [one.summary for one in views if 0 < one.summary.relative_rmse < math.inf]
    signal = sum(one.mse / one.relative_rmse**2 * one.count for one in finite)
    return math.sqrt(noise / signal) if signal > 0 else 0.0


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 or share == 0 else f"{share:.2g}"


__all__ = ["MEASURING", "SessionVerdict", "Target", "relative_error"]
