"""What a measurement of quality is of: a recipe, and a text with its window and the weights of the original."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from workbench.coverage.coverage import Coverage, needs_calibration
from workbench.session.calibration import SessionCalibration
from workbench.session.quality_text import QualityText
from workbench.sizes import size
from workbench.views.int4_layers import settings_of


@dataclass(frozen=True)
class Plan:
    """What is measured: a result stands for one plan, and is shown only while that holds.

    Attributes:
        label: The recipe in a line.
        recipe: Stands for the values of the int4 layers.
        text: Stands for the text, the window and the weights of the original.
    """

    label: str
    recipe: Hashable
    text: Hashable

    @property
    def key(self) -> Hashable:
        """What results are remembered by."""
        return self.recipe, self.text


class Planner:
    """Says what a measurement would be of now; the key of a coverage is made once.

    Args:
        calibration: Has the text of the layers that are to be calibrated.
        coverage: Returns what becomes of every weight now.
    """

    def __init__(self, calibration: SessionCalibration, coverage: Callable[[], Coverage]) -> None:
        self._calibration, self._coverage = calibration, coverage
        self._keyed: tuple[Coverage | None, Hashable] = (None, None)  # a coverage, and what it is known by

    def now(self, text: QualityText, window: int, weights: int) -> Plan:
        """Return the plan of a measurement.

        Args:
            text: What is measured on.
            window: Tokens of a window that are wanted.
            weights: Stands for the weights of the original.
        """
        coverage = self._coverage()
        if coverage is not self._keyed[0]:
            self._keyed = coverage, settings_of(coverage)
        calibrated = self._calibration.stamp if needs_calibration(coverage) else ""
        return Plan(recipe_label(coverage), (self._keyed[1], calibrated), (text.stamp, window, weights))

    def calibrated_on(self, text: QualityText) -> bool:
        """Say whether a layer is calibrated on a text, or on one that holds it or is in it."""
        one, other = text.text.strip(), self._calibration.text.strip()
        return bool(one and other and needs_calibration(self._coverage()) and (one in other or other in one))


def recipe_label(coverage: Coverage) -> str:
    """Say in a few words what a recipe makes of a model: "all linear: g64 float hqq" and its size."""
    configs = list(coverage.configs.values())
    if not configs:
        return f"nothing int4, {size(coverage.after_bytes)}"
    counts = Counter((one.group_size, one.domain, one.solver) for one in configs)
    (group, domain, solver), _ = counts.most_common(1)[0]
    more = f" + {len(counts) - 1} more" if len(counts) > 1 else ""
    layers = f"{len(configs)} layer{'s' * (len(configs) != 1)}"
    return f"{layers} g{group} {domain} {solver}{more}, {size(coverage.after_bytes)}"
