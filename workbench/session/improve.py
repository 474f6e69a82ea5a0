"""The Improve button of a session: one undoable change of the recipe, and a list of what it changed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import Any, Protocol

from workbench.coverage.coverage import Coverage
from workbench.errors import Cancelled, ConfigError
from workbench.improve.improve import Improvement, SoFar, iter_improve
from workbench.improve.trials import Known
from workbench.jobs import Job, Lane
from workbench.kinds import EXPERTS, STACK
from workbench.recipe.recipe import Recipe
from workbench.records.progress import Progress
from workbench.session.calibration import SessionCalibration
from workbench.session.events import EventKind
from workbench.session.history import SessionHistory
from workbench.session.layer_inputs import HELD_BYTES
from workbench.session.model_pair import stamp_of
from workbench.sizes import size
from workbench.solvers import InputMoments
from workbench.sources import ModelSource, Source

JOB_LABEL = "Improve at the same size"
OUTDATED = "the recipe was changed meanwhile, so nothing was applied: press Improve again"
_POLL_S = 0.1
_TRIES = 3  # another view may collect other inputs in between

Found = Progress | SoFar | tuple[Recipe, Improvement]


class Improved(Protocol):
    """What Improve sees of its session."""

    source: Source
    device: str
    recipe: Recipe
    coverage: Coverage
    calibration: SessionCalibration
    work: Lane
    history: SessionHistory

    def set_recipe(self, recipe: Recipe) -> None:
        """Take a recipe as a whole; it can be undone."""
        ...


class SessionImprove:
    """Looks for a recipe with less error at no more bytes, and takes it.

    Args:
        owner: The session.
        emit: Tells an event.
        on_job: Called after each change of the job.

    Attributes:
        latest: What was found last, or None.
        so_far: What would change by what is known while a search goes on, or None.
    """

    def __init__(
        self, owner: Improved, emit: Callable[[EventKind, Any, Job | None], None], on_job: Callable[[Job], None]
    ) -> None:
        self._owner, self._emit, self._tell = owner, emit, on_job
        self.latest: Improvement | None = None
        self.so_far: SoFar | None = None
        self._before: Recipe | None = None
        self._put_away = False  # whether a person wants to see the end of the search alone
        self._known: Known = {}
        self._known_on: tuple[int, str] | None = None

    @property
    def applied(self) -> bool:
        """Whether the recipe is the one that was found last."""
        found = self.latest
        return found is not None and bool(found.changes) and self._owner.recipe == found.recipe

    def start(self) -> Job:
        """Look for a better recipe on the work lane, and take it when it is found.

        Raises:
            ConfigError: when no layer becomes int4, or other work is running.
        """
        if not self._owner.coverage.configs:
            raise ConfigError("No layer becomes int4: there is nothing to improve.", mend="make a layer int4 first")
        self._put_away = False
        return self._owner.work.submit(Job(JOB_LABEL, self._steps, self._take, self._on_job, again=self.start))

    def undo(self) -> bool:
        """Go back to the recipe before the improvement, as a change of its own; False when another came after it."""
        if not self.applied or self._before is None:
            return False
        self._owner.set_recipe(self._before)
        return True

    def forget(self) -> None:
        """Let go of what was found last."""
        self._put_away = self.so_far is not None
        self.latest = self._before = self.so_far = None
        self._emit("improved", None, None)

    def _steps(self, cancel: threading.Event) -> Iterator[Found]:
        owner = self._owner
        recipe, coverage = owner.recipe, owner.coverage
        moments, notes = yield from self._moments(coverage, cancel)
        settings: dict[str, Any] = {"device": owner.device, "moments": moments, "known": self._measured(moments)}
        steps = iter_improve(owner.source, coverage, recipe, cancel=cancel, **settings)
        for step in steps:
            if isinstance(step, Improvement):
                yield recipe, replace(step, notes=(*notes, *step.notes))
            else:
                yield step

    def _measured(self, moments: dict[str, InputMoments]) -> Known:
        """Return the errors that were measured on these weights and inputs, so that a search begun again goes on."""
        source = self._owner.source
        weights = stamp_of(source.model) if isinstance(source, ModelSource) else 0
        on = (weights, self._owner.calibration.stamp if moments else "")
        if on != self._known_on:
            self._known_on, self._known = on, {}
        return self._known

    def _moments(
        self, coverage: Coverage, cancel: threading.Event
    ) -> Generator[Progress, None, tuple[dict[str, InputMoments], list[str]]]:
        """Collect the inputs of all int4 layers where there is a text; else say what the errors are measured on."""
        calibration, rows = self._owner.calibration, coverage.int4_rows
        why_not = self._no_inputs(coverage)
        if why_not:
            return {}, [why_not]
        names = [row.name for row in rows]
        for _ in range(_TRIES):
            missing = [name for name in names if calibration.inputs(name) is None]
            if not missing:
                break
            if cancel.is_set():  # the inputs were cancelled with this: they are not asked for again
                raise Cancelled("Improving was cancelled.", mend="nothing was changed")
            job = calibration.request(missing[0], names)
            while not job.wait(_POLL_S):
                if cancel.is_set():
                    raise Cancelled("Improving was cancelled.", mend="nothing was changed")
                yield job.progress or Progress(0, 1, "inputs of the layers", 0.0)
        inputs = [calibration.inputs(name) for name in names]
        held = {name: one.moments for name, one in zip(names, inputs, strict=True) if one and one.moments}
        if len(held) == len(names):
            return held, [f"outputs on {calibration.state.origin}: inputs of the dense model"]
        note = next((one.note for one in inputs if one is not None and one.moments is None), "collecting was cancelled")
        return {}, [f"errors are those of the weights: no inputs of the layers, {note}"]

    def _no_inputs(self, coverage: Coverage) -> str:
        """Say why the inputs of the layers are not used, or "" when they are."""
        calibration, rows = self._owner.calibration, coverage.int4_rows
        if not calibration.text.strip():
            return "errors are those of the weights: with a calibration text they would be those of outputs"
        if calibration.state.problem is not None:
            return f"errors are those of the weights: {calibration.state.problem.what}"
        if any(row.kind in (EXPERTS, STACK) for row in rows):
            return "errors are those of the weights: inputs of experts are not recorded one by one"
        need = sum(InputMoments.size_bytes(row.shape[-1]) for row in rows)
        if need > HELD_BYTES:
            return f"errors are those of the weights: inputs of all layers would take {size(need)} at once"
        return ""

    def _on_job(self, job: Job) -> None:
        """Tell what became of the job; one that ends early leaves what was found before it."""
        if job.finished and self.so_far is not None:
            self.so_far = None
            self._emit("improved", self.latest, job)
        self._tell(job)

    def _take(self, job: Job, item: Found) -> None:
        if isinstance(item, Progress):
            job.progress = item
            self._emit("job", job, job)
            return
        if isinstance(item, SoFar):
            if not self._put_away:
                self.so_far = item
                self._emit("improved", item, job)
            return
        before, found = item
        self.so_far, self.latest, self._before = None, found, before  # what is told of the recipe is read with them
        holds = self._owner.recipe == before
        if found.changes and holds:
            holds = self._owner.history.add(found.recipe, after=before)  # not over a change that comes meanwhile
        if not holds:
            self.latest = found = replace(found, notes=(OUTDATED, *found.notes))
        self._emit("improved", found, job)


__all__ = ["JOB_LABEL", "OUTDATED", "SessionImprove"]
