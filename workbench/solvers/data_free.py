"""The solvers that look at the weight alone, block by block of rows.

All arithmetic is float32, in blocks of rows, so that one layer of any size needs little memory beside its result. Each
thread takes whole blocks and stores what it finds; a group's result depends on its own weights only, so neither the
order of the rows nor the number of threads nor the size of a block changes it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import Tensor

from workbench.affine import QuantizedWeight, group_count
from workbench.config import Domain, ResolvedConfig
from workbench.options import HqqOptions, RefinedOptions
from workbench.records.errors import ErrorTrace
from workbench.solvers.hqq import improve
from workbench.solvers.refined import refine
from workbench.solvers.result import SolveResult
from workbench.solvers.row_blocks import iter_row_blocks, not_finite
from workbench.solvers.rtn import HUGE, GroupParams, Improved, nearest_codes, nearest_params, steps_from_zero

# Most weights that a thread solves at a time. The interpreter hands each call from thread to thread: few long ones beat
# many short ones that stay in cache. All threads together take no more than their share of memory allows.
_BLOCK_WEIGHTS = {"cpu": 1 << 20, "cuda": 1 << 25}
_ALL_THREADS = 1 << 21
_LEAST_OF_MANY = 1 << 18
_LEAST_WEIGHTS = 1 << 14  # smaller blocks cost more in calls than they gain from a second thread


def solve_data_free(
    weight: Tensor,
    config: ResolvedConfig,
    *,
    name: str = "weight",
    cancel: threading.Event | None = None,
    progress: Callable[[float], None] | None = None,
) -> SolveResult:
    """Quantize one weight by itself: "rtn", "hqq" or "refined".

    Args:
        weight: Any float dtype [N, K].
        config: Everything resolved.
        name: What the weight is called in errors.
        cancel: Set it to stop between blocks of rows.
        progress: Called with the share of rows done, 0 to 1, after each block.

    Raises:
        WeightError: when the weight holds NaN or infinity (with its position).
        Cancelled: when `cancel` was set.
    """
    n, k = weight.shape
    result = _Result(weight, config)
    rows = _rows_at_a_time(weight)

    def solve_rows(start: int) -> list[Improved]:
        block = weight.detach()[start : start + rows].float()
        found = []
        for first, last, length in _parts(k, config.group_size):
            groups = block[:, first:last].reshape(-1, length)
            improved, codes = solve_groups(groups, config, block, start, name)
            result.store(improved.params, codes, start, first, last)
            found.append(improved)
        return found

    for found in iter_row_blocks(solve_rows, n, rows, weight.device, name, cancel, progress):
        for part in found:
            result.count(part)
    return result.finished()


def solve_groups(
    groups: Tensor, config: ResolvedConfig, block: Tensor, start: int, name: str
) -> tuple[Improved, Tensor]:
    """Solve groups of weights.

    Args:
        groups: float32 [C, L].
        config: Everything resolved.
        block: The rows that they are of, float32, for errors that name a position.
        start: Number of its first row.
        name: What the weight is called in errors.

    Returns:
        What the solver found, and the codes, float32 [C, L] with whole numbers 0..15.

    Raises:
        WeightError: when a weight is NaN or infinite.
    """
    low, high = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
    extremes = torch.maximum(-low, high)
    largest = float(extremes.max())
    if not largest < float("inf"):
        row, column = torch.nonzero(~torch.isfinite(block))[0].tolist()
        raise not_finite(name, start + row, column, block[row, column], "leave the layer dense with an exclude pattern")
    params = nearest_params(low, high, config.domain, config.preserve_zero, config.scale_dtype)
    huge = largest > HUGE
    found: Improved | None = None
    if isinstance(config.options, HqqOptions):
        steps = steps_from_zero(groups, params, config.domain, huge)
        found = improve(steps, extremes, params, config.domain, config.scale_dtype, config.options)
    elif isinstance(config.options, RefinedOptions):
        found = refine(groups, low, high, params, config)
    params = params if found is None else found.params
    steps = steps_from_zero(groups, params, config.domain, huge)
    codes = nearest_codes(steps, params, config.domain)
    if found is None:
        found = Improved(params, 0, [_absolute_error(steps, codes, params, config.domain)])
    return found, codes


def objective(config: ResolvedConfig) -> str:
    """Say what a solver that looks at the weight alone minimizes, and its trace measures."""
    if not isinstance(config.options, RefinedOptions):
        return "mean |error|"
    norm = config.options.norm
    return "mean |error|" if norm == 1 else "mean squared error" if norm == 2 else f"mean |error|^{norm:g}"


def _rows_at_a_time(weight: Tensor) -> int:
    """Rows of a block: what fits the cache, and less of a small weight, so that all threads have work."""
    n, k = weight.shape
    block = _BLOCK_WEIGHTS.get(weight.device.type, 1 << 18)
    if weight.device.type != "cpu":
        return max(1, block // max(1, k))
    threads = torch.get_num_threads()
    block = min(block, max(_LEAST_OF_MANY, _ALL_THREADS // threads))
    return min(max(1, block // max(1, k)), max(-(-_LEAST_WEIGHTS // max(1, k)), -(-n // threads)))


def _parts(k: int, group_size: int) -> list[tuple[int, int, int]]:
    """Split a row into its whole groups and its short last one: (first column, last, length of a group)."""
    whole = k - k % group_size
    parts = [(0, whole, group_size), (whole, k, k - whole)]
    return [part for part in parts if part[1] > part[0]]


def _absolute_error(steps: Tensor, codes: Tensor, params: GroupParams, domain: Domain) -> float:
    """Return the sum of |w - w_r| in weight units; uses up `steps`."""
    offset = params.zero if domain == "int" and params.zero is not None else 8
    error = steps.add_(offset).sub_(codes).abs_().sum(1, keepdim=True)
    return float((error.double() * params.scale).sum())


class _Result:
    """Where threads store the rows that they solved, and the sums over them."""

    def __init__(self, weight: Tensor, config: ResolvedConfig) -> None:
        n, k = weight.shape
        count = group_count(k, config.group_size)
        zero_dtype = torch.uint8 if config.domain == "int" else config.scale_dtype
        self._config = config
        self._codes = torch.empty(n, k, dtype=torch.uint8, device=weight.device)
        self._scale = torch.empty(n, count, dtype=config.scale_dtype, device=weight.device)
        has_zero = config.domain != "symmetric"
        self._zero = torch.empty(n, count, dtype=zero_dtype, device=weight.device) if has_zero else None
        self._history: list[float] = []
        self._improved = 0

    def store(self, params: GroupParams, codes: Tensor, start: int, first: int, last: int) -> None:
        """Store groups of the columns first to last of a block of rows that begins at `start` (any thread)."""
        size = self._config.group_size
        count = codes.numel() // (last - first)
        rows, groups = slice(start, start + count), slice(first // size, -(-last // size))
        self._codes[rows, first:last] = codes.view(count, last - first)
        self._scale[rows, groups] = params.scale.view(count, -1).to(self._scale.dtype)
        if self._zero is not None and params.zero is not None:
            self._zero[rows, groups] = params.zero.view(count, -1).to(self._zero.dtype)

    def count(self, part: Improved) -> None:
        """Add up what was found; in the order of the rows, so that the sums are the same every time."""
        if not self._history:
            self._history = [0.0] * len(part.history)
        self._history = [total + new for total, new in zip(self._history, part.history, strict=True)]
        self._improved += part.improved

    def finished(self) -> SolveResult:
        config = self._config
        weight = QuantizedWeight(self._codes, self._scale, self._zero, config.group_size, config.domain, config.form)
        count = max(1, self._codes.numel())
        errors = tuple(total / count for total in self._history or [0.0])
        trace = ErrorTrace(objective(self._config), errors, self._scale.numel(), self._improved)
        return SolveResult(weight, trace, self._config.solver)
