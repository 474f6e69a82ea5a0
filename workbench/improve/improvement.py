"""What Improve found: the better recipe, from what error to what error, and what changed in which layers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from workbench.config import ResolvedConfig
from workbench.recipe.recipe import Recipe
from workbench.records.record import Record

WEIGHT_ERROR, OUTPUT_ERROR = "weight error", "output error"
_INDEX = re.compile(r"(?<![^.])\d+(?![^.])")


@dataclass(frozen=True)
class LayerChange(Record):
    """What Improve changed in one layer.

    Attributes:
        name: Module path.
        before: The settings as they were, in a few words.
        after: The settings now.
        error_before: RMS error over the RMS of what the improvement's objective is about, before.
        error_after: The same now.
        bytes_before: Bytes before, scales and zero points included.
        bytes_after: Bytes now.
    """

    name: str
    before: str
    after: str
    error_before: float
    error_after: float
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True)
class Improvement:
    """What Improve found.

    Attributes:
        recipe: The better recipe; the one that was given, where nothing is better.
        objective: What the errors are: "weight error" or "output error".
        error_before: Root of the mean over the int4 layers of their relative squared errors, as they were; all rows.
        error_after: The same under `recipe`.
        bytes_before: Bytes of the model as it was.
        bytes_after: Bytes under `recipe`: never more.
        tried: How many settings of layers were tried.
        seconds: Time that it took, in seconds.
        changes: What changed, in the order of the model; empty where nothing is better.
        notes: What a person must know.
    """

    recipe: Recipe
    objective: str
    error_before: float
    error_after: float
    bytes_before: int
    bytes_after: int
    tried: int
    seconds: float
    changes: tuple[LayerChange, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def gain(self) -> float:
        """Share of the error that is gone, 0 to 1."""
        return 1 - self.error_after / self.error_before if self.error_before > 0 else 0.0

    def __str__(self) -> str:
        """Say it in a line."""
        if not self.changes:
            return f"Nothing better at this size: {self.tried:,} settings were tried."
        where = "the same size" if self.bytes_after == self.bytes_before else "a smaller size"
        layers = "1 layer" if len(self.changes) == 1 else f"{len(self.changes)} layers"
        errors = f"{self.error_before:.2%} → {self.error_after:.2%}"
        return f"{self.gain:.1%} less {self.objective} at {where} ({errors}): {layers} changed."


@dataclass(frozen=True)
class SoFar:
    """What would change by what is known while the search goes on; nothing is changed yet.

    Attributes:
        objective: What the errors are: "weight error" or "output error".
        error_before: Root of the mean over the layers tried so far of their relative squared errors, as they are.
        error_after: The same with the changes.
        tried_layers: Layers tried so far.
        layers: All layers that become int4.
        exact: Whether that is of all rows; else it is of the rows that were sampled.
        changes: What would change so far.
    """

    objective: str
    error_before: float
    error_after: float
    tried_layers: int
    layers: int
    exact: bool
    changes: tuple[LayerChange, ...] = ()

    @property
    def gain(self) -> float:
        """Share of the error that would be gone, 0 to 1."""
        return 1 - self.error_after / self.error_before if self.error_before > 0 else 0.0


def said(config: ResolvedConfig) -> str:
    """Say a layer's settings in a few words: "g64 float rtn"."""
    usual = config.domain != "float"
    words = "" if config.preserve_zero == usual else ", 0 exact" if config.preserve_zero else ", 0 free"
    return f"g{config.group_size} {config.domain} {config.solver}{words}"


def staying(names: Sequence[str]) -> str:
    """Say that layers stay as they are: "a stays as it is", "a, b and 4 more stay as they are"."""
    some = ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} more"
    return f"{some} {'stays as it is' if len(names) == 1 else 'stay as they are'}"


@dataclass(frozen=True)
class ChangeGroup:
    """Layers that differ by an index alone and changed alike.

    Attributes:
        pattern: Their name, "*" for each index; the name itself for a single layer.
        names: Their module paths.
        before: The settings as they were.
        after: The settings now.
        error_before: Root of the mean of their relative squared errors, before.
        error_after: The same now.
        bytes_before: Bytes of all of them before.
        bytes_after: Bytes now.
    """

    pattern: str
    names: tuple[str, ...]
    before: str
    after: str
    error_before: float
    error_after: float
    bytes_before: int
    bytes_after: int


def grouped(changes: Iterable[LayerChange]) -> list[ChangeGroup]:
    """Return the changes, those of layers that differ by an index alone and changed alike as one."""
    alike: dict[tuple[str, str, str], list[LayerChange]] = {}
    for change in changes:
        alike.setdefault((_INDEX.sub("*", change.name), change.before, change.after), []).append(change)
    found = []
    for (pattern, before, after), of in alike.items():
        names = tuple(one.name for one in of)
        errors = _mean([one.error_before for one in of]), _mean([one.error_after for one in of])
        sizes = sum(one.bytes_before for one in of), sum(one.bytes_after for one in of)
        found.append(ChangeGroup(pattern if len(of) > 1 else names[0], names, before, after, *errors, *sizes))
    return found


def _mean(errors: Sequence[float]) -> float:
    """Return the root of the mean of the squares."""
    return math.sqrt(sum(error**2 for error in errors) / len(errors))
