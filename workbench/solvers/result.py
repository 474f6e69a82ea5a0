"""What every solver returns."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.affine import QuantizedWeight
from workbench.options import SolverName
from workbench.records import ErrorTrace


@dataclass(frozen=True, eq=False)
class SolveResult:
    """A solved weight and how the solver came to it.

    Attributes:
        weight: The portable int4 weight.
        trace: The objective on the way, round-to-nearest first.
        solver: The solver that found it: the one asked for, or what it fell back to.
        notes: What a person must know: a fall-back and its reason, rows that keep round-to-nearest, damping.
    """

    weight: QuantizedWeight
    trace: ErrorTrace
    solver: SolverName
    notes: tuple[str, ...] = ()
