"""The int4 layers of the model under the recipe that holds now: what a change leaves as it is, is not solved again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Hashable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from workbench.calibration import Calibration
from workbench.config import ResolvedConfig
from workbench.coverage.coverage import Coverage, experts_of, needs_calibration
from workbench.errors import Cancelled
from workbench.layers import Int4Layer, weight_as_used
from workbench.quantize import int4_layer
from workbench.records.progress import Progress
from workbench.solving import iter_quantize
from workbench.sources import ModelSource, Source
from workbench.stopped_run import StoppedRun
from workbench.views.cache import ViewCache
from workbench.views.solved_layers import SolvedLayers
from workbench.views.views import held_layer

_POLL_S = 0.05


@dataclass(frozen=True)
class Wanted:
    """What the int4 layers are made of.

    Attributes:
        model: The dense model.
        coverage: What becomes int4, and how.
        calibration: Returns the text's tokens; called only where a layer is to be calibrated.
        stamp: Stands for that text.
        stopped: What a run of calibrated layers held when it was stopped; None for nothing.
    """

    model: nn.Module
    coverage: Coverage
    calibration: Callable[[], Calibration]
    stamp: str = ""
    stopped: StoppedRun | None = None


class Int4Layers:
    """Layers that are solved and packed, by name; those that a recipe no longer has are let go of.

    Args:
        source: Where the weights come from.
        cache: Layers that were solved to be looked at.
    """

    def __init__(self, source: Source, cache: ViewCache) -> None:
        self.source, self.cache = source, cache
        self._held: dict[str, tuple[Hashable, Int4Layer]] = {}
        self._solving = threading.Lock()

    def __len__(self) -> int:
        """Number of layers held."""
        return len(self._held)

    def update(self, wanted: Wanted, cancel: threading.Event) -> Generator[Progress, None, dict[str, Int4Layer]]:
        """Make the layers of a recipe: yield where the work stands, and return the layers by name.

        Data-free layers stand each alone. A calibrated layer sees what those before it let through: where there is
        one, any change solves all of them, in the order of the model, as an export does.

        Raises:
            Cancelled: when `cancel` was set; what was solved by then is kept.
            WeightError: when a weight holds NaN or infinity.
            ModelError: when the model cannot be run on the calibration text.
            ConfigError: when a layer is to be calibrated and its text cannot be used.
        """
        while not self._solving.acquire(timeout=_POLL_S):
            if cancel.is_set():
                raise Cancelled("Cancelled before its turn came.")
            yield Progress(0, 1, "waiting for the int4 layers", 0.0)
        try:
            keys = _keys(wanted)
            self._held = {name: held for name, held in self._held.items() if held[0] == keys.get(name)}
            self._take_solved(wanted, keys)
            missing = [name for name in keys if name not in self._held]
            if missing:
                yield from self._solve(wanted, keys, missing, cancel)
            return {name: layer for name, (_, layer) in self._held.items()}
        finally:
            self._solving.release()

    def _take_solved(self, wanted: Wanted, keys: dict[str, Hashable]) -> None:
        """Pack what the views have solved already."""
        for name in keys.keys() - self._held.keys():
            config = wanted.coverage.configs[name]
            if config.solver == "calibrated" or needs_calibration(wanted.coverage):
                continue
            if experts_of(wanted.coverage, name):
                continue
            found = held_layer(self.source, name, config, self.cache)
            if found is not None:
                self._hold(wanted, keys, name, found[1])

    def _solve(
        self, wanted: Wanted, keys: dict[str, Hashable], missing: list[str], cancel: threading.Event
    ) -> Iterator[Progress]:
        coverage, calibration = wanted.coverage, None
        if needs_calibration(coverage):
            self._held, calibration = {}, wanted.calibration()
        else:
            rows = set(missing)
            configs = {name: coverage.configs[name] for name in missing}
            coverage = replace(coverage, rows=tuple(r for r in coverage.rows if r.name in rows), configs=configs)
        source = ModelSource(wanted.model) if isinstance(self.source, ModelSource) else self.source
        solved = SolvedLayers(stopped=wanted.stopped)
        given: dict[str, Any] = {"calibration": calibration, "model": wanted.model, "solved": solved}
        for step in iter_quantize(source, coverage, cancel=cancel, **given):
            self._hold(wanted, keys, step.result.name, step.weight)
            yield replace(step.progress, label=f"solving {step.label}")

    def _hold(self, wanted: Wanted, keys: dict[str, Hashable], name: str, weight: Any) -> None:
        self._held[name] = keys[name], int4_layer(wanted.model, name, weight, wanted.coverage)


def settings_of(coverage: Coverage) -> tuple[tuple[str, ResolvedConfig], ...]:
    """Return what decides the values of the int4 layers; notes and tiles do not."""
    configs = coverage.configs
    return tuple((row.name, replace(configs[row.name], notes=(), inner_k_tiles=8)) for row in coverage.int4_rows)


def _keys(wanted: Wanted) -> dict[str, Hashable]:
    """Return for each int4 layer what it depends on."""
    settings = settings_of(wanted.coverage)
    beside = (settings, wanted.stamp) if needs_calibration(wanted.coverage) else ()
    return {name: (config, beside, _version(wanted.model, name)) for name, config in settings}


def _version(model: nn.Module, name: str) -> tuple[int, int]:
    """Return numbers that differ when the weight of a live model was changed, in place or by another."""
    weight = weight_as_used(model, name, read=False)
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version
