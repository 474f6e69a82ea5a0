"""Which way an int4 product takes: the table of measured times by batch size, and the choice made of it.

"op": PyTorch's int4 op, best for few rows of activations. "fused": a kernel of ours that dequantizes in the cache and
multiplies there. "dequantize": blocks of the weight made dense in a scratch and multiplied by the dense kernels.

`tune` (workbench/tuning.py) measures a table for a machine, and workbench/path_store.py keeps it; before that, and for
shapes that nobody measured, defaults hold for machines of its kind. The choice is a pure function of the table.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from workbench.errors import WorkbenchError
from workbench.printed import Printed

PathName = Literal["op", "fused", "dequantize"]
PATHS: tuple[PathName, ...] = ("op", "fused", "dequantize")
_FORMAT = 1
_UNMEASURED = 50.0  # of a log: a path is not taken where it was not measured
_EQUAL = 1e-9  # of a log: times that differ by less are equal
_NEAR = math.log(4)  # a shape speaks for others up to four times as large or as small, in N and in K

Step = tuple[float, PathName]  # up to this batch, this path

# By kind of machine: the path up to each batch; the last is without end. Those of "cpu/amx" and "cpu/none" were
# measured (benchmarks/int4_linear.py), those of "cpu/avx512_bf16" on such a machine with its matrix unit left out (of
# torch's products by ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 too), those of "cuda/hopper" on an H200
# (benchmarks/README.md); the others are estimates.
DEFAULTS: dict[str, tuple[Step, ...]] = {
    "cpu/amx": ((512, "fused"), (math.inf, "dequantize")),
    "cpu/avx512_bf16": ((6, "fused"), (8, "op"), (math.inf, "fused")),
    "cpu/dequantize": ((16, "op"), (math.inf, "dequantize")),
    "cpu/none": ((56, "op"), (math.inf, "dequantize")),
    "cpu/scalar": ((1, "op"), (math.inf, "dequantize")),  # builds without vector instructions: the op is a plain loop
    "cuda/hopper": ((1536, "fused"), (math.inf, "dequantize")),
    "cuda/triton": ((512, "fused"), (math.inf, "dequantize")),
    "cuda": ((64, "op"), (math.inf, "dequantize")),
    "other": ((math.inf, "dequantize"),),
}


@dataclass(frozen=True)
class MeasuredPath:
    """The measured time of one path.

    Attributes:
        dtype: dtype of the activations, for instance "bfloat16".
        n: out_features.
        k: in_features.
        group_size: Weights per group.
        batch: Rows of the activations.
        path: "op", "fused" or "dequantize".
        time_ms: Time of a call, in milliseconds: the lower quartile (see `workbench.tuning`).
    """

    dtype: str
    n: int
    k: int
    group_size: int
    batch: int
    path: PathName
    time_ms: float


_Shape = tuple[str, int, int, int]


@dataclass(frozen=True, eq=False)
class PathTable(Printed):
    """What is known of the speed of the paths on one device of one machine.

    Attributes:
        kind: Key of `DEFAULTS`: what this device is.
        machine: What the times hold for: device, instruction set, cores, versions.
        points: Measured times; empty for the defaults alone.
        note: Where the table comes from, and what was ignored, in a sentence.
    """

    kind: str
    machine: dict[str, str] = field(default_factory=dict)
    points: tuple[MeasuredPath, ...] = ()
    note: str = "built-in defaults; wb.tune() measures this machine"
    _steps: dict[_Shape, tuple[Step, ...]] = field(init=False, repr=False)
    _near: dict[_Shape, tuple[Step, ...]] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in DEFAULTS:
            raise WorkbenchError(f"kind={self.kind!r} of a table of paths.", allowed=", ".join(DEFAULTS))
        object.__setattr__(self, "_steps", _steps_of(self.points))

    def steps(self, dtype: str, n: int, k: int, group_size: int) -> tuple[Step, ...]:
        """Return (up to this batch, path) in order for a shape: its own, the nearest measured one's or the defaults."""
        shape = (dtype, n, k, group_size)
        found = self._near.get(shape)
        if found is None:
            found = self._near[shape] = self._steps.get(_nearest(shape, self._steps) or shape, DEFAULTS[self.kind])
        return found

    def __str__(self) -> str:
        """The path by batch of each measured shape, or of the defaults."""
        lines = [f"{_said(*shape)}: {_steps_said(steps)}" for shape, steps in sorted(self._steps.items())]
        rest = "all other shapes" if lines else "all shapes"
        return "\n".join([f"int4 paths: {self.note}", *lines, f"{rest}: {_steps_said(DEFAULTS[self.kind])}"])

    def to_json(self) -> dict[str, Any]:
        """Return the table as JSON types."""
        return {
            "format": _FORMAT,
            "kind": self.kind,
            "machine": self.machine,
            "points": [asdict(point) for point in self.points],
        }

    @classmethod
    def from_json(cls, data: Any, note: str = "") -> PathTable:
        """Return the table of what `to_json` returned.

        Raises:
            WorkbenchError: when it is no such table.
        """
        try:
            if data["format"] != _FORMAT:
                raise ValueError(f"format {data['format']!r}")
            points = tuple(MeasuredPath(**point) for point in data["points"])
            for point in points:
                whole = min(point.n, point.k, point.group_size, point.batch) >= 1
                if point.path not in PATHS or not whole or not 0 < point.time_ms < math.inf:
                    raise ValueError(f"{point}")
            machine = {str(key): str(value) for key, value in data["machine"].items()}
            return cls(data["kind"], machine, points, note)
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise WorkbenchError(
                f"This is no table of measured paths: {error!r}.",
                allowed="the file that wb.tune() writes",
                mend="run wb.tune() again",
            ) from None


def choose_path(table: PathTable, *, dtype: str, n: int, k: int, group_size: int, batch: int) -> PathName:
    """Return the fastest path for `batch` rows of activations, by the table alone.

    Args:
        table: The device's table.
        dtype: dtype of the activations, for instance "bfloat16".
        n: out_features.
        k: in_features.
        group_size: Weights per group.
        batch: Rows of the activations.
    """
    steps = table.steps(dtype, n, k, group_size)
    return next(path for up_to, path in steps if batch <= up_to)


def _said(dtype: str, n: int, k: int, group_size: int) -> str:
    return f"{n} × {k}, group size {group_size}, {dtype}"


def _steps_said(steps: tuple[Step, ...]) -> str:
    parts = [f"{path} up to a batch of {up_to:.0f}" if up_to < math.inf else f"{path} beyond" for up_to, path in steps]
    return ", ".join(parts) if len(parts) > 1 else f"{steps[0][1]} at every batch"


def _steps_of(points: Iterable[MeasuredPath]) -> dict[_Shape, tuple[Step, ...]]:
    by_shape: dict[_Shape, dict[int, dict[PathName, float]]] = {}
    for point in points:
        shape = (point.dtype, point.n, point.k, point.group_size)
        by_shape.setdefault(shape, {}).setdefault(point.batch, {})[point.path] = point.time_ms
    return {shape: _steps_of_shape(times) for shape, times in by_shape.items()}


def _steps_of_shape(times: dict[int, dict[PathName, float]]) -> tuple[Step, ...]:
    """Find up to which batch each path is best; as batches grow the op comes first, then fused, then dequantize.

    Keeping that order, what is left over the fastest path at each measured batch is least in all, on a log scale: one
    time that something disturbed changes little. Where several orders leave as little, paths were equally fast, and the
    change is in the middle of them: none is preferred. Between measured batches times run straight on log scales.
    """
    batches = sorted(times)
    ends = itertools.combinations_with_replacement(range(len(batches) + 1), len(PATHS) - 1)
    orders = [[PATHS[sum(place >= end for end in found)] for place in range(len(batches))] for found in ends]
    over = [_left_over(batches, times, order) for order in orders]
    equal = [order for order, left in zip(orders, over, strict=True) if left <= min(over) + _EQUAL]
    equal.sort(key=lambda order: [PATHS.index(path) for path in order])
    best = equal[(len(equal) - 1) // 2]
    steps = [
        (_meeting(low, high, times, first, last), first)
        for (low, first), (high, last) in itertools.pairwise(zip(batches, best, strict=True))
        if first != last
    ]
    return (*steps, (math.inf, best[-1]))


def _left_over(batches: list[int], times: dict[int, dict[PathName, float]], order: list[PathName]) -> float:
    over = 0.0
    for batch, path in zip(batches, order, strict=True):
        ratio = times[batch].get(path, math.inf) / min(times[batch].values())
        over += min(math.log(ratio), _UNMEASURED)
    return over


def _meeting(low: int, high: int, times: dict[int, dict[PathName, float]], first: PathName, last: PathName) -> float:
    """Return the batch where two paths take equal time, on log scales, or the middle where one lacks a time."""
    share = 0.5
    if last in times[low] and first in times[high]:
        lead = math.log(times[low][last] / times[low][first])
        loss = math.log(times[high][first] / times[high][last])
        share = lead / (lead + loss) if lead > 0 < loss else 0.5
    return float(low * (high / low) ** share)


def _nearest(shape: _Shape, known: Iterable[_Shape]) -> _Shape | None:
    """Return the nearest measured shape of the same dtype, or None where all are too far."""
    dtype, n, k, group_size = shape

    def distances(other: _Shape) -> tuple[float, float, float]:
        return abs(math.log(n / other[1])), abs(math.log(k / other[2])), abs(math.log(group_size / other[3]))

    near = [other for other in known if other[0] == dtype and max(distances(other)[:2]) <= _NEAR]
    return min(near, key=lambda other: (sum(distances(other)[:2]), distances(other)[2], other), default=None)
