"""What quantizing a model did, and what a person must know of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workbench.coverage.coverage import Coverage
from workbench.printed import Printed
from workbench.records.errors import LayerResult

_NAMED = 8  # layers of a note that are named one by one


@dataclass(frozen=True)
class QuantizationReport(Printed):
    """What was done: the coverage, each layer's errors, and everything that was decided on the way.

    Attributes:
        coverage: What became int4, what did not, and why.
        layers: Errors of each int4 layer.
        seconds: Time that it took, in seconds.
        notes: How the calibration text was cut, and which layers were offloaded.
    """

    coverage: Coverage
    layers: tuple[LayerResult, ...]
    seconds: float
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        layers = [layer.to_json() for layer in self.layers]
        return {
            "coverage": self.coverage.to_json(),
            "layers": layers,
            "seconds": self.seconds,
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        """The report as text."""
        said = [f"note: {note}" for note in (*self.notes, *layer_notes(self.layers))]
        return "\n".join([str(self.coverage), *said, f"solved {len(self.layers)} layers in {self.seconds:.1f} s"])


def layer_notes(layers: Sequence[LayerResult]) -> list[str]:
    """Say what a person must know of the layers, those with the same note together."""
    named: dict[str, list[str]] = {}
    for layer in layers:
        for note in layer.notes:
            named.setdefault(note, []).append(layer.name)
    return [
        f"{', '.join(names[:_NAMED])}{f' and {len(names) - _NAMED} more' if len(names) > _NAMED else ''}: {note}"
        for note, names in named.items()
    ]
