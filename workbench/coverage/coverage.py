"""The coverage of a model under a recipe: a row for each weight, totals, and a line that says them."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from workbench.config import ResolvedConfig
from workbench.coverage.words import coverage_html, held_as
from workbench.kinds import INT4, QUANTIZABLE_KINDS
from workbench.printed import Printed
from workbench.records.layers import CoverageRow
from workbench.sizes import size

ALREADY = "int4 already"
STACKED = "stacked matrices outside transformers' registry of experts"


@dataclass(frozen=True)
class Coverage(Printed):
    """The coverage of a model under a recipe.

    Attributes:
        model: Name of the model.
        rows: One row for each weight, int4 or not.
        configs: Layer name → everything resolved, for each int4 layer.
        notes: What "auto" became, how the device runs it, ties that are broken.
    """

    model: str
    rows: tuple[CoverageRow, ...]
    configs: dict[str, ResolvedConfig]
    notes: tuple[str, ...]

    @property
    def int4_rows(self) -> tuple[CoverageRow, ...]:
        """The rows of the layers that become int4."""
        return tuple(row for row in self.rows if row.decision == "int4")

    def row(self, name: str) -> CoverageRow:
        """Return the row of a weight."""
        return self._by_name[name]

    @functools.cached_property
    def _by_name(self) -> dict[str, CoverageRow]:
        return {row.name: row for row in self.rows}

    @property
    def before_bytes(self) -> int:
        """Bytes of all weights now."""
        return sum(row.before_bytes for row in self.rows)

    @property
    def after_bytes(self) -> int:
        """Bytes of all weights afterwards."""
        return sum(row.after_bytes for row in self.rows)

    @property
    def share(self) -> float:
        """Share of the bytes now that becomes int4, 0 to 1."""
        return sum(row.before_bytes for row in self.int4_rows) / max(1, self.before_bytes)

    @property
    def linear_share(self) -> float:
        """Share of the linear layers' bytes that becomes int4, 0 to 1; stacks that must stay dense count as well."""
        linear = sum(row.before_bytes for row in self.rows if counts_as_linear(row))
        return sum(row.before_bytes for row in self.int4_rows) / max(1, linear)

    @property
    def remarks(self) -> tuple[str, ...]:
        """The notes but those on settings that were left open, which stand beside the settings themselves."""
        resolved = {str(note) for note in {note for config in self.configs.values() for note in config.notes}}
        return tuple(note for note in self.notes if note not in resolved)

    def verdict(self) -> str:
        """Say the coverage in a line."""
        done = [row for row in self.rows if row.kind == INT4]
        if done and not self.configs:
            held = sum(row.before_bytes for row in done)
            share = f"{held / max(1, self.before_bytes):.1%} of the bytes"
            return f"{len(done)} of {len(self.rows)} weights are int4 already: {share}, {size(self.before_bytes)}"
        return (
            f"{len(self.int4_rows)} of {len(self.rows)} weights become int4: {self.share:.1%} of the bytes "
            f"({self.linear_share:.1%} of the linear layers'), {size(self.before_bytes)} → {size(self.after_bytes)}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return rows, totals and notes as JSON types."""
        return {
            "model": self.model,
            "rows": [row.to_json() for row in self.rows],
            "notes": list(self.notes),
            "before_bytes": self.before_bytes,
            "after_bytes": self.after_bytes,
            "share": self.share,
        }

    def __str__(self) -> str:
        """The table as text."""
        width = max((len(row.name) for row in self.rows), default=5)
        kinds = max([12, *(len(row.kind) for row in self.rows)])
        lines = [
            f"{'weight':<{width}}  {'kind':<{kinds}} {'shape':<14} {'before':>9} {'after':>9} {'bits':>5}  decision"
        ]
        for row in self.rows:
            shape = "x".join(map(str, row.shape))
            why = f"{held_as(row)}: {row.reason}" + (f"; padded {row.padding}" if row.padding else "")
            lines.append(
                f"{row.name:<{width}}  {row.kind:<{kinds}} {shape:<14} {size(row.before_bytes):>9} "
                f"{size(row.after_bytes):>9} {row.bits_per_weight:>5.2f}  {why}"
            )
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes), self.verdict()])

    def _repr_html_(self) -> str:
        """The table in a notebook, where no widget need run."""
        return coverage_html(self.model, self.rows, [self.verdict(), *self.notes], size)


def counts_as_linear(row: CoverageRow) -> bool:
    """Say whether a weight is multiplied with: a linear layer, or a stack that must stay dense."""
    return row.kind in QUANTIZABLE_KINDS or STACKED in row.reason


def needs_calibration(coverage: Coverage) -> list[str]:
    """Return the names of the layers that are to be calibrated."""
    return [row.name for row in coverage.int4_rows if coverage.configs[row.name].solver == "calibrated"]


def experts_of(coverage: Coverage, name: str) -> int:
    """Return the number of experts of a stack; 0 for any other layer."""
    shape = coverage.row(name).shape
    return shape[0] if len(shape) == 3 else 0
