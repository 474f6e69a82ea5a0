"""The buttons of the header: Improve, undo, redo, and the sweep over all layers."""

from __future__ import annotations

from typing import Any

from workbench.int4_source import ORIGINAL
from workbench.session import Session
from workbench.widgets.commands import Command, Commands

_TOOLS = (
    Command("improve", "Improve", "Find a recipe with less error at the same size", "primary"),
    Command("undo", "Undo", "Go back to the recipe before the last change", enabled=False),
    Command("redo", "Redo", "Take back the last undo", enabled=False),
    Command("sweep", "Measure all layers", "Solve every int4 layer and fill the table's error column"),
)


class Tools(Commands):
    """Buttons that can be clicked where they make sense, and say why not where they never do.

    Args:
        session: The shared state.
        traits: `on_error`, and initial values of traits.
    """

    def __init__(self, session: Session, **traits: Any) -> None:
        self._session = session
        why_not = f"The model is int4 already: {ORIGINAL}"
        given = [Command(tool.id, tool.label, why_not, tool.kind, enabled=False) for tool in _TOOLS]
        super().__init__(_TOOLS if session.given is None else given, **traits)
        self.follow()

    def follow(self) -> None:
        """Enable what the recipe that holds now allows."""
        session = self._session
        some = bool(session.coverage.configs)
        self.enable(undo=session.can_undo, redo=session.can_redo, improve=some, sweep=some)
