"""The layer whose speed of decoding stands for a model: of the shape that most of its int4 weights have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from workbench.coverage.coverage import Coverage
from workbench.measure.roofline import DTYPES
from workbench.records.layers import CoverageRow
from workbench.session.given import Given, int4_rows


@dataclass(frozen=True)
class Target:
    """What is measured: the shape that most int4 weights are of, with the group size that most of them have."""

    n: int
    k: int
    group_size: int
    device: str
    dtype: str


def target_of(coverage: Coverage, dtypes: Mapping[str, str], device: str, given: Given | None = None) -> Target | None:
    """Return the shape that most int4 weights are of, or None where there are none.

    Args:
        coverage: What becomes of every weight.
        dtypes: Name of a weight → name of its dtype.
        device: "cpu", "cuda", ….
        given: What came int4 already, and is measured then.
    """
    if given is not None:
        forms = [(row, given.forms[row.name]) for row in int4_rows(coverage)]
        return _usual([(row, form.group_size, form.scale_dtype) for row, form in forms], device)
    rows = coverage.int4_rows
    return _usual([(row, coverage.configs[row.name].group_size, dtypes[row.name]) for row in rows], device)


def _usual(rows: list[tuple[CoverageRow, int, str]], device: str) -> Target | None:
    """Return the shape that most weights are of, with the group size and the dtype that most of those have."""
    held: Counter[tuple[int, int, int, str]] = Counter()
    weights: Counter[tuple[int, int]] = Counter()
    for row, group_size, dtype in rows:
        n, k = row.shape[-2:]
        weights[n, k] += row.parameters
        held[n, k, group_size, dtype] += row.parameters
    if not weights:
        return None
    shape = weights.most_common(1)[0][0]
    of_shape = Counter({one: count for one, count in held.items() if one[:2] == shape})
    n, k, group_size, dtype = of_shape.most_common(1)[0][0]
    return Target(n, k, group_size, device, dtype if dtype in DTYPES else "bfloat16")
