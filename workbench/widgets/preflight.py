"""`PreflightTable`: what becomes of every weight of a model, and one-click choices, in a notebook."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets
import traitlets
from torch import nn

from workbench.config import GROUP_SIZES, Int4WeightOnlyConfig
from workbench.coverage.coverage import Coverage
from workbench.errors import WorkbenchError
from workbench.recipe.recipe import Recipe, as_recipe
from workbench.session import Event, Session, open_session
from workbench.widgets.commands import Command, Commands
from workbench.widgets.facts import Facts
from workbench.widgets.layer_table import LayerTable
from workbench.widgets.layers_panel import columns_with_groups, facts_of, make_choice
from workbench.widgets.panel import close_children, row, styled
from workbench.widgets.status import Status


class PreflightTable(ipywidgets.VBox):
    """The preflight of a model as a table to look through and to choose in; no weight is read or changed.

    Args:
        model_or_path: A live model, a model folder, a hub name, or None: the demo model.
        recipe: A recipe, a configuration for all linear layers but the output head, or None: the default.
        device: Device that will run the layers; None is where a live model is, else "cuda" when this machine has it,
            or the CPU.

    Attributes:
        session: The state behind the table; every click is one of its methods.
        table: The rows by module or as a list.
        verdict: The coverage's numbers.
        tools: Undo and redo.

    Traits:
        recipe: The recipe as it is now; set it to change the table.

    Raises:
        ModelError: when the model cannot be read.
        PatternError: for a pattern of the recipe that matches nothing.
    """

    recipe = traitlets.Instance(Recipe)

    def __init__(
        self,
        model_or_path: nn.Module | str | Path | None = None,
        recipe: Recipe | Int4WeightOnlyConfig | None = None,
        *,
        device: str | None = None,
    ) -> None:
        self._forget: Callable[[], None] = lambda: None
        model = "demo" if model_or_path is None else model_or_path
        self.session: Session = open_session(model, device=device, recipe=as_recipe(recipe))
        self.session.current = ""  # nothing is on show, so that no change solves a layer
        self.session.selection = []
        self.verdict = Facts(on_error=self._on_error)
        self.table = LayerTable(on_error=self._on_error, height=420, tree=True, group_sizes=list(GROUP_SIZES))
        self.table.on_choose(partial(make_choice, self.session))
        self.tools = Commands(
            [
                Command("undo", "Undo", "Go back to the recipe before the last choice", enabled=False),
                Command("redo", "Redo", "Take back the last undo", enabled=False),
            ],
            on_error=self._on_error,
        )
        self.tools.on_command(self._on_command)
        self.status = Status()
        self.status.add_class("wb-away")
        header = row(self.verdict, self.tools, grow=self.verdict)
        super().__init__([header, self.table, self.status])
        styled(self, "wb-panel")
        self.recipe = self.session.recipe
        self._show(self.session.coverage)
        self._forget = self.session.listen(self._on_event)
        self.observe(self._recipe_set, names="recipe")

    @property
    def coverage(self) -> Coverage:
        """What becomes of every weight under the recipe."""
        return self.session.coverage

    def __repr__(self) -> str:
        """Name the model and the coverage without serialising a widget."""
        return f"PreflightTable({self.session.source.name!r}, {self.coverage.verdict()})"

    def _repr_html_(self) -> str:
        """The coverage as a plain table, for pages where no widget runs."""
        return self.coverage._repr_html_()

    def close(self) -> None:
        """Close every channel to the page."""
        self._forget()
        close_children(self)
        super().close()

    def _on_event(self, event: Event) -> None:
        if event.kind == "coverage":
            try:
                self._show(event.data)
            except Exception as error:  # the recipe has changed all the same, and the person must be told
                self._on_error(error, "showing the coverage")

    def _show(self, coverage: Coverage) -> None:
        self.recipe = self.session.recipe
        self.table.show(columns_with_groups(coverage))
        self.verdict.show(facts_of(coverage), title=f"Preflight: {coverage.model}", notes=list(coverage.notes))
        self.tools.enable(undo=self.session.can_undo, redo=self.session.can_redo)

    def _recipe_set(self, change: Any) -> None:
        try:
            self.session.set_recipe(change["new"])
        except WorkbenchError:
            self.recipe = self.session.recipe
            raise

    def _on_command(self, command: str) -> str:
        if command == "undo":
            return "undone" if self.session.undo() else "nothing to undo"
        return "done again" if self.session.redo() else "nothing to redo"

    def _on_error(self, error: Exception, where: str) -> None:
        details = "".join(traceback.format_exception(error))
        self.status.show_problem(error, where if not isinstance(error, WorkbenchError) else "", details)
        self.status.remove_class("wb-away")

    def _repr_keys(self) -> Any:
        return iter(())
