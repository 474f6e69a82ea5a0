"""Source and coverage in, solved int4 weights out: one layer at a time, with progress and cancel."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from workbench.affine import QuantizedWeight
from workbench.calibration import Calibration
from workbench.config import ResolvedConfig
from workbench.coverage.coverage import Coverage, experts_of, needs_calibration
from workbench.errors import Cancelled, ConfigError
from workbench.records.errors import ErrorTrace, LayerResult
from workbench.records.progress import Progress
from workbench.sequential import iter_sequential
from workbench.solvers import InputMoments, SolveResult, solve
from workbench.solvers.result import stacked
from workbench.sources import ModelSource, Source, read_rows
from workbench.stopped_run import StoppedRun


class SolvedBefore(Protocol):
    """What was solved before, and where results are kept for the next time.

    Attributes:
        stopped: What a run in the order of the model held in memory when it was stopped; None for nothing.
    """

    stopped: StoppedRun | None

    def recall(self, name: str, weight: Tensor, config: ResolvedConfig, inputs: str) -> tuple[str, SolveResult | None]:
        """Return what to keep the result under, and the result if it is known."""
        ...

    def keep(self, key: str, result: SolveResult) -> None:
        """Keep a result."""
        ...


@dataclass(frozen=True)
class SolvedLayer:
    """One step of long work.

    Attributes:
        progress: Where the work stands after this layer.
        result: Errors of this layer.
        weight: Its portable int4 weight.
        trace: How the solver came to it.
        kept: How many layers so far were kept from work that was stopped, this one among them; 0 for one solved now.
    """

    progress: Progress
    result: LayerResult
    weight: QuantizedWeight
    trace: ErrorTrace
    kept: int = 0

    @property
    def label(self) -> str:
        """Say which layer it is and by which solver, or how many were kept so far."""
        if self.kept:
            return f"{self.kept} layer{'s' if self.kept > 1 else ''} kept from before"
        return f"{self.result.name}, {self.result.solver}"


def iter_quantize(
    source: Source,
    coverage: Coverage,
    *,
    calibration: Calibration | None = None,
    model: nn.Module | None = None,
    solved: SolvedBefore | None = None,
    cancel: threading.Event | None = None,
) -> Iterator[SolvedLayer]:
    """Solve the int4 layers of a source one by one; nothing else is held in memory.

    Where a layer is to be calibrated, all are solved in the order in which the model runs them, each on inputs that
    are quantized upstream already.

    Args:
        source: Where the weights come from.
        coverage: What becomes int4, and how.
        calibration: The text, when a layer is to be calibrated; ignored otherwise.
        model: The model to run it through; a live source brings its own.
        solved: What it has of these layers is not solved again; what is solved, it is given to keep.
        cancel: Set it to stop between blocks.

    Raises:
        ConfigError: when a layer is to be calibrated and text or model are missing, or memory cannot hold its moments.
        ModelError: when the model cannot be run on the text.
        Cancelled: when `cancel` is set, between blocks of a layer.
        WeightError: when a weight holds NaN or infinity, naming layer and position.
    """
    solver = _Solver(source, coverage, cancel, solved)
    names = [row.name for row in coverage.int4_rows]
    calibrated = needs_calibration(coverage)
    if not calibrated:
        for name in names:
            solver.solve(name, None)
            yield solver.finished(name)
        return
    if calibration is None:
        raise ConfigError(
            f"{calibrated[0]} is to be calibrated, and there is no calibration text.",
            allowed="a text like what the model will see, or a Calibration of one",
            mend="pass calibration=text, tokenizer=tokenizer, or solver='refined', which looks at the weights alone",
        )
    run = source.model if isinstance(source, ModelSource) else model
    if run is None:
        raise ConfigError("Calibrating needs the model itself, to run the text through it.", mend="pass model=")
    stacks = [name for name in names if experts_of(coverage, name)]  # no module of their own, nothing to listen at
    for name in stacks:
        solver.solve(name, None)
        yield solver.finished(name)
    names = [name for name in names if name not in set(stacks)]
    needs = {name: coverage.configs[name].solver == "calibrated" for name in names}
    before: dict[str, Any] = {} if solved is None else {"known": solver.knows, "stopped": solved.stopped}
    for name in iter_sequential(run, names, needs, calibration, solver.solve, **before, cancel=cancel):
        yield solver.finished(name)


class _Solver:
    """Solves layers by name and keeps count."""

    def __init__(
        self, source: Source, coverage: Coverage, cancel: threading.Event | None, solved: SolvedBefore | None
    ) -> None:
        self._source, self._coverage, self._cancel, self._solved = source, coverage, cancel, solved
        self._parameters = {row.name: row.parameters for row in coverage.int4_rows}
        self._start = time.monotonic()
        self._done = self._kept = self._kept_parameters = self._others = 0  # others were solved now, or by a view
        self._asked: dict[str, tuple[str, SolveResult | None]] = {}  # layers that are solved next: key, what is known
        self._latest: tuple[SolveResult, float, bool] | None = None

    def knows(self, name: str, inputs: str) -> bool:
        """Say whether a layer was solved on the inputs that `inputs` stands for; `solve` then takes that."""
        assert self._solved is not None, "who has nothing from before is not asked"
        weight, config = self._source.weight(name), self._coverage.configs[name]
        self._asked[name] = self._solved.recall(name, weight, config, inputs)
        return self._asked[name][1] is not None

    def solve(self, name: str, moments: InputMoments | None) -> QuantizedWeight:
        if self._cancel is not None and self._cancel.is_set():
            raise Cancelled("Quantizing was cancelled.", mend="start it again; nothing was changed")
        began, others = time.monotonic(), self._others
        key, solved = self._asked.pop(name, (None, None))
        experts = experts_of(self._coverage, name)
        if solved is None and experts:
            solved = stacked([self._expert(name, e) for e in range(experts)])
        elif solved is None:
            solved = self._recalled(name, self._source.weight(name), self._coverage.configs[name], moments, key)
        if self._others == others:
            self._kept, self._kept_parameters = self._kept + 1, self._kept_parameters + self._parameters[name]
        self._latest = solved, time.monotonic() - began, self._others == others
        return solved.weight

    def _expert(self, name: str, expert: int) -> SolveResult:
        rows = self._coverage.row(name).shape[1]
        weight = read_rows(self._source, name, expert * rows, (expert + 1) * rows)
        return self._recalled(f"{name}[{expert}]", weight, self._coverage.configs[name], None)

    def _recalled(
        self, name: str, weight: Tensor, config: ResolvedConfig, moments: InputMoments | None, key: str | None = None
    ) -> SolveResult:
        """Return what was solved before, or solve it now and leave it for the next time.

        Args:
            name: Module path.
            weight: Any float dtype [N, K].
            config: Everything resolved.
            moments: Of the inputs, or None.
            key: What to keep it under, where it is known that it was not solved before; None where that is not.
        """
        if key is None and self._solved is not None:
            key, known = self._solved.recall(name, weight, config, "")
            self._others += key == ""  # what a view has solved, or no result is kept of
            if known is not None:
                return known
        self._others += 1
        found = solve(weight, config, statistics=moments, name=name, cancel=self._cancel)
        if self._solved is not None:
            self._solved.keep(key or "", found)
        return found

    def finished(self, name: str) -> SolvedLayer:
        """Return the step of the layer that was solved last."""
        assert self._latest is not None
        (solved, seconds, kept), config = self._latest, self._coverage.configs[name]
        self._done += self._parameters[name]
        total, elapsed = sum(self._parameters.values()), time.monotonic() - self._start
        worked = self._done - self._kept_parameters  # what was kept took no time, and tells nothing of the rest
        left = elapsed * (total - self._done) / worked if worked else None if self._done < total else 0.0
        progress = Progress(self._done, total, name, elapsed, left)
        trace = solved.trace
        result = LayerResult(
            name,
            solved.solver,
            config.domain,
            config.group_size,
            trace.objective,
            trace.error,
            trace.rtn_error,
            trace.values,
            seconds,
            solved.notes,
        )
        return SolvedLayer(progress, result, solved.weight, trace, self._kept if kept else 0)
