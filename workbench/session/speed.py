"""The speed of the layer on show, int4 beside dense, measured while nothing else computes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from workbench.jobs import Job, Lane, progress_since
from workbench.machine import present_devices
from workbench.measure.roofline import Roofline
from workbench.measure.speed import DEFAULT_BATCH_SIZES, LinearBench
from workbench.measure.timing import BUDGET_S
from workbench.records.progress import Progress
from workbench.records.speed import SpeedPoint
from workbench.session.events import EventKind
from workbench.session.rooms import Seen, linear_row


class Timed(Seen, Protocol):
    """What the measurement sees of its session."""

    work: Lane


class SessionSpeed:
    """Measures one layer shape at a time.

    Args:
        seen: The session.
        alone: Takes each step while nothing else computes.
        emit: Tells an event.
        on_job: Called after each change of a job.

    Attributes:
        points: Measured points of one layer shape, newest run of each dtype; replaced, never changed in place.
        notes: What a person must know of the newest run.
        rooflines: Device → what it can do at best, as the newest run measured it.
    """

    def __init__(
        self,
        seen: Timed,
        alone: Callable[[Iterator[Any], threading.Event], Iterator[Any]],
        emit: Callable[[EventKind, Any, Job | None], None],
        on_job: Callable[[Job], None],
    ) -> None:
        self._seen, self._alone, self._emit, self._on_job = seen, alone, emit, on_job
        self.points: list[SpeedPoint] = []
        self.notes: list[str] = []
        self.rooflines: dict[str, Roofline] = {}

    def measure(
        self,
        *,
        batch_sizes: Sequence[int] = DEFAULT_BATCH_SIZES,
        dtypes: Sequence[str] = ("bfloat16",),
        paths: Sequence[str] | None = None,
        compiled: bool = False,
        budget_s: float = BUDGET_S,
    ) -> Job:
        """Measure the current layer's shape, int4 and dense, at each batch size, on every device present.

        Args:
            batch_sizes: Rows of the activation.
            dtypes: dtypes of the activations: "bfloat16", "float16", "float32".
            paths: What takes turns, as `bench_linear` takes it; None is all that the machine has.
            compiled: Whether int4 and dense are measured compiled by torch.compile too.
            budget_s: Seconds of timed calls for each point.

        Raises:
            ConfigError: when the layer on show is not linear, or other work is running.
        """
        n, k = linear_row(self._seen, "there is no speed to measure", int4=True).shape[-2:]
        config = replace(self._seen.choice().config, use_hqq=False)  # the solver changes values, never speed
        devices = present_devices()
        wanted = {"dtypes": tuple(dtypes), "paths": paths, "compiled": compiled, "budget_s": budget_s}
        sizes = tuple(batch_sizes)

        def timed(cancel: threading.Event) -> Iterator[tuple[Progress, SpeedPoint, LinearBench]]:
            start, seen = time.monotonic(), set[tuple[str, str, int]]()
            for device in devices:
                bench = LinearBench(n, k, config, sizes, device=device, **wanted)  # type: ignore[arg-type]
                for point in self._alone(bench.run(cancel), cancel):
                    seen.add((device, point.dtype, point.batch))
                    label = f"{device}, {point.dtype}, batch {point.batch}"
                    yield progress_since(start, len(seen), len(devices) * bench.steps, label), point, bench

        started = partial(self._changed, [n, k, config.group_size], tuple(dtypes))
        return self._seen.work.submit(Job(f"Speed of {n}x{k}", timed, self._take, started))

    def _take(self, job: Job, item: tuple[Progress, SpeedPoint, LinearBench]) -> None:
        job.progress, point, bench = item
        self.points, self.notes = [*self.points, point], list(bench.notes)
        if bench.roofline is not None:
            self.rooflines = {**self.rooflines, point.device: bench.roofline}
        self._emit("speed", point, job)
        self._emit("job", job, job)

    def _changed(self, shape: list[int], dtypes: tuple[str, ...], job: Job) -> None:
        """Drop the points of another shape, and those that are measured again, once the run begins."""
        if job.state == "running":
            self.points = [p for p in self.points if [p.n, p.k, p.group_size] == shape and p.dtype not in dtypes]
            self.notes = []
        self._on_job(job)
