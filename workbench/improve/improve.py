"""Source and recipe in, a recipe with less error at no more bytes out: solvers, zero points, and groups that move.

Each layer tries other solvers, domains and group sizes on sampled rows; of all these the choice with the least sum of
relative squared errors that takes no more bytes than now is found. What is chosen, and what is there now, is then
measured on all rows, and the choice made again, until every number that it rests on is exact.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence

from workbench.coverage.coverage import Coverage
from workbench.coverage.preflight import preflight_source
from workbench.coverage.rows import planned_bytes
from workbench.errors import WeightError
from workbench.improve.improvement import OUTPUT_ERROR, WEIGHT_ERROR, Improvement, LayerChange, SoFar, said, staying
from workbench.improve.rows import rows_tried
from workbench.improve.trials import Known, Trials, candidates
from workbench.improve.units import Unit, choose, together, total_error
from workbench.jobs import progress_since
from workbench.kinds import EXPERTS, QUANTIZABLE_KINDS, STACK
from workbench.recipe.assign import with_choices
from workbench.recipe.edit import LayerNames
from workbench.recipe.recipe import Choice, Recipe
from workbench.records.layers import LayerRecord
from workbench.records.progress import Progress
from workbench.solvers import InputMoments
from workbench.sources import Source

_WORTH = 0.999  # less of a gain is none
_PLAIN = 0.1  # on the demo model, groups that move for less than this bring predictions no nearer to the original's
_ONE_BY_ONE = 96  # of more layers, those that differ by an index alone change together
_ROUNDS = 4  # of choosing and measuring on all rows


def iter_improve(
    source: Source,
    coverage: Coverage,
    recipe: Recipe,
    *,
    device: str = "cpu",
    moments: Mapping[str, InputMoments] | None = None,
    plain: float = _PLAIN,
    one_by_one: int = _ONE_BY_ONE,
    known: Known | None = None,
    cancel: threading.Event | None = None,
) -> Iterator[Progress | SoFar | Improvement]:
    """Yield where the work stands, now and then what would change by what is known, and at last what was found.

    Args:
        source: Where the weights come from.
        coverage: What becomes of them under `recipe`.
        recipe: What is to become better; what stays dense goes on being so.
        device: Device that will run the layers.
        moments: Layer name → second moments of its inputs; where all int4 layers have them, the error is that of the
            outputs, and the calibrated solver is tried.
        plain: How much squared error is accepted for a plain recipe, as a share (see `improve_units.choose`).
        one_by_one: Most int4 layers that change one by one.
        known: Errors that an earlier search measured on the same weights and inputs; what is measured is added.
        cancel: Set it to stop between blocks.

    Raises:
        Cancelled: when `cancel` was set.
        ModelError: when a weight cannot be read.
    """
    work = _Work(source, coverage, recipe, device, moments or {}, cancel, known)
    yield from work.try_all(one_by_one, plain)
    chosen = choose(work.units, plain=plain)
    for _ in range(_ROUNDS):
        if not work.unmeasured(chosen):
            break
        yield work.so_far(chosen)
        yield from work.measure(chosen)
        chosen = choose(work.units, plain=plain)
    if work.unmeasured(chosen):
        yield from work.measure(chosen)
        chosen = choose(work.units, plain=plain, only_exact=True)
    yield work.finished(chosen)


class _Work:
    """What is known so far of all layers."""

    def __init__(
        self,
        source: Source,
        coverage: Coverage,
        recipe: Recipe,
        device: str,
        moments: Mapping[str, InputMoments],
        cancel: threading.Event | None,
        known: Known | None = None,
    ) -> None:
        self.source, self.coverage, self.recipe, self.device = source, coverage, recipe, device
        self.outputs = bool(coverage.configs) and all(name in moments for name in coverage.configs)
        self.trials = Trials(source, moments if self.outputs else {}, cancel, known)
        self.objective = OUTPUT_ERROR if self.outputs else WEIGHT_ERROR
        self.units: list[Unit] = []
        self.notes: list[str] = []
        self.start, self.done, self.tried = time.monotonic(), 0, 0
        rows = [record.matrix for record in source.records() if record.name in coverage.configs]
        # Each once; where that tells of some rows or settings only, as it is and as it is chosen on all rows too.
        self.total = sum(3 if self.outputs or rows_tried(*one) < one[0] else 1 for one in rows)

    def try_all(self, one_by_one: int, plain: float) -> Iterator[Progress | SoFar]:
        """Try every candidate of every layer on sampled rows; a layer that cannot be tried stays as it is.

        What would change so far is said once the first layer is tried, and each time that there are twice as many.
        """
        records = [record for record in self.source.records() if record.name in self.coverage.configs]
        waiting = [record.name for record in records if self._needs_inputs(record)]
        if waiting:
            self.notes.append(f"{staying(waiting)}: calibrated, and there are no inputs to try others on")
        kept = [record for record in records if record.name not in set(waiting)]
        for group in together(kept, self.recipe, one_by_one):
            first = group[0]
            choice = self.recipe.decide(first.name)[0] or Choice()
            calibrated = self.outputs and first.kind not in (EXPERTS, STACK)
            unit = Unit(group, candidates(choice, self.device, calibrated=calibrated))
            try:
                for record in group:
                    yield from self._sample(unit, record)
            except WeightError as error:
                self._leave(unit, error)
                continue
            self.units.append(unit)
            if len(self.units).bit_count() == 1:  # 1, 2, 4, 8, …
                yield self.so_far(choose(self.units, plain=plain))

    def _leave(self, unit: Unit, error: WeightError) -> None:
        """Say that layers stay as they are."""
        self.notes.append(f"{staying([one.name for one in unit.records])}: {error.what}")

    def _needs_inputs(self, record: LayerRecord) -> bool:
        return self.coverage.configs[record.name].solver == "calibrated" and not self.outputs

    def _sample(self, unit: Unit, record: LayerRecord) -> Iterator[Progress]:
        rows = self.trials.sampled(record.name, record.matrix)
        found, measured = self.trials.errors(record.name, rows, [option.config for option in unit.options])
        for place, error in enumerate(found):
            unit.errors[place].append(error)
            unit.exact[place] &= len(rows) == record.matrix[0] and measured[place]
        self.tried += sum(measured)
        yield self._step(f"{record.name}, {len(unit.options)} settings")

    def unmeasured(self, chosen: Sequence[int]) -> list[tuple[Unit, int]]:
        """Return units with those of their options, as chosen and as they are, that no number is exact of."""
        pairs = zip(self.units, chosen, strict=True)
        return [(unit, at) for unit, place in pairs for at in dict.fromkeys((0, place)) if not unit.exact[at]]

    def measure(self, chosen: Sequence[int]) -> Iterator[Progress]:
        """Measure what is chosen, and what is there now, on all rows; a layer that cannot be stays as it is."""
        wanted = self.unmeasured(chosen)
        self.total = self.done + sum(len(unit.records) for unit, _ in wanted)
        for unit, place in wanted:
            if unit not in self.units:  # left a moment ago
                continue
            config, errors = unit.options[place].config, []
            try:
                for record in unit.records:
                    errors.append(self.trials.exact(record.name, record.matrix, config))
                    yield self._step(f"{record.name}, all rows")
            except WeightError as error:
                self._leave(unit, error)
                self.units.remove(unit)
                continue
            unit.errors[place], unit.exact[place] = errors, True

    def so_far(self, chosen: Sequence[int]) -> SoFar:
        """Return what would change by what is known now."""
        before, after = total_error(self.units, [0] * len(self.units)), total_error(self.units, chosen)
        taken = self._taken(chosen)
        layers = sum(len(unit.records) for unit in self.units)
        return SoFar(
            objective=self.objective,
            error_before=math.sqrt(before / max(1, layers)),
            error_after=math.sqrt((after if taken else before) / max(1, layers)),
            tried_layers=layers,
            layers=len(self.coverage.configs),
            exact=not self.unmeasured(chosen),
            changes=self._in_order(taken),
        )

    def _taken(self, chosen: Sequence[int]) -> list[tuple[Unit, int]]:
        """Return the units that change and the options that they take; none where that is hardly better."""
        better = total_error(self.units, chosen) < _WORTH * total_error(self.units, [0] * len(self.units))
        return [(unit, place) for unit, place in zip(self.units, chosen, strict=True) if place and better]

    def _in_order(self, taken: Sequence[tuple[Unit, int]]) -> tuple[LayerChange, ...]:
        changes = {change.name: change for unit, place in taken for change in _changes(unit, place)}
        return tuple(changes[name] for name in self.coverage.configs if name in changes)

    def finished(self, chosen: Sequence[int]) -> Improvement:
        """Return what was found."""
        found, taken = self.so_far(chosen), self._taken(chosen)
        recipe = self._recipe(taken)
        return Improvement(
            recipe=recipe,
            objective=found.objective,
            error_before=found.error_before,
            error_after=found.error_after,
            bytes_before=self.coverage.after_bytes,
            bytes_after=self._preflight(recipe).after_bytes,
            tried=self.tried,
            seconds=time.monotonic() - self.start,
            changes=found.changes,
            notes=tuple(self.notes),
        )

    def _recipe(self, taken: Sequence[tuple[Unit, int]]) -> Recipe:
        """Return the recipe that makes these changes and no other."""
        if not taken:
            return self.recipe
        linear = LayerNames([row.name for row in self.coverage.rows if row.kind in QUANTIZABLE_KINDS])
        wanted = {name: self.recipe.decide(name)[0] or Choice() for name in self.coverage.configs}
        configs = dict(self.coverage.configs)
        for unit, place in taken:
            wanted |= {record.name: unit.options[place].choice for record in unit.records}
            configs |= {record.name: unit.options[place].config for record in unit.records}
        found = with_choices(self.recipe, linear, wanted)
        if self._preflight(found).configs != configs:  # another default made a layer int4 that is dense, or the reverse
            found = with_choices(self.recipe, linear, wanted, keep_default=True)
        return found

    def _preflight(self, recipe: Recipe) -> Coverage:
        return preflight_source(self.source, recipe, device=self.device)

    def _step(self, label: str) -> Progress:
        self.done += 1
        return progress_since(self.start, self.done, max(self.done, self.total), label)


def _changes(unit: Unit, place: int) -> Iterator[LayerChange]:
    before, after = unit.options[0].config, unit.options[place].config
    for at, record in enumerate(unit.records):
        errors = math.sqrt(unit.errors[0][at]), math.sqrt(unit.errors[place][at])
        sizes = planned_bytes(record, before), planned_bytes(record, after)
        yield LayerChange(record.name, said(before), said(after), *errors, *sizes)


__all__ = ["Improvement", "SoFar", "iter_improve"]
