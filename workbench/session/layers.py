"""Settings of the layers that a person means: the one on show, the selection, all of them, or some by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, Protocol

from workbench.config import ResolvedConfig
from workbench.coverage.coverage import Coverage
from workbench.errors import ConfigError
from workbench.kinds import QUANTIZABLE_KINDS
from workbench.options import SolverName
from workbench.recipe.edit import LayerNames, changed_choice, with_change, with_change_everywhere, with_choice
from workbench.recipe.nodes import rules_said, with_dense, with_int4
from workbench.recipe.recipe import Choice, Recipe
from workbench.records.layers import CoverageRow, Decision

Scope = Literal["layer", "selection", "all"]
SCOPES: tuple[Scope, ...] = ("layer", "selection", "all")


class Chosen(Protocol):
    """What a change of settings sees of its session."""

    recipe: Recipe
    coverage: Coverage
    selection: list[str]
    current: str
    scope: Scope

    def layer_rows(self) -> list[CoverageRow]:
        """Rows of the linear layers, int4 or not."""
        ...

    def row(self, name: str) -> CoverageRow:
        """Return the coverage row of a weight."""
        ...

    def choice(self) -> Choice:
        """The settings on show."""
        ...

    def resolved(self) -> ResolvedConfig:
        """Everything resolved for the settings on show."""
        ...

    def set_recipe(self, recipe: Recipe) -> None:
        """Take a recipe, or refuse it."""
        ...


class SessionLayers:
    """Changes the recipe layer by layer; each change is one step, which can be undone.

    Args:
        owner: The session.
    """

    def __init__(self, owner: Chosen) -> None:
        self._owner = owner
        self._names = LayerNames([row.name for row in owner.layer_rows()])

    def targets(self, scope: Scope | None = None) -> list[str]:
        """Return the names of the linear layers of a scope; None is the session's.

        Raises:
            ConfigError: for an unknown scope.
        """
        linear = [row.name for row in self._owner.layer_rows()]
        scope = self._scope(scope)
        if scope == "all":
            return linear
        wanted = set(self._owner.selection) if scope == "selection" else {self._owner.current}
        return [name for name in linear if name in wanted]

    def configure(
        self,
        scope: Scope | None = None,
        *,
        solver: SolverName | None = None,
        options: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        """Change settings of the scope's int4 layers; see `Session.configure`."""
        owner = self._owner
        options_of = solver or owner.resolved().solver

        def change(choice: Choice) -> Choice:
            return changed_choice(choice, solver=solver, options=options, options_of=options_of, **settings)

        if options is not None:
            change(owner.choice())  # refuses unknown options, also where no layer of the scope has that solver
        names = self._linear(scope)
        int4 = [name for name in names if name in owner.coverage.configs]
        if self._scope(scope) == "all" and int4:
            owner.set_recipe(with_change_everywhere(owner.recipe, change))
        else:
            owner.set_recipe(with_change(owner.recipe, self._names, int4 or names, change))

    def change(self, changes: Sequence[tuple[Sequence[str], Mapping[str, Any]]]) -> None:
        """Change settings of int4 layers by name, as `Session.configure` takes them, in one step.

        Raises:
            ConfigError: for settings that cannot work together; nothing is changed then.
        """
        edited = self._owner.recipe
        for names, settings in changes:
            edited = with_change(edited, self._names, names, partial(changed_choice, **settings))
        self._owner.set_recipe(edited)

    def keep_dense(self, scope: Scope | None = None) -> None:
        """Leave the layers of the scope in full precision.

        Raises:
            ConfigError: when the scope holds no linear layer.
        """
        self._owner.set_recipe(with_choice(self._owner.recipe, self._names, self._linear(scope), None))

    def make_int4(self, scope: Scope | None = None) -> None:
        """Make the layers of the scope int4 with the settings on show; the output head only when it is selected.

        Raises:
            ConfigError: when the scope holds no linear layer.
        """
        owner, names = self._owner, self._linear(scope)
        if self._scope(scope) == "all":
            names = [name for name in names if owner.row(name).kind != "output_head"] or names
        owner.set_recipe(with_choice(owner.recipe, self._names, names, owner.choice()))

    def choose(self, names: Sequence[str], decision: Decision, *, group_size: int | None = None, glob: str = "") -> str:
        """Make weights int4 or leave them dense; those that a glob names share one rule, and its settings.

        Args:
            names: Weights; those of them that are no linear layers stay as they are.
            decision: "int4" (output heads only where the glob names nothing else) or "dense".
            group_size: 256, 128, 64 or 32; None keeps what the layers, or the default, have.
            glob: The glob of the part of the model that the names are, or "": each layer keeps its other settings.

        Returns:
            Which rules changed, and what stays dense all the same, in a line.

        Raises:
            ConfigError: for an unknown name or decision, or when none of the weights is a linear layer.
        """
        if decision not in ("int4", "dense"):
            raise ConfigError(f"decision={decision!r}.", allowed="'int4' or 'dense'")
        owner = self._owner
        rows = [row for row in map(owner.row, names) if row.kind in QUANTIZABLE_KINDS]
        if decision == "int4" and glob:
            rows = [row for row in rows if row.kind != "output_head"] or rows
        if not rows:
            raise ConfigError("None of these weights is a linear layer.", mend="choose a linear layer")
        wanted, before, held = [row.name for row in rows], owner.recipe, owner.coverage.configs
        if decision == "dense":
            owner.set_recipe(with_dense(before, self._names, wanted, glob))
        elif group_size is not None or any(name not in held for name in wanted):
            owner.set_recipe(with_int4(before, self._names, wanted, held, group_size=group_size, glob=glob))
        dense = [row for row in map(owner.row, wanted) if row.decision != "int4"]
        left = f"; {len(dense)} stay dense: {dense[0].reason}" if decision == "int4" and dense else ""
        return rules_said(before, owner.recipe) + left

    def _scope(self, scope: Scope | None) -> Scope:
        scope = scope or self._owner.scope
        if scope not in SCOPES:
            raise ConfigError(f"scope={scope!r}.", allowed=", ".join(map(repr, SCOPES)))
        return scope

    def _linear(self, scope: Scope | None) -> list[str]:
        names = self.targets(scope)
        if not names:
            raise ConfigError(
                f"The {self._scope(scope)} scope holds no linear layer.", mend="select a linear layer in the table"
            )
        return names
