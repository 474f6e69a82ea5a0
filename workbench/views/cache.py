"""Layers solved and measured, and the latest of them held, so that what was seen before is shown at once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from workbench.affine import QuantizedWeight
from workbench.config import ResolvedConfig
from workbench.errors import Cancelled
from workbench.measure.error_map import Metric, error_map
from workbench.measure.errors import error_summary
from workbench.options import SolverName
from workbench.records.errors import ErrorMap, ErrorSummary, ErrorTrace
from workbench.solvers import InputMoments, solve

Reduction = Literal["max", "mean"]
_CACHE_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Inputs:
    """What a view knows of a layer's inputs, for the calibrated solver.

    Attributes:
        moments: Their second moments, or None: the solver then falls back.
        note: What they are the inputs of; or, without moments, why there are none.
        badge: The same in a few words.
        stamp: Differs wherever the moments may.
    """

    moments: InputMoments | None = field(compare=False, repr=False)
    note: str
    badge: str
    stamp: str = ""


NO_INPUTS = Inputs(None, "no statistics of its input", "no inputs")
WAITING = Inputs(None, "its inputs are still being collected", "collecting inputs")
STOPPED = Inputs(None, "collecting its inputs was cancelled", "no inputs")
UPSTREAM = Inputs(None, "inputs of the model as it is quantized so far", "inputs as quantized so far")


@dataclass(frozen=True, eq=False)
class MeasuredLayer:
    """A weight, what is stored for it, and the errors of that.

    Attributes:
        weight: Any float dtype [N, K].
        quantized: What is stored.
        summary: Its errors.
        rtn: Errors of round-to-nearest under the same settings, as it would be stored.
        trace: How the solver came to it.
        version: Of the weight, when it was solved.
        solver: The solver that found it: the one asked for, or what it fell back to.
        notes: What a person must know.
        inputs: What the calibrated solver was given, its moments apart.
    """

    weight: Tensor
    quantized: QuantizedWeight
    summary: ErrorSummary
    rtn: ErrorSummary
    trace: ErrorTrace
    version: int
    solver: SolverName
    notes: tuple[str, ...]
    inputs: Inputs
    _pictures: dict[tuple[Metric, Reduction, int], ErrorMap] = field(default_factory=dict, repr=False)

    def picture(self, metric: Metric, reduce: Reduction, max_side: int) -> ErrorMap:
        """Return the errors at screen size; a picture that was seen before is at hand.

        Args:
            metric: What it shows.
            reduce: How it is reduced.
            max_side: Most rows and columns.
        """
        key = metric, reduce, max_side
        found = self._pictures.get(key)
        if found is None:
            with torch.inference_mode():
                found = self._pictures[key] = error_map(
                    self.weight, self.quantized, metric=metric, reduce=reduce, max_rows=max_side, max_cols=max_side
                )
        return found

    def is_of(self, weight: Tensor) -> bool:
        """Say whether this is what a live weight holds now."""
        return weight.data_ptr() == self.weight.data_ptr() and _version(weight) == self.version

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weight, which results of one layer share."""
        return self.weight.numel() * self.weight.element_size()

    @property
    def stored_bytes(self) -> int:
        """Bytes of codes, scales, zero points and pictures."""
        parts = (self.quantized.codes, self.quantized.scale, self.quantized.zero)
        pictures = sum(len(picture.values) for picture in list(self._pictures.values()))
        return sum(part.numel() * part.element_size() for part in parts if part is not None) + pictures


class ViewCache:
    """The latest solved layers, so that another metric, or a setting tried before, is shown at once."""

    def __init__(self, max_bytes: int = _CACHE_BYTES) -> None:
        """Hold at most `max_bytes` of weights and codes, but always the latest layer."""
        self.max_bytes = max_bytes
        self._held: OrderedDict[tuple[str, ResolvedConfig], MeasuredLayer] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str, config: ResolvedConfig) -> MeasuredLayer | None:
        """Return a solved layer, or None."""
        with self._lock:
            found = self._held.get((name, _key(config)))
            if found is not None:
                self._held.move_to_end((name, _key(config)))
            self._trim()  # pictures may have come since
            return found

    def weight(self, name: str) -> Tensor | None:
        """Return the weight of a layer held under any setting, so that it is not read again; or None."""
        with self._lock:
            return next((one.weight for (held, _), one in self._held.items() if held == name), None)

    def nearest(self, name: str, config: ResolvedConfig, weight: Tensor) -> ErrorSummary | None:
        """Return the errors of round-to-nearest that a layer was shown against under any solver; or None."""
        wanted = _nearest_key(config)
        with self._lock:
            for (held, key), one in self._held.items():
                if held == name and _nearest_key(key) == wanted and one.is_of(weight):
                    return one.rtn
        return None

    def put(self, name: str, config: ResolvedConfig, solved: MeasuredLayer) -> None:
        """Hold a solved layer, and let go of the oldest ones."""
        with self._lock:
            self._held[name, _key(config)] = solved
            self._held.move_to_end((name, _key(config)))
            self._trim()

    def has_room(self, more_bytes: int) -> bool:
        """Say whether as many bytes more are held without letting go of anything."""
        with self._lock:
            return self._bytes() + more_bytes <= self.max_bytes

    @property
    def held_bytes(self) -> int:
        """Bytes that are held; a weight that several results share counts once."""
        with self._lock:
            return self._bytes()

    def _trim(self) -> None:
        while len(self._held) > 1 and self._bytes() > self.max_bytes:
            self._held.popitem(last=False)

    def _bytes(self) -> int:
        weights = {one.weight.data_ptr(): one.weight_bytes for one in self._held.values()}
        return sum(weights.values()) + sum(one.stored_bytes for one in self._held.values())

    def __len__(self) -> int:
        """Number of layers held."""
        with self._lock:
            return len(self._held)


def solve_and_measure(
    weight: Tensor,
    name: str,
    config: ResolvedConfig,
    cancel: threading.Event | None,
    nearest: ErrorSummary | None = None,
    inputs: Inputs = NO_INPUTS,
) -> MeasuredLayer:
    """Solve a weight and measure the result.

    Args:
        weight: Any float dtype [N, K].
        name: What it is called in errors.
        config: Everything resolved.
        cancel: Set it to stop between blocks.
        nearest: Errors of round-to-nearest under the same settings, where they are known.
        inputs: For the calibrated solver; no other looks at them.

    Raises:
        WeightError: when the weight holds NaN or infinity, naming layer and position.
        Cancelled: when `cancel` was set.
    """
    version = _version(weight)
    moments = inputs.moments if config.solver == "calibrated" else None
    found = solve(weight, config, statistics=moments, name=name, cancel=cancel)
    summary = rtn = error_summary(weight, found.weight, cancel)
    if config.solver != "rtn":
        plain = replace(config, solver="rtn", options=None)
        rtn = nearest or error_summary(weight, solve(weight, plain, name=name, cancel=cancel).weight, cancel)
    if cancel is not None and cancel.is_set():
        raise Cancelled(f"The view of {name} was superseded.")
    notes = (inputs.note, *found.notes)
    if moments is None:
        notes = (f"solved with {found.solver} instead of calibrated: {inputs.note}",)
    notes = notes if config.solver == "calibrated" else found.notes
    kept = replace(inputs, moments=None)  # which are held elsewhere, within their own bound
    return MeasuredLayer(weight, found.weight, summary, rtn, found.trace, version, found.solver, notes, kept)


def same_values(one: ResolvedConfig, other: ResolvedConfig) -> bool:
    """Say whether two settings give the same codes, scales and zero points."""
    return _key(one) == _key(other)


def _version(weight: Tensor) -> int:
    """Return a number that grows with every change in place."""
    return 0 if weight.is_inference() else weight._version


def _key(config: ResolvedConfig) -> ResolvedConfig:
    """Notes and tiles do not change values."""
    return replace(config, notes=(), inner_k_tiles=8)


def _nearest_key(config: ResolvedConfig) -> ResolvedConfig:
    """Round-to-nearest is the same beside every solver."""
    return replace(_key(config), solver="rtn", options=None)
