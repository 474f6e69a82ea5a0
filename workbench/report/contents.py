"""What a report shows: records only, taken from a session at one moment."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from workbench.coverage.coverage import Coverage
from workbench.improve.improvement import Improvement
from workbench.measure.decode import DecodeSpeed
from workbench.measure.paired import Comparison
from workbench.measure.roofline import Roofline
from workbench.recipe.recipe import Recipe
from workbench.records.speed import SpeedPoint
from workbench.views.views import LayerView

_PACKAGES = ("int4-workbench", "torch", "transformers", "safetensors", "numpy")


@dataclass(frozen=True)
class Contents:
    """Everything of a report.

    Attributes:
        coverage: What becomes of every weight.
        recipe: What the person chose.
        python: The cell that does the same.
        verdict: Size, error and speed in a line.
        errors: Layer name → its exact view, for the layers that are solved.
        decode: Speed of one layer at batch 1, or None.
        speed: Measured points; none where nothing was measured.
        rooflines: Device → what it can do at best.
        speed_notes: What a person must know of the points.
        quality: The int4 model beside the original on a text, or None.
        quality_text: Where that text comes from.
        improvement: What Improve changed, where its recipe holds, or None.
        machine: What it is → its words: device, threads, versions.
        made: When the report was made, as text.
    """

    coverage: Coverage
    recipe: Recipe
    python: str
    verdict: str
    errors: Mapping[str, LayerView]
    machine: Mapping[str, str]
    made: str
    decode: DecodeSpeed | None = None
    speed: Sequence[SpeedPoint] = ()
    rooflines: Mapping[str, Roofline] | None = None
    speed_notes: Sequence[str] = ()
    quality: Comparison | None = None
    quality_text: str = ""
    improvement: Improvement | None = None

    @property
    def solved(self) -> list[tuple[str, LayerView]]:
        """The int4 layers that are solved, in the order of the model."""
        return [(name, self.errors[name]) for name in self.coverage.configs if name in self.errors]

    def worst(self, count: int) -> list[tuple[str, LayerView]]:
        """Return the solved layers of the largest relative error, the worst first."""
        return sorted(self.solved, key=lambda one: -one[1].summary.relative_rmse)[:count]


def versions() -> dict[str, str]:
    """Return the versions that results may depend on."""
    found = {"Python": f"{platform.python_version()}, {platform.system()} {platform.machine()}"}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed as a package"
    return found
