"""One group of one row, weight by weight, in each way of quantizing it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

from workbench.records.record import Record


@dataclass(frozen=True)
class MicroscopeVariant(Record):
    """The 16 levels that one way of quantizing gives a group; without levels and numbers where there is no such way.

    Attributes:
        domain: Where the zero point lives.
        preserve_zero: Whether the group's range is widened to contain 0.
        solver: What finds the codes.
        reason: Why there is no such variant, or "".
        levels: Values of the codes 0 to 15, in weight units.
        codes: Code of each weight.
        scale: Weight units per code, as stored.
        zero: As stored: float domain: the value of code 8; int domain: the code of 0; symmetric: None.
        rms: RMS error, in weight units.
        mean_abs: Mean |error|, in weight units.
        max_abs: Largest |error|, in weight units.
        rms_ratio: `rms` over that of round-to-nearest in the same domain with the same `preserve_zero`.
        mean_abs_ratio: The same of `mean_abs`.
        max_abs_ratio: The same of `max_abs`.
        bits_per_weight: Bits per weight, the group's scale and zero point included.
        zero_level: The level nearest to 0, in weight units: where 0 lands; 0.0 keeps it exact.
        notes: What the solver said, for instance that it fell back to another.
    """

    domain: str
    preserve_zero: bool
    solver: str
    reason: str = ""
    levels: tuple[float, ...] = ()
    codes: tuple[int, ...] = ()
    scale: float | None = None
    zero: float | None = None
    rms: float | None = None
    mean_abs: float | None = None
    max_abs: float | None = None
    rms_ratio: float | None = None
    mean_abs_ratio: float | None = None
    max_abs_ratio: float | None = None
    bits_per_weight: float | None = None
    zero_level: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Microscope(Record):
    """One group of one row, and the levels that each variant gives it.

    Attributes:
        name: Module path.
        row: Output feature.
        group: Group along in_features.
        first_column: Input feature of the group's first weight.
        group_size: Weights per group; the last group of a row can have fewer.
        weights: The group's weights, in weight units.
        variants: Every variant that was asked for, by domain, `preserve_zero` and solver.
        current: Place in `variants` of the settings that the layer has, or None when it is not among them.
    """

    name: str
    row: int
    group: int
    first_column: int
    group_size: int
    weights: tuple[float, ...]
    variants: tuple[MicroscopeVariant, ...]
    current: int | None = None

    @property
    def solved(self) -> tuple[MicroscopeVariant, ...]:
        """The variants that have levels."""
        return tuple(variant for variant in self.variants if variant.levels)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return {**super().to_json(), "variants": [variant.to_json() for variant in self.variants]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Build from `to_json`'s dictionary.

        Raises:
            WorkbenchError: when a field is missing or unknown.
        """
        made = super().from_json(data)
        variants = tuple(MicroscopeVariant.from_json(variant) for variant in data["variants"])
        return dataclasses.replace(made, variants=variants)
