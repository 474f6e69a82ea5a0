"""How a weight was quantized, and with what error."""

from __future__ import annotations

import math
from dataclasses import dataclass

from workbench.records.record import Record

_OBJECTIVE_UNITS = {
    "mean |error|": "weight units",
    "mean squared error": "squared weight units",
    "mean squared output error": "squared output units",
}


@dataclass(frozen=True)
class ErrorTrace(Record):
    """How a solver came to its result, in its own objective, judged as it is stored.

    Attributes:
        objective: What is measured, for instance "mean |error|" or "mean squared error".
        values: Best so far over all weights: round-to-nearest first, then after each step of the solver (none for
            round-to-nearest itself).
        groups: Number of groups.
        improved_groups: Groups whose result is better than round-to-nearest.
    """

    objective: str
    values: tuple[float, ...]
    groups: int
    improved_groups: int

    @property
    def rtn_error(self) -> float:
        """The objective of round-to-nearest, rounded as it is stored."""
        return self.values[0]

    @property
    def error(self) -> float:
        """The objective of the result."""
        return self.values[-1]

    @property
    def relative(self) -> tuple[float, ...]:
        """The values over round-to-nearest's; all 1 where that is exact or beyond what a float holds."""
        first = self.rtn_error
        comparable = 0 < first < math.inf
        return tuple(value / first if comparable else 1.0 for value in self.values)

    @property
    def unit(self) -> str:
        """Unit of the values, or "" for an objective that needs none."""
        return _OBJECTIVE_UNITS.get(self.objective, "")


@dataclass(frozen=True)
class LayerResult(Record):
    """How one layer was quantized, and with what error.

    Attributes:
        name: Module path.
        solver: The solver that found the codes: the one asked for, or what it fell back to.
        domain: Where the zero point lives.
        group_size: Weights per group.
        objective: What `error` measures: the solver's own objective.
        error: Error of what is stored.
        rtn_error: Error of round-to-nearest, as it would be stored.
        trace: Best error so far: round-to-nearest first, then after each step of the solver.
        seconds: Time that solving took, in seconds.
        notes: What a person must know: a fall-back and its reason, rows that keep round-to-nearest, damping.
    """

    name: str
    solver: str
    domain: str
    group_size: int
    objective: str
    error: float
    rtn_error: float
    trace: tuple[float, ...]
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ErrorSummary(Record):
    """The error of a whole weight.

    Attributes:
        mse: Mean squared error, in squared weight units.
        rmse: Its root, in weight units.
        mean_abs: Mean |error|, in weight units.
        max_abs: Largest |error|, in weight units.
        max_at: (row, column) of the largest |error|.
        sqnr_db: Signal to quantization noise, 10 log10(sum w^2 / sum e^2), in dB; infinite for no error.
        relative_rmse: RMS error over RMS weight.
        bits_per_weight: Bits per weight, scales and zero points included.
        count: Number of weights.
    """

    mse: float
    rmse: float
    mean_abs: float
    max_abs: float
    max_at: tuple[int, int]
    sqnr_db: float
    relative_rmse: float
    bits_per_weight: float
    count: int


@dataclass(frozen=True)
class ErrorMap(Record):
    """A picture of a weight at screen size.

    A code c stands for lo + (hi - lo) c/255, or, if log, for lo (hi/lo)^(c/255).

    Attributes:
        values: uint8 codes, rows x cols bytes, row by row.
        rows: Rows of the picture.
        cols: Columns of the picture.
        lo: Value of code 0, in `unit`.
        hi: Value of code 255, in `unit`.
        unit: What the values are.
        log: Whether the codes are logarithmic.
        row_span: Original rows a cell stands for.
        col_span: Original columns (groups, for all but the weights themselves) a cell stands for.
        total_rows: Original rows.
        total_cols: Original columns or groups.
        reduce: "max", "mean", "min", or "none" where nothing was reduced.
        metric: What is shown.
    """

    values: bytes
    rows: int
    cols: int
    lo: float
    hi: float
    unit: str
    log: bool
    row_span: int
    col_span: int
    total_rows: int
    total_cols: int
    reduce: str
    metric: str


@dataclass(frozen=True)
class Histogram(Record):
    """Counts of weights and of errors, each in even bins over [-limit, limit].

    Attributes:
        bins: Number of bins.
        limit: Largest |weight|.
        counts: Weights in each bin.
        error_limit: Largest |error|.
        error_counts: Errors in each bin.
    """

    bins: int
    limit: float
    counts: tuple[int, ...]
    error_limit: float
    error_counts: tuple[int, ...]
