"""The zero-point microscope: the 16 levels that each domain and solver gives one group, and what they cost."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from workbench.affine import QUANT_MAX, QuantizedWeight, group_count
from workbench.config import DOMAINS, Domain, ResolvedConfig
from workbench.errors import Cancelled, ConfigError, WeightError
from workbench.measure.errors import error_summary
from workbench.options import SOLVERS, SolverName, resolve_options
from workbench.records.errors import ErrorSummary
from workbench.records.microscope import Microscope, MicroscopeVariant
from workbench.solvers import InputMoments, SolveResult, not_finite, solve


class Variant(NamedTuple):
    """One way of quantizing a group."""

    domain: Domain
    preserve_zero: bool
    solver: SolverName


VARIANTS = tuple(itertools.starmap(Variant, itertools.product(DOMAINS, (False, True), SOLVERS)))

_OUTPUT_ERROR = "made for the least error of the layer's output, not of its weights"


@torch.no_grad()
def microscope(
    weight_rows: Tensor,
    row: int,
    group: int,
    config: ResolvedConfig,
    *,
    variants: Iterable[Variant] = VARIANTS,
    statistics: InputMoments | None = None,
    first_row: int = 0,
    name: str = "weight",
    cancel: threading.Event | None = None,
) -> Microscope:
    """Solve one group in every variant.

    Args:
        weight_rows: Any float dtype [R, K]: rows of the weight, at least the one that is looked at.
        row: Output feature, counted in the whole weight.
        group: Group along in_features.
        config: Group size and scale dtype; its solver's options hold for that solver, the others take their defaults.
        variants: What to try; those that cannot be are listed with the reason.
        statistics: Moments of the layer's inputs, for the calibrated solver; None leaves it out, with the reason.
        first_row: Which row of the whole weight `weight_rows` begins with.
        name: What the weight is called in errors.
        cancel: Set it to stop between variants.

    Raises:
        ConfigError: for a row or a group that the weight does not have.
        WeightError: when `weight_rows` is not 2-D and floating, or the group holds NaN or infinity.
        Cancelled: when `cancel` was set.
    """
    columns = _columns(weight_rows, row - first_row, row, group, config.group_size, name)
    whole = weight_rows[row - first_row : row - first_row + 1]
    weights = whole[:, columns].float()
    if not bool(torch.isfinite(weights).all()):
        at = int(torch.nonzero(~torch.isfinite(weights))[0, 1])
        raise not_finite(name, row, columns.start + at, weights[0, at], "look at another group")
    bench = _Bench(whole, columns, group, config, statistics, name, cancel)
    asked = tuple(variants)
    return Microscope(
        name=name,
        row=row,
        group=group,
        first_column=columns.start,
        group_size=config.group_size,
        weights=tuple(weights[0].tolist()),
        variants=tuple(bench.look(variant) for variant in asked),
        current=_place(asked, config),
    )


def levels_of(quantized: QuantizedWeight) -> Tensor:
    """Return the values of the codes 0 to 15 of each group, float32 [N, ceil(K/group_size), 16], in weight units."""
    scale = quantized.scale.reshape(-1, 1)
    zero = None if quantized.zero is None else quantized.zero.reshape(-1, 1)
    codes = torch.arange(QUANT_MAX + 1, dtype=torch.uint8, device=scale.device).repeat(scale.shape[0], 1)
    ladder = QuantizedWeight(codes, scale, zero, quantized.group_size, quantized.domain)
    return ladder.dequantize().view(*quantized.scale.shape, -1)


def why_not(variant: Variant, *, with_statistics: bool) -> str:
    """Say why there is no such variant; "" when there is."""
    if not variant.preserve_zero and variant.domain == "symmetric":
        return "code 8 is always exactly 0"
    if not variant.preserve_zero and variant.domain == "int":
        return "the same as with it: an int zero point is one of the codes"
    if variant.solver == "hqq" and variant.domain == "symmetric":
        return "there is no zero point to move"
    if variant.solver == "hqq" and variant.domain == "float" and variant.preserve_zero:
        return "HQQ moves the zero point freely"
    if variant.solver == "calibrated" and not with_statistics:
        return "needs a text run through the model, for the layer's inputs"
    return ""


def absent(microscope: Microscope) -> list[tuple[str, str]]:
    """Return for each reason the variants that there are not, and why, for instance ("hqq · symmetric", "...")."""
    by_reason: dict[str, list[MicroscopeVariant]] = {}
    for variant in microscope.variants:
        if variant.reason:
            by_reason.setdefault(variant.reason, []).append(variant)
    return [(_named(found), reason) for reason, found in by_reason.items()]


class _Bench:
    """One group with what is needed to solve it."""

    def __init__(
        self,
        row: Tensor,
        columns: slice,
        group: int,
        config: ResolvedConfig,
        statistics: InputMoments | None,
        name: str,
        cancel: threading.Event | None,
    ) -> None:
        self.row, self.columns, self.group, self.config = row, columns, group, config
        self.statistics, self.name, self.cancel = statistics, name, cancel
        self.weights = row[:, columns]
        self.nearest: dict[tuple[Domain, bool], ErrorSummary] = {}

    def look(self, variant: Variant) -> MicroscopeVariant:
        """Return a variant with its levels and errors, or with the reason why it has none."""
        reason = why_not(variant, with_statistics=self.statistics is not None)
        if reason:
            return MicroscopeVariant(*variant, reason=reason)
        solved, nearest = self._solve(variant), self._nearest(variant)
        quantized = self._own_group(solved.weight)
        errors = error_summary(self.weights, quantized)
        levels = levels_of(quantized).flatten()
        return MicroscopeVariant(
            *variant,
            levels=tuple(levels.tolist()),
            codes=tuple(quantized.codes[0].tolist()),
            scale=float(quantized.scale),
            zero=None if quantized.zero is None else float(quantized.zero),
            rms=errors.rmse,
            mean_abs=errors.mean_abs,
            max_abs=errors.max_abs,
            rms_ratio=_ratio(errors.rmse, nearest.rmse),
            mean_abs_ratio=_ratio(errors.mean_abs, nearest.mean_abs),
            max_abs_ratio=_ratio(errors.max_abs, nearest.max_abs),
            bits_per_weight=errors.bits_per_weight,
            zero_level=float(levels[levels.abs().argmin()]),
            notes=(*solved.notes, _OUTPUT_ERROR) if solved.solver == "calibrated" else solved.notes,
        )

    def _nearest(self, variant: Variant) -> ErrorSummary:
        """Return the errors of round-to-nearest in the same domain."""
        key = (variant.domain, variant.preserve_zero)
        if key not in self.nearest:
            self.nearest[key] = error_summary(self.weights, self._solve(variant._replace(solver="rtn")).weight)
        return self.nearest[key]

    def _solve(self, variant: Variant) -> SolveResult:
        """Solve the group alone, or its whole row where the solver feeds errors from group to group."""
        if self.cancel is not None and self.cancel.is_set():
            raise Cancelled(f"The microscope on {self.name} was superseded.")
        own = self.config.options if variant.solver == self.config.solver else None
        config = replace(self.config, **variant._asdict(), options=resolve_options(variant.solver, own), notes=())
        if variant.solver == "calibrated":
            return solve(self.row, config, statistics=self.statistics, name=self.name, cancel=self.cancel)
        return solve(self.weights, config, name=self.name, cancel=self.cancel)

    def _own_group(self, solved: QuantizedWeight) -> QuantizedWeight:
        """Return the group alone of a row that was solved as a whole."""
        if solved.shape[1] == self.weights.shape[1]:
            return solved
        return solved.part(slice(None), slice(self.group, self.group + 1))


def _columns(rows: Tensor, place: int, row: int, group: int, group_size: int, name: str) -> slice:
    """Return the columns of a group.

    Raises:
        ConfigError: for a row or a group that there is not.
        WeightError: when `rows` is not 2-D and floating.
    """
    if rows.ndim != 2 or not rows.is_floating_point():
        raise WeightError(f"{name} is {rows.dtype} {list(rows.shape)}.", allowed="a floating-point weight [R, K]")
    groups = group_count(rows.shape[1], group_size)
    for what, at, shown, count in (("row", place, row, rows.shape[0]), ("group", group, group, groups)):
        if not 0 <= at < count:
            first = shown - at
            raise ConfigError(f"{name} has no {what} {shown}.", allowed=f"{first} to {first + count - 1}")
    return slice(group * group_size, min((group + 1) * group_size, rows.shape[1]))


def _place(variants: tuple[Variant, ...], config: ResolvedConfig) -> int | None:
    """Return the place of a layer's own settings; an int zero point keeps 0 exact whatever they say."""
    own = Variant(config.domain, config.preserve_zero or config.domain == "int", config.solver)
    return variants.index(own) if own in variants else None


def _ratio(error: float, nearest: float) -> float:
    if nearest > 0:
        return error / nearest
    return math.inf if error > 0 else 1.0


def _named(variants: list[MicroscopeVariant]) -> str:
    """Name variants by what they share: solvers, domains, and preserve_zero where it tells them apart."""
    solvers = list(dict.fromkeys(variant.solver for variant in variants))
    domains = list(dict.fromkeys(variant.domain for variant in variants))
    kept = {variant.preserve_zero for variant in variants}
    parts = [] if len(solvers) > 1 else solvers
    parts += [] if len(domains) > 2 else [" and ".join(domains)]
    if kept == {False} or (kept == {True} and domains != ["symmetric"]):
        parts.append("preserve_zero" if kept == {True} else "without preserve_zero")
    return " · ".join(parts)
