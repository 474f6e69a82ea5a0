"""What every solver returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from workbench.affine import QuantizedWeight
from workbench.options import SolverName
from workbench.records.errors import ErrorTrace


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


def stacked(parts: Sequence[SolveResult]) -> SolveResult:
    """Join the results of the experts of a stack: rows after rows, means of the objective weighted by groups."""
    first, weights = parts[0], [part.weight for part in parts]
    zeros = [weight.zero for weight in weights if weight.zero is not None]
    codes, scale = torch.cat([weight.codes for weight in weights]), torch.cat([weight.scale for weight in weights])
    weight = replace(first.weight, codes=codes, scale=scale, zero=torch.cat(zeros) if zeros else None)
    notes = tuple(dict.fromkeys(note for part in parts for note in part.notes))
    return SolveResult(weight, _joined_trace([part.trace for part in parts]), first.solver, notes)


def _joined_trace(traces: Sequence[ErrorTrace]) -> ErrorTrace:
    groups, longest = sum(trace.groups for trace in traces), max(len(trace.values) for trace in traces)
    values = []
    for step in range(longest):  # one that needed fewer steps stays at its last
        at = [trace.values[min(step, len(trace.values) - 1)] * trace.groups for trace in traces]
        values.append(sum(at) / max(1, groups))
    improved = sum(trace.improved_groups for trace in traces)
    return ErrorTrace(traces[0].objective, tuple(values), groups, improved)
