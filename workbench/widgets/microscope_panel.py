"""The zero-point microscope on a group of the current layer."""

from __future__ import annotations

from workbench.session import Event, Session
from workbench.views.groups import GroupView
from workbench.widgets.component import ErrorHandler
from workbench.widgets.microscope import MicroscopeView
from workbench.widgets.panel import Panel, failed_job

_WAITING = "The worst group of the layer comes here as soon as its errors are known."
_NOT_LINEAR = "This weight stays as it is. Pick a linear layer to look at one of its groups."


class MicroscopePanel(Panel):
    """The 16 levels of every variant for one group."""

    def __init__(self, session: Session, on_error: ErrorHandler) -> None:
        self.view = MicroscopeView(on_error=on_error)
        super().__init__(session, on_error, [self.view])
        self.view.on_look(self._look)
        self.view.on_worst(self._worst)
        self.view.clear(self._empty())
        if session.microscope.latest is not None:
            self._show(session.microscope.latest, 0)

    def on_event(self, event: Event) -> None:
        """Show a group; newer ones win."""
        if event.kind == "group" and event.data.microscope.name == self.session.current:
            self._show(event.data, event.job.number if event.job else 0)
        elif event.kind == "selection" and (self._empty() == _NOT_LINEAR or self.view.microscope is None):
            self.view.clear(self._empty())
        elif (failed := self.failed_view(event) or failed_job(event, "look", self.session.microscope.lane)) is not None:
            self.view.clear(str(failed.error))
        if event.kind in ("coverage", "selection", "job", "look"):
            self._show_busy()

    def _empty(self) -> str:
        return _WAITING if self.shows_layer() else _NOT_LINEAR

    def _show_busy(self) -> None:
        jobs = (self.session.views.lane.current, self.session.microscope.lane.current)
        self.view.busy = any(job is not None and not job.finished for job in jobs)

    def _show(self, view: GroupView, number: int) -> None:
        self.view.show(
            view.microscope,
            total_rows=view.total_rows,
            total_groups=view.total_groups,
            chosen=view.chosen,
            seq=2 * number + int(view.complete),
            stack_rows=self.session.row(view.microscope.name).stack_rows,
        )

    def _look(self, row: int, group: int) -> None:
        self.session.microscope.look_at(row, group)

    def _worst(self) -> None:
        self.session.microscope.look_at_worst()
