"""How fast a linear layer is, int4 and dense, by batch size: measured on this machine, never estimated.

Candidates take turns call by call, so that a drift of the machine hits all alike; each works through copies of its
weight larger than the cache, as the layers of a model do, and each has a roof: what the same machine, measured in the
same run, could do at best.
"""

from __future__ import annotations

import statistics
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from workbench.choice import device_note, path_note
from workbench.config import Int4WeightOnlyConfig
from workbench.errors import ConfigError
from workbench.measure.candidates import (
    DENSE,
    Candidate,
    calls_in_turn,
    compile_problem,
    compiler_problem,
    generator,
    make_candidates,
    present_paths,
    rotation_note,
    strict_compiling,
)
from workbench.measure.roofline import DTYPES as DTYPES
from workbench.measure.roofline import Roofline, check_dtypes, measure_roofline
from workbench.measure.speed_report import SpeedReport as SpeedReport
from workbench.measure.speed_report import crossover as crossover
from workbench.measure.speed_report import doubts
from workbench.measure.speed_report import speedups as speedups
from workbench.measure.timing import BUDGET_S, check_batch_sizes, check_device, stop_if, time_interleaved
from workbench.measure.timing import environment as environment
from workbench.records.speed import SpeedPoint

DEFAULT_BATCH_SIZES = (1, 4, 16, 64, 256)
ALL_BATCH_SIZES = tuple(2**power for power in range(12))
_MOST_INPUT_BYTES = 64 * 2**20


def bench_linear(
    n: int,
    k: int,
    cfg: Int4WeightOnlyConfig | None = None,
    batch_sizes: Sequence[int] = DEFAULT_BATCH_SIZES,
    *,
    device: str = "cpu",
    dtypes: Sequence[str] = ("bfloat16",),
    paths: Sequence[str] | None = None,
    compiled: bool = False,
    cancel: threading.Event | None = None,
) -> SpeedReport:
    """Measure a linear layer of `n` out_features and `k` in_features, int4 and dense, at each batch size.

    Args:
        n: out_features.
        k: in_features.
        cfg: The int4 configuration; speed depends on its group size and tiles only.
        batch_sizes: Rows of the activation.
        device: "cpu" or "cuda".
        dtypes: dtypes of the activations: "bfloat16", "float16", "float32".
        paths: What takes turns: "int4" (our layer, which chooses a path by batch size), its paths alone ("op",
            "fused", "dequantize"), "dense". None: all that this machine has.
        compiled: Whether int4 and dense are measured compiled by torch.compile too.
        cancel: Set it to stop before the next call that would be timed.

    Raises:
        ConfigError: for sizes, dtypes, devices or paths that cannot be measured.
        Cancelled: when `cancel` was set.
    """
    bench = LinearBench(n, k, cfg, batch_sizes, device=device, dtypes=dtypes, paths=paths, compiled=compiled)
    points = tuple(bench.run(cancel))
    return SpeedReport(points, environment(device), bench.roofline, tuple(bench.notes))


@dataclass
class LinearBench:
    """The benchmark of one linear layer, point by point; arguments as those of `bench_linear`.

    Attributes:
        budget_s: Seconds of timed calls for each point.
        roofline: What the machine can do at best; measured when the run begins, unless it is given.
        notes: What a person must know of the run so far.

    Raises:
        ConfigError: for sizes, dtypes, devices or paths that cannot be measured.
    """

    n: int
    k: int
    cfg: Int4WeightOnlyConfig | None = None
    batch_sizes: Sequence[int] = DEFAULT_BATCH_SIZES
    device: str = field(default="cpu", kw_only=True)
    dtypes: Sequence[str] = field(default=("bfloat16",), kw_only=True)
    paths: Sequence[str] | None = field(default=None, kw_only=True)
    compiled: bool = field(default=False, kw_only=True)
    budget_s: float = field(default=BUDGET_S, kw_only=True)
    roofline: Roofline | None = field(default=None, kw_only=True)
    notes: list[str] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        _check(self.n, self.k, self.batch_sizes, self.device, self.dtypes)
        self.batch_sizes, self.dtypes = tuple(dict.fromkeys(self.batch_sizes)), tuple(dict.fromkeys(self.dtypes))
        self.paths = present_paths(self.device, self.paths)
        self.cfg = self.cfg or Int4WeightOnlyConfig()

    @property
    def steps(self) -> int:
        """How many pairs of dtype and batch size are measured."""
        return len(self.dtypes) * len(self.batch_sizes)

    def run(self, cancel: threading.Event | None = None) -> Iterator[SpeedPoint]:
        """Yield each point as soon as it is measured: dtype by dtype, batch by batch, all candidates in turn.

        Raises:
            Cancelled: when `cancel` was set.
        """
        stop_if(cancel)
        self.notes += [device_note(self.device), *filter(None, [path_note(self.device)])]
        compiled = self.compiled and self._can_compile()
        if self.roofline is None:
            # Our layer may multiply in bfloat16 whatever the activations are.
            self.roofline = measure_roofline(
                self.device, tuple(dict.fromkeys(("bfloat16", *self.dtypes))), cancel=cancel
            )
        taken: list[SpeedPoint] = []
        for dtype in self.dtypes:
            candidates = self._candidates(dtype, compiled, cancel)
            for batch in self.batch_sizes:
                points = self._measure(candidates, dtype, batch, cancel)
                taken += points
                if dtype == self.dtypes[-1] and batch == self.batch_sizes[-1]:
                    self.notes += doubts(taken)  # before the last points, so that who sees them sees these too
                yield from points

    def _candidates(self, dtype: str, compiled: bool, cancel: threading.Event | None) -> list[Candidate]:
        assert self.cfg is not None and self.paths is not None  # set in __post_init__
        found = make_candidates(
            *(self.n, self.k, self.cfg),
            device=self.device,
            dtype=dtype,
            paths=self.paths,
            compiled=compiled,
            cancel=cancel,
        )
        note = rotation_note(found, self.device)
        self.notes += [note] if note and note not in self.notes else []
        return found

    def _can_compile(self) -> bool:
        problem = compiler_problem(self.device)
        if problem:
            self.notes.append(f"nothing is measured compiled: torch.compile does not work here ({problem})")
        return not problem

    def _measure(
        self, candidates: list[Candidate], dtype: str, batch: int, cancel: threading.Event | None
    ) -> list[SpeedPoint]:
        """Measure one batch size; a candidate that cannot be compiled is named, and left out from here on."""
        inputs = _inputs(batch, self.k, dtype, self.device)
        with torch.inference_mode(), strict_compiling(any(one.form == "compiled" for one in candidates)):
            for one in [one for one in candidates if one.form == "compiled"]:
                problem = compile_problem(one, inputs[0], cancel)
                if problem:
                    candidates.remove(one)
                    self.notes.append(f"{one.name} is left out from {dtype}, batch {batch} on: {problem}")
            times = time_interleaved(
                calls_in_turn(candidates, inputs), device=self.device, budget_s=self.budget_s, cancel=cancel
            )
        return [self._point(one, dtype, batch, times[one.name]) for one in candidates]

    def _point(self, candidate: Candidate, dtype: str, batch: int, seconds: list[float]) -> SpeedPoint:
        assert self.cfg is not None and self.roofline is not None  # set before anything is timed
        ordered = sorted(seconds)
        median = statistics.median(ordered)
        moved = candidate.held_bytes + DTYPES[dtype].itemsize * batch * (self.n + self.k)
        flop = 2 * batch * self.n * self.k
        inside = (dtype,) if candidate.path == DENSE else (dtype, "bfloat16")
        return SpeedPoint(
            device=self.device,
            device_name=environment(self.device).device_name,
            path=candidate.path,
            dtype=dtype,
            n=self.n,
            k=self.k,
            group_size=self.cfg.group_size,
            batch=batch,
            time_ms=median * 1e3,
            p10_ms=ordered[len(ordered) // 10] * 1e3,
            p90_ms=ordered[(9 * len(ordered)) // 10] * 1e3,
            runs=len(ordered),
            gb_per_s=moved / median / 1e9,
            gflop_per_s=flop / median / 1e9,
            form=candidate.form,
            chosen_path=candidate.chosen_path(batch, dtype),
            roofline_share=self.roofline.attainable_s(moved, flop, *inside) / median,
            copies=len(candidate.calls),
        )


def _inputs(batch: int, k: int, dtype: str, device: str) -> list[Tensor]:
    """Activations that take turns, float [batch, k]: two at least, together at most 64 MiB beyond that."""
    count = max(2, min(32, _MOST_INPUT_BYTES // (batch * k * DTYPES[dtype].itemsize)))
    random = generator(device)
    return [
        torch.randn(batch, k, generator=random, device=device, dtype=torch.float32).to(DTYPES[dtype])
        for _ in range(count)
    ]


def _check(n: int, k: int, batch_sizes: Sequence[int], device: str, dtypes: Sequence[str]) -> None:
    if n < 1 or k < 1:
        raise ConfigError(f"A layer of shape {[n, k]} cannot be measured.", allowed="N and K of 1 or more")
    check_batch_sizes(batch_sizes)
    check_device(device)
    check_dtypes(dtypes)
    if not dtypes:
        raise ConfigError("No dtype.", allowed=", ".join(DTYPES))
