"""What Improve found and changed, until the person puts it away."""

from __future__ import annotations

from workbench.improve.improvement import Improvement, SoFar, grouped
from workbench.session import Event, Session
from workbench.sizes import size
from workbench.widgets.changes import Action, Changes
from workbench.widgets.component import ErrorHandler
from workbench.widgets.panel import Panel


class ImprovePanel(Panel):
    """Shown once Improve has an answer, be it a first one; better or not, it says so."""

    def __init__(self, session: Session, on_error: ErrorHandler) -> None:
        self.changes = Changes(on_error=on_error)
        super().__init__(session, on_error, [self.changes])
        self._show()
        self.changes.on_action(self._act)

    def on_event(self, event: Event) -> None:
        """Show a new answer, and whether it still holds."""
        if event.kind == "improved":
            self._show()
        elif event.kind == "coverage":
            self.changes.can_undo = self.session.improving.applied and self.session.improving.so_far is None

    def _show(self) -> None:
        if (so_far := self.session.improving.so_far) is not None:
            self._show_so_far(so_far)
            return
        found = self.session.improving.latest
        (self.add_class if found is None else self.remove_class)("wb-away")
        if found is not None:
            self.changes.show(
                grouped(found.changes),
                title="Improve: what changed" if found.changes else "Improve: nothing better at this size",
                badge=f"{found.gain:.0%} less error" if found.changes else "",
                verdict=said(found),
                objective=found.objective,
                notes=list(found.notes),
                can_undo=self.session.improving.applied,
            )

    def _show_so_far(self, found: SoFar) -> None:
        self.remove_class("wb-away")
        self.changes.show(
            grouped(found.changes),
            title="Improve: what would change so far",
            badge=f"{found.gain:.0%} less error" if found.changes else "",
            verdict=said_so_far(found),
            objective=found.objective,
            notes=["nothing is changed before the search has ended"],
            can_undo=False,
        )

    def _act(self, action: Action) -> None:
        if action == "undo":
            self.session.improving.undo()
        else:
            self.session.improving.forget()


def said_so_far(found: SoFar) -> str:
    """Say in a line from what error to what error, in how many layers, and on what that is measured."""
    rows = "on all rows" if found.exact else "on sampled rows"
    where = f"{found.tried_layers:,} of {found.layers:,} layers tried, {rows}"
    if not found.changes:
        return f"Nothing better yet: {where}."
    errors = f"{found.objective} {found.error_before:.2%} → {found.error_after:.2%}"
    return f"{errors[0].upper()}{errors[1:]} at the same size: {where}."


def said(found: Improvement) -> str:
    """Say in a line from what error to what error, at what size, and how much was tried."""
    tried = f"{found.tried:,} settings tried in {found.seconds:.0f} s"
    if not found.changes:
        return f"The {found.objective} stays at {found.error_before:.2%}, {size(found.bytes_before)}: {tried}."
    saved = found.bytes_before - found.bytes_after
    room = f"{size(found.bytes_after)}, {size(saved)} less" if saved else f"{size(found.bytes_after)}, as before"
    errors = f"{found.objective} {found.error_before:.2%} → {found.error_after:.2%}"
    return f"{errors[0].upper()}{errors[1:]} at the same size ({room}): {tried}."
