"""Weight in, `QuantizedWeight` and error trace out: round-to-nearest and the half-quadratic solver.

All arithmetic is float32, block by block of rows, so that the working set stays in cache and one layer of any size
needs little memory beside its result. A group's result depends on its own weights only.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.affine import QuantizedWeight, group_count
from workbench.config import Domain, Int4WeightOnlyConfig, ResolvedConfig
from workbench.errors import Cancelled, ConfigError, WeightError
from workbench.options import HqqOptions, SolverName, SolverOptions
from workbench.records import ErrorTrace
from workbench.solvers.hqq import improve
from workbench.solvers.rtn import HUGE, GroupParams, nearest_codes, nearest_params, steps_from_zero
from workbench.workers import in_order

# Weights that a thread solves at a time: float32 copies fit a shared cache; calls are long enough for many threads.
_BLOCK_WEIGHTS = {"cpu": 1 << 19, "cuda": 1 << 25}
_LEAST_WEIGHTS = 1 << 14  # smaller blocks cost more in calls than they gain from a second thread


@dataclass(frozen=True, eq=False)
class SolveResult:
    """A solved weight and how the solver came to it."""

    weight: QuantizedWeight
    trace: ErrorTrace


def quantize_weight(
    weight: Tensor,
    cfg: Int4WeightOnlyConfig | None = None,
    solver: SolverName | None = None,
    domain: Domain | None = None,
    statistics: object = None,
    options: SolverOptions | None = None,
) -> QuantizedWeight:
    """Quantize one weight to int4.

    Args:
        weight: Any float dtype [N, K] = [out_features, in_features]; group_size need not divide K.
        cfg: The configuration; the default one when not given.
        solver: "rtn", "hqq", "refined" or "calibrated"; None follows `cfg.use_hqq`.
        domain: "float", "int" or "symmetric"; None follows the configuration.
        statistics: Must be None: no solver of this version uses activation statistics.
        options: Settings of the solver (`HqqOptions`, ...); None takes its defaults.

    Returns:
        Codes, scales and zero points on the weight's device.

    Raises:
        WeightError: for a weight that is not 2-D and floating, or holds NaN or infinity (with its position).
        ConfigError: for settings that contradict each other.
    """
    if statistics is not None:
        raise ConfigError("No solver of this version uses activation statistics.", allowed="statistics=None")
    settled = (cfg or Int4WeightOnlyConfig()).resolved(weight.device, solver=solver, domain=domain, options=options)
    return solve(weight, settled).weight


@torch.no_grad()
def solve(
    weight: Tensor,
    config: ResolvedConfig,
    *,
    name: str = "weight",
    cancel: threading.Event | None = None,
    progress: Callable[[float], None] | None = None,
) -> SolveResult:
    """Quantize one weight and say how the error fell on the way.

    Args:
        weight: Any float dtype [N, K].
        config: Everything resolved.
        name: What the weight is called in errors.
        cancel: Set it to stop between blocks of rows.
        progress: Called with the share of rows done, 0 to 1, after each block.

    Raises:
        WeightError: for a weight that is not 2-D and floating, or holds NaN or infinity (with its position).
        Cancelled: when `cancel` was set.
    """
    _check_weight(weight, name)
    n, k = weight.shape
    sink = _Sink(weight, config)
    rows = _rows_at_a_time(weight)

    def solve_rows(start: int) -> list[_Solved]:
        block = weight.detach()[start : start + rows].float()
        return [
            _solve_groups(block[:, first:last].reshape(-1, length), block, start, name, config)
            for first, last, length in _parts(k, config.group_size)
        ]

    starts = range(0, n, rows)
    on_cpu = weight.device.type == "cpu"
    with closing(in_order(solve_rows, starts) if on_cpu else (solve_rows(start) for start in starts)) as solved:
        for start in starts:
            if cancel is not None and cancel.is_set():
                raise Cancelled(f"Solving {name} was cancelled.", mend="start it again; nothing was changed")
            for (first, last, _), part in zip(_parts(k, config.group_size), next(solved), strict=True):
                sink.add(part, start, first, last)
            if progress is not None:
                progress(min(1.0, (start + rows) / n))
    return sink.result()


def _rows_at_a_time(weight: Tensor) -> int:
    """Rows of a block: what fits the cache, and less of a small weight, so that all threads have work."""
    n, k = weight.shape
    most = max(1, _BLOCK_WEIGHTS.get(weight.device.type, 1 << 18) // max(1, k))
    if weight.device.type != "cpu":
        return most
    return min(most, max(-(-_LEAST_WEIGHTS // max(1, k)), -(-n // torch.get_num_threads())))


def _parts(k: int, group_size: int) -> list[tuple[int, int, int]]:
    """Split a row into its whole groups and its short last one: (first column, last, length of a group)."""
    whole = k - k % group_size
    parts = [(0, whole, group_size), (whole, k, k - whole)]
    return [part for part in parts if part[1] > part[0]]


@dataclass(frozen=True, eq=False)
class _Solved:
    """Groups solved: codes float32 [C, L], their parameters, and the errors on the way (sums in weight units)."""

    codes: Tensor
    params: GroupParams
    history: list[float]
    improved: int


def _solve_groups(groups: Tensor, block: Tensor, start: int, name: str, config: ResolvedConfig) -> _Solved:
    low, high = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
    extremes = torch.maximum(-low, high)
    largest = float(extremes.max())
    if not largest < float("inf"):
        raise _not_finite(block, start, name)
    params = nearest_params(low, high, config.domain, config.preserve_zero, config.scale_dtype)
    steps = steps_from_zero(groups, params, config.domain, largest > HUGE)
    history: list[float] = []
    improved = 0
    if isinstance(config.options, HqqOptions):
        better = improve(steps, extremes, params, config.domain, config.scale_dtype, config.options)
        improved = better.improved
        params, history = GroupParams(params.scale, better.zero), better.history
        steps = steps_from_zero(groups, params, config.domain, largest > HUGE)
    codes = nearest_codes(steps, params, config.domain)
    if not history:
        history = [_absolute_error(steps, codes, params, config.domain)]
    return _Solved(codes, params, history, improved)


def _absolute_error(steps: Tensor, codes: Tensor, params: GroupParams, domain: Domain) -> float:
    """Return the sum of |w - w_r| in weight units; uses up `steps`."""
    offset = params.zero if domain == "int" and params.zero is not None else 8
    error = steps.add_(offset).sub_(codes).abs_().sum(1, keepdim=True)
    return float((error.double() * params.scale).sum())


class _Sink:
    """Collects solved blocks into one weight and one trace."""

    def __init__(self, weight: Tensor, config: ResolvedConfig) -> None:
        n, k = weight.shape
        count = group_count(k, config.group_size)
        zero_dtype = torch.uint8 if config.domain == "int" else config.scale_dtype
        self.config = config
        self.codes = torch.empty(n, k, dtype=torch.uint8, device=weight.device)
        self.scale = torch.empty(n, count, dtype=config.scale_dtype, device=weight.device)
        has_zero = config.domain != "symmetric"
        self.zero = torch.empty(n, count, dtype=zero_dtype, device=weight.device) if has_zero else None
        iterations = config.options.iters if isinstance(config.options, HqqOptions) else 0
        self.history = [0.0] * (iterations + 1)
        self.improved = 0

    def add(self, solved: _Solved, start: int, first: int, last: int) -> None:
        """Store the groups of columns first to last of a block of rows that begins at `start`."""
        size = self.config.group_size
        count = solved.codes.numel() // (last - first)
        rows, groups = slice(start, start + count), slice(first // size, -(-last // size))
        self.codes[rows, first:last] = solved.codes.view(count, last - first)
        self.scale[rows, groups] = solved.params.scale.view(count, -1).to(self.scale.dtype)
        if self.zero is not None and solved.params.zero is not None:
            self.zero[rows, groups] = solved.params.zero.view(count, -1).to(self.zero.dtype)
        self.history = [total + part for total, part in zip(self.history, solved.history, strict=True)]
        self.improved += solved.improved

    def result(self) -> SolveResult:
        weight = QuantizedWeight(self.codes, self.scale, self.zero, self.config.group_size, self.config.domain)
        count = max(1, self.codes.numel())
        errors = tuple(total / count for total in self.history)
        return SolveResult(weight, ErrorTrace("mean |error|", errors, self.scale.numel(), self.improved))


def _check_weight(weight: Tensor, name: str) -> None:
    if weight.ndim != 2 or not weight.is_floating_point():
        raise WeightError(
            f"{name} is {weight.dtype} {list(weight.shape)}.",
            allowed="a floating-point weight [out_features, in_features]",
        )
    if weight.is_meta:
        raise WeightError(f"{name} is on the meta device: it has no values.", mend="load the model's weights first")


def _not_finite(block: Tensor, start: int, name: str) -> WeightError:
    row, column = torch.nonzero(~torch.isfinite(block))[0].tolist()
    return WeightError(
        f"{name}[{start + row}, {column}] is {block[row, column].item()}.",
        allowed="finite weights",
        mend="repair the weight, or leave the layer dense with an exclude pattern",
    )
