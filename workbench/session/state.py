"""What a session is about and what was chosen in it: plain values, and what follows from them at once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from workbench.config import Int4WeightOnlyConfig, ResolvedConfig
from workbench.coverage.coverage import Coverage
from workbench.coverage.preflight import preflight_source
from workbench.errors import ConfigError
from workbench.kinds import INT4, QUANTIZABLE_KINDS
from workbench.measure.error_map import Metric
from workbench.recipe.recipe import Choice, Recipe
from workbench.records.layers import CoverageRow
from workbench.session.given import Given
from workbench.session.layers import Scope
from workbench.sources import Source


@dataclass
class SessionState:
    """Model, recipe and selection.

    Attributes:
        source: Where the weights come from.
        tokenizer: Saved beside an exported checkpoint of a live model, or None.
        device: Device that will run the layers.
        device_reason: Why it is that one, or "".
        recipe: What the user wants; change it with `configure`, `set_recipe` or `keep_dense`.
        coverage: What becomes of every weight under `recipe`.
        selection: Names of the selected layers, in the order of the model.
        current: Name of the layer on show, or "" when the model has no linear layer.
        scope: What `configure` applies to: the current layer, the selection, or all layers.
        metric: What the heatmap shows.
        reduce: How the heatmap is reduced to screen size: "max" or "mean".
        given: What a model came with that is int4 already, and is taken as it is; None for one to be quantized.
    """

    source: Source
    tokenizer: Any = None
    device: str = "cpu"
    device_reason: str = ""
    recipe: Recipe = field(default_factory=lambda: Recipe(Choice(Int4WeightOnlyConfig(group_size=64))))
    coverage: Coverage = field(init=False)
    selection: list[str] = field(default_factory=list)
    current: str = ""
    scope: Scope = "all"
    metric: Metric = "rmse"
    reduce: Literal["max", "mean"] = "max"
    given: Given | None = None

    def __post_init__(self) -> None:
        self.hold(self.recipe, self.preflight(self.recipe))
        rows = [row for row in self.coverage.rows if row.kind in (*QUANTIZABLE_KINDS, INT4)]
        if rows and not self.current:
            first = [row.name for row in rows if row.decision == "int4" or (self.given and row.kind == INT4)]
            self.current = [*first, rows[0].name][0]
            self.selection = [self.current]

    def layer_rows(self) -> list[CoverageRow]:
        """Rows of the linear layers, int4 or not."""
        return [row for row in self.coverage.rows if row.kind in QUANTIZABLE_KINDS]

    def row(self, name: str) -> CoverageRow:
        """Return the coverage row of a weight.

        Raises:
            ConfigError: when there is none of that name.
        """
        row = self._rows.get(name)
        if row is None:
            raise ConfigError(f"There is no weight {name!r}.", mend="take a name from the layer table")
        return row

    def choice(self) -> Choice:
        """The settings on show: those of the current layer, else the recipe's default."""
        if self.given is not None and (own := self.given.choice(self.current)) is not None:
            return own
        decided = self.recipe.decide(self.current)[0] if self.current else None
        return decided or self.recipe.default or Choice()

    def resolved(self) -> ResolvedConfig:
        """Everything resolved for the settings on show."""
        return self.choice().resolved(self.device)

    def preflight(self, recipe: Recipe) -> Coverage:
        """Say what would become of every weight under a recipe.

        Raises:
            ConfigError: for settings that cannot work together.
            PatternError: for a pattern that matches nothing.
        """
        coverage = preflight_source(self.source, recipe, device=self.device)
        coverage = coverage if self.given is None else self.given.as_it_is(coverage)
        if not self.device_reason:
            return coverage
        return replace(coverage, notes=(*coverage.notes, f"device: {self.device}, {self.device_reason}"))

    def hold(self, recipe: Recipe, coverage: Coverage) -> None:
        """Put a recipe in force, with what becomes of every weight under it."""
        self.recipe, self.coverage = recipe, coverage
        self._rows = {row.name: row for row in coverage.rows}
