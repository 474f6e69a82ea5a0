"""What Improve tries on a layer, and how it measures it: sampled rows first, all rows for what is chosen."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from workbench.config import GROUP_SIZES, ResolvedConfig
from workbench.errors import Cancelled, ConfigError
from workbench.improve.rows import finite, rows_tried
from workbench.measure.sampling import sampled_rows
from workbench.options import CalibratedOptions, SolverName
from workbench.recipe.edit import changed_choice
from workbench.recipe.recipe import Choice
from workbench.solvers import InputMoments, solve
from workbench.sources import Source, read_rows
from workbench.workers import in_order

_BLOCK_WEIGHTS = 1 << 25  # of a stack of experts, which may be larger than memory


Known = dict[tuple[str, int, ResolvedConfig], float]  # (name, rows, settings) → error


@dataclass(frozen=True)
class Style:
    """Settings beside the group size; None keeps what a layer has.

    Attributes:
        solver: The solver.
        domain: Where the zero point lives.
        preserve_zero: Whether 0 stays exact; "auto" is the domain's own default.
    """

    solver: SolverName | None = None
    domain: str | None = None
    preserve_zero: bool | str | None = None


AS_IT_IS = Style()
DATA_FREE = (
    *(Style("refined", domain, "auto") for domain in ("float", "int", "symmetric")),
    Style("refined", "float", True),
    Style("refined", "int", False),
    *(Style("hqq", domain, "auto") for domain in ("float", "int")),
)
CALIBRATED = (Style("calibrated", "float", "auto"), Style("calibrated"))


@dataclass(frozen=True)
class Candidate:
    """One way to quantize a layer.

    Attributes:
        choice: What a recipe says for it.
        config: Everything resolved.
    """

    choice: Choice
    config: ResolvedConfig

    @property
    def manner(self) -> tuple[str, str, bool]:
        """Solver, domain and preserve_zero: everything but the group size that Improve changes."""
        return self.config.solver, self.config.domain, self.config.preserve_zero


def candidates(choice: Choice, device: str, *, calibrated: bool = False) -> list[Candidate]:
    """Return what is tried in place of a choice, each different setting once; the choice itself is the first.

    Args:
        choice: What the layer has now.
        device: Device that will run it.
        calibrated: Whether the inputs of the layer are known.
    """
    found: dict[ResolvedConfig, Candidate] = {}
    styles = (AS_IT_IS, *DATA_FREE, *(CALIBRATED if calibrated else ()))
    sizes = (choice.config.group_size, *GROUP_SIZES)
    for style in styles:
        for size in sizes:
            try:
                one = changed_choice(choice, size, style.domain, style.solver, style.preserve_zero)
                config = one.resolved(device)
            except ConfigError:
                continue  # settings that cannot work together
            found.setdefault(_values(config), Candidate(one, config))
    return list(found.values())


def _values(config: ResolvedConfig) -> ResolvedConfig:
    """Return what decides the values of a configuration."""
    return replace(config, notes=(), inner_k_tiles=8)


def _expected(config: ResolvedConfig, size: int, known: Mapping[ResolvedConfig, float]) -> float:
    """Return what calibrated settings should give, by what those and the refined solver gave with groups of `size`."""
    there, here = (
        next(e for one, e in known.items() if (one.solver, one.domain, one.group_size) == ("refined", config.domain, g))
        for g in (size, config.group_size)
    )
    return known[_values(replace(config, group_size=size))] * (here / there if there > 0 else 1.0)


class Trials:
    """Measures ways to quantize the layers of a source.

    All errors are squared and relative: the sum of the squared errors over the sum of the squares, of the weights or,
    with moments, of the outputs. So each layer counts alike, whatever its scale: of the sums that were tried on the
    demo model, only this one lets groups move between layers without moving predictions away from the original's.

    Args:
        source: Where the weights come from.
        moments: Layer name → moments of its inputs; where given, the error is that of the outputs.
        cancel: Set it to stop between blocks.
        known: Errors that were measured before on the same weights and inputs; what is measured is added.
    """

    def __init__(
        self,
        source: Source,
        moments: Mapping[str, InputMoments],
        cancel: threading.Event | None,
        known: Known | None = None,
    ) -> None:
        self.source, self.moments, self._cancel = source, moments, cancel
        self._known = {} if known is None else known

    def sampled(self, name: str, shape: tuple[int, int]) -> Tensor:
        """Return some rows of a weight [N, K], or all of a small one: any float dtype [R, K].

        Raises:
            WeightError: when one of these rows is not finite, and others are not tried.
        """
        n, k = shape
        limit = rows_tried(n, k)
        if n == limit:
            return self.source.weight(name)
        rows = sampled_rows(n, limit)
        if n * k <= _BLOCK_WEIGHTS:
            weight = self.source.weight(name)
            return finite(name, weight[rows.to(weight.device)], rows.tolist())
        return finite(
            name, torch.cat([read_rows(self.source, name, row, row + 1) for row in rows.tolist()]), rows.tolist()
        )

    def errors(self, name: str, weight: Tensor, configs: Sequence[ResolvedConfig]) -> tuple[list[float], list[bool]]:
        """Return the error of rows of a layer under each of several settings, and whether it was measured.

        The calibrated solver takes a hundred times as long as the others: it is tried with the group size of the first
        settings alone, and taken to gain as much over the refined one with any other. On the CPU, each thread tries
        some settings alone.

        Args:
            name: Module path.
            weight: Any float dtype [R, K].
            configs: Everything resolved; the first is what the layer has now.

        Raises:
            WeightError: when a weight is NaN or infinite.
            Cancelled: when the work is to stop.
        """
        slow = [one.solver == "calibrated" and one.group_size != configs[0].group_size for one in configs]
        tried = [one for one, left in zip(configs, slow, strict=True) if not left]
        self._measure(name, weight, tried)
        rows = len(weight)
        errors = [
            math.nan if left else self._known[name, rows, _values(one)] for one, left in zip(configs, slow, strict=True)
        ]
        known = {_values(one): error for one, error in zip(configs, errors, strict=True)}
        for place, one in enumerate(configs):
            if slow[place]:
                errors[place] = _expected(one, configs[0].group_size, known)
        return errors, [not left for left in slow]

    def _measure(self, name: str, weight: Tensor, configs: Sequence[ResolvedConfig]) -> None:
        """Measure what is not known yet; each is known as soon as it is measured, whatever ends the work."""
        rows = len(weight)
        missing = [one for one in configs if (name, rows, _values(one)) not in self._known]
        if not missing:
            return
        work, signal = partial(self._error, name, weight), self._signal(name, weight)
        found = in_order(work, missing) if weight.device.type == "cpu" else map(work, missing)
        for one, error in zip(missing, found, strict=True):
            self._known[name, rows, _values(one)] = _over(error, signal)

    def exact(self, name: str, shape: tuple[int, int], config: ResolvedConfig) -> float:
        """Return the error of a whole layer [N, K]; a data-free solver takes it a block of rows at a time."""
        key = name, shape[0], _values(config)
        if key in self._known:
            return self._known[key]
        error = signal = 0.0
        whole = shape[0] * shape[1] <= _BLOCK_WEIGHTS or isinstance(config.options, CalibratedOptions)
        for block in [self.source.weight(name)] if whole else self._blocks(name, shape):
            error += self._error(name, block, config)
            signal += self._signal(name, block)
        self._known[key] = _over(error, signal)
        return self._known[key]

    def _blocks(self, name: str, shape: tuple[int, int]) -> Iterator[Tensor]:
        n, k = shape
        step = max(1, _BLOCK_WEIGHTS // k)
        for start in range(0, n, step):
            rows = range(start, min(n, start + step))
            yield finite(name, read_rows(self.source, name, rows.start, rows.stop), rows)

    def _error(self, name: str, weight: Tensor, config: ResolvedConfig) -> float:
        if self._cancel is not None and self._cancel.is_set():
            raise Cancelled("Improving was cancelled.", mend="nothing was changed")
        moments = self.moments.get(name)
        guide = moments if isinstance(config.options, CalibratedOptions) else None
        found = solve(weight, config, statistics=guide, name=name, cancel=self._cancel).weight
        return squared(found.dequantize() - weight.float(), moments)

    def _signal(self, name: str, weight: Tensor) -> float:
        return squared(weight.float(), self.moments.get(name))


@torch.no_grad()
def squared(values: Tensor, moments: InputMoments | None = None) -> float:
    """Return the sum of squares; with moments, of the outputs that these weights give, as a mean over the tokens.

    The squared output of a row w is w H w^T with H = X^T X.

    Args:
        values: float32 [R, K].
        moments: Second moments of the inputs, float32 [K, K], or None.
    """
    if moments is None:
        return float(values.double().square().sum())
    product = values @ moments.total.to(values.device)
    return max(0.0, float((product.double() * values.double()).sum())) / max(1, moments.tokens)


def _over(error: float, signal: float) -> float:
    return error / signal if signal > 0 else math.inf if error > 0 else 0.0
