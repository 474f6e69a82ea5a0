"""What every panel shares: a session, a guard, and a column of components."""

from __future__ import annotations

from typing import Any

import ipywidgets

from workbench.session import Event, Session
from workbench.widgets.component import ErrorHandler

_LAYOUT = {"width": "100%", "min_width": "0", "overflow": "hidden", "grid_gap": "12px", "display": "grid"}


class Panel(ipywidgets.VBox):
    """A part of the app. It reads the session and calls its methods; it can be shown in a cell of its own.

    Args:
        session: The shared state.
        on_error: Called as (exception, where) for each error of a handler.
        children: The components, top to bottom.
    """

    def __init__(self, session: Session, on_error: ErrorHandler, children: list[ipywidgets.Widget]) -> None:
        self.session = session
        self.on_error = on_error
        super().__init__(children, layout=_LAYOUT)

    def __repr__(self) -> str:
        """Name the panel without serialising its components."""
        return f"{type(self).__name__}({self.session.source.name!r})"

    def on_event(self, event: Event) -> None:
        """Show what an event says (any thread)."""
        raise NotImplementedError

    def close_all(self) -> None:
        """Close the channels of the panel and of its components."""
        for child in self.children:
            child.close()
        self.close()

    def _repr_keys(self) -> Any:
        return iter(())
