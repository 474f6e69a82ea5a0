"""What every panel shares: a session, a guard, and a column of components."""

from __future__ import annotations

from typing import Any

import ipywidgets

from workbench.jobs import Job, Lane
from workbench.kinds import QUANTIZABLE_KINDS
from workbench.session import Event, Session
from workbench.session.events import EventKind
from workbench.widgets.component import ErrorHandler

NOT_LINEAR = "This weight stays as it is. Pick a linear layer to see what int4 does to it."


def styled(box: ipywidgets.Box, *classes: str) -> ipywidgets.Box:
    """Return the box with CSS classes of theme.css, which lay it out."""
    for name in classes:
        box.add_class(name)
    return box


def row(*children: ipywidgets.Widget, grow: ipywidgets.Widget | None = None) -> ipywidgets.HBox:
    """Return a row that wraps; `grow` takes the room that is left."""
    if grow is not None:
        grow.add_class("wb-grow")
    return styled(ipywidgets.HBox(list(children)), "wb-row")


def close_children(box: ipywidgets.Box) -> None:
    """Close the channels of everything in a box."""
    for child in box.children:
        if isinstance(child, ipywidgets.Box):
            close_children(child)
        child.close()


def failed_job(event: Event, kind: EventKind, lane: Lane) -> Job | None:
    """Return the newest job of a lane, where an event of that kind tells that it failed."""
    job = lane.latest
    return job if event.kind == kind and event.data is job and job is not None and job.state == "failed" else None


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
        super().__init__(children)
        styled(self, "wb-panel")

    def __repr__(self) -> str:
        """Name the panel without serialising its components."""
        return f"{type(self).__name__}({self.session.source.name!r})"

    def on_event(self, event: Event) -> None:
        """Show what an event says (any thread)."""
        raise NotImplementedError

    def failed_view(self, event: Event) -> Job | None:
        """Return the job that was to bring the view of the layer on show, where an event tells that it failed."""
        return failed_job(event, "job", self.session.views.lane)

    def shows_layer(self) -> bool:
        """Whether what is on show is a linear layer, of which there is a view to come."""
        name = self.session.current
        return self.session.given is None and bool(name) and self.session.row(name).kind in QUANTIZABLE_KINDS

    def close(self) -> None:
        """Close the channels of the panel and of its components."""
        close_children(self)
        super().close()

    def _repr_keys(self) -> Any:
        return iter(())
