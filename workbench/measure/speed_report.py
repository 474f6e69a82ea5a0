"""What is made of the points of a benchmark: speedups, the crossover, a table, JSON and CSV."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.errors import WorkbenchError
from workbench.measure.roofline import Roofline
from workbench.measure.timing import Environment
from workbench.printed import Printed
from workbench.records.speed import SpeedPoint

_WIDE, _FEW = 2.0, 0.1  # a spread that is no noise of an idle machine, and the share of points that may have it
_ABOVE_THE_ROOF = 1.1  # a share of the roofline that is no rounding


@dataclass(frozen=True)
class SpeedReport(Printed):
    """All points of a benchmark, and where they were taken.

    Attributes:
        points: One for each dtype, batch size, path and form.
        environment: Machine and versions.
        roofline: What the machine can do at best, or None where it was not measured.
        notes: What a person must know: what was left out, and why.
    """

    points: tuple[SpeedPoint, ...]
    environment: Environment
    roofline: Roofline | None = None
    notes: tuple[str, ...] = ()

    def speedups(self, dtype: str = "bfloat16") -> dict[int, float]:
        """Return batch size → dense time / int4 time (above 1: int4 is faster)."""
        return speedups(self.points, dtype)

    def crossover(self, dtype: str = "bfloat16") -> float | None:
        """Return the batch size from which dense is faster, or None when int4 wins at every one measured."""
        return crossover(self.speedups(dtype))

    def to_json(self) -> dict[str, Any]:
        """Return points, environment, roofline and notes as JSON types."""
        return {
            "environment": vars(self.environment),
            "roofline": None if self.roofline is None else self.roofline.to_json(),
            "notes": list(self.notes),
            "points": [point.to_json() for point in self.points],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SpeedReport:
        """Build from `to_json`'s dictionary.

        Raises:
            WorkbenchError: when it is no such dictionary.
        """
        try:
            roofline = data["roofline"]
            return cls(
                tuple(SpeedPoint.from_json(point) for point in data["points"]),
                Environment(**data["environment"]),
                None if roofline is None else Roofline.from_json(roofline),
                tuple(data["notes"]),
            )
        except (KeyError, TypeError) as error:
            raise WorkbenchError(f"This is no SpeedReport: {error!r}.", allowed="what to_json returns") from None

    def to_csv(self) -> str:
        """Return the points as CSV with a header line."""
        out = io.StringIO()
        if self.points:
            writer = csv.DictWriter(out, fieldnames=list(self.points[0].to_json()), lineterminator="\n")
            writer.writeheader()
            writer.writerows(point.to_json() for point in self.points)
        return out.getvalue()

    def __str__(self) -> str:
        """Median times by batch size, one table for each dtype, with the path that the layer chose."""
        where = self.environment
        lines = [f"{where.device_name}, {where.capability}, {where.threads} threads, torch {where.torch_version}"]
        if self.points:
            first = self.points[0]
            lines.append(f"{first.n} x {first.k}, group size {first.group_size}, on {first.device}; times in ms")
        if self.roofline is not None:
            lines.append(f"roofline: {self.roofline}")
        for dtype in dict.fromkeys(point.dtype for point in self.points):
            lines += ["", *_table([point for point in self.points if point.dtype == dtype])]
            ratios = self.speedups(dtype)
            if ratios:
                lines.append(verdict(ratios))
        return "\n".join([*lines, *(["", *(f"note: {note}" for note in self.notes)] if self.notes else [])])


def speedups(
    points: Sequence[SpeedPoint],
    dtype: str = "bfloat16",
    device: str | None = None,
    *,
    path: str = "int4",
    form: str = "eager",
) -> dict[int, float]:
    """Return batch size → dense eager time over a path's time, for the batch sizes where both were measured.

    Args:
        points: Measured points.
        dtype: dtype of the activations.
        device: "cpu" or "cuda", or None for points of one device.
        path: What is compared with dense: our layer, unless another is named.
        form: Its form: "eager" or "compiled".
    """
    chosen = [p for p in points if p.dtype == dtype and device in (None, p.device)]
    dense = {p.batch: p.time_ms for p in chosen if (p.path, p.form) == ("dense", "eager")}
    return {
        p.batch: dense[p.batch] / p.time_ms for p in chosen if (p.path, p.form) == (path, form) and p.batch in dense
    }


def crossover(ratios: Mapping[int, float]) -> float | None:
    """Return the batch size where a speedup falls through 1, between measured ones on a log scale, or None."""
    batches = sorted(ratios)
    if batches and ratios[batches[0]] < 1:
        return float(batches[0])
    for low, high in itertools.pairwise(batches):
        if ratios[low] >= 1 > ratios[high]:
            share = (ratios[low] - 1) / (ratios[low] - ratios[high])
            return float(low * (high / low) ** share)
    return None


def faster_again(ratios: Mapping[int, float]) -> list[int]:
    """Return the batch sizes beyond the crossover at which int4 is at least as fast as dense all the same."""
    cross = crossover(ratios)
    return [batch for batch in sorted(ratios) if cross is not None and batch > cross and ratios[batch] >= 1]


def verdict(ratios: Mapping[int, float]) -> str:
    """Say in a line where int4 is faster than dense; `ratios` as `speedups` returns them, not empty."""
    first, last = min(ratios), max(ratios)
    found = f"int4 is {ratios[first]:.2f}x dense at batch {first}"
    cross = crossover(ratios)
    if cross is None:
        return f"{found}, and at least as fast at every batch size measured (up to {last})"
    again = faster_again(ratios)
    but = f", but not at {', '.join(map(str, again))}" if again else ""
    if cross == first:
        return f"{found}: dense is faster from there{but}"
    return f"{found}; dense is faster from a batch of about {cross:.0f}{but} ({ratios[last]:.2f}x at {last})"


def doubts(points: Sequence[SpeedPoint]) -> list[str]:
    """Say what gives reason to measure again: times of other work, in the points or in the roofline."""
    found = []
    wide = sum(point.p90_ms > _WIDE * point.p10_ms for point in points)
    if wide > len(points) * _FEW:
        found.append(f"{wide} of {len(points)} times spread by more than a factor of {_WIDE:g} (p10 to p90)")
    above = sum((point.roofline_share or 0) > _ABOVE_THE_ROOF for point in points)
    if above:
        found.append(f"{above} of {len(points)} times beat the roofline")
    return [f"{' and '.join(found)}: other work runs on this machine; measure again when it is idle"] if found else []


def _table(points: Sequence[SpeedPoint]) -> list[str]:
    """A line for each batch size of one dtype: our layer first, then what it is compared with."""
    names = list(dict.fromkeys(point.name for point in points))
    ratios = speedups(points, points[0].dtype)
    ours = {point.batch: point for point in points if point.name == "int4"}
    wide = [max(9, len(name) + 2) for name in names]
    extra = f"  {'chose':<10} {'speedup':>8} {'of roof':>8}" if ours else ""
    lines = [points[0].dtype, f"{'batch':>6}" + "".join(f"{n:>{w}}" for n, w in zip(names, wide, strict=True)) + extra]
    for batch in dict.fromkeys(point.batch for point in points):
        times = {point.name: point.time_ms for point in points if point.batch == batch}
        cells = (f"{times[n]:>{w}.4g}" if n in times else f"{'-':>{w}}" for n, w in zip(names, wide, strict=True))
        line = f"{batch:>6}" + "".join(cells)
        if batch in ours:
            share = ours[batch].roofline_share
            ratio = f"{ratios[batch]:.2f}x" if batch in ratios else "-"
            line += f"  {ours[batch].chosen_path:<10} {ratio:>8} {'-' if share is None else f'{share:.0%}':>8}"
        lines.append(line)
    return lines
