"""How the weights of the current layer, the levels they are rounded to, and their errors are spread."""

from __future__ import annotations

import ipywidgets

from workbench.session import Event, Session
from workbench.session.details import LayerDetails
from workbench.widgets.bars import BarChart, Bars
from workbench.widgets.component import ErrorHandler
from workbench.widgets.panel import NOT_LINEAR, Panel, styled

_EMPTY = "It is counted once the layer is solved."


class HistogramPanel(Panel):
    """Two histograms: the weights with the density of the levels, and the errors."""

    def __init__(self, session: Session, on_error: ErrorHandler) -> None:
        self.weights = Bars(BarChart(title="Weights and levels", empty=_EMPTY), on_error=on_error)
        self.errors = Bars(BarChart(title="Errors", empty=_EMPTY), on_error=on_error)
        pair = styled(ipywidgets.Box([self.weights, self.errors]), "wb-pair")
        super().__init__(session, on_error, [pair])
        if session.details.latest is not None:
            self._show(session.details.latest)

    def on_event(self, event: Event) -> None:
        """Show the counts of the layer on show."""
        if event.kind == "details" and event.data.name == self.session.current:
            self._show(event.data)
        elif event.kind == "selection" and self._is_of_another():
            self._clear(_EMPTY if self.shows_layer() else NOT_LINEAR)
        elif self.failed_view(event) is not None:
            self._clear("The layer cannot be solved.")
        if event.kind in ("coverage", "selection") or (event.kind == "job" and event.data.quiet):
            self._show_busy()

    def _is_of_another(self) -> bool:
        latest = self.session.details.latest
        return latest is None or latest.name != self.session.current

    def _show_busy(self) -> None:
        job = self.session.views.lane.current  # its last event comes while it still holds the lane
        self.weights.busy = self.errors.busy = job is not None and not job.finished

    def _clear(self, text: str) -> None:
        self.weights.show(BarChart(title="Weights and levels", empty=text))
        self.errors.show(BarChart(title="Errors", empty=text))

    def _show(self, details: LayerDetails) -> None:
        self.weights.show(weights_chart(details))
        self.errors.show(errors_chart(details))


def weights_chart(details: LayerDetails) -> BarChart:
    """Return the histogram of the weights, with that of the levels scaled to as many."""
    spread, counts = details.spread, details.spread.histogram
    share = sum(counts.counts) / max(1, spread.level_count)
    beyond = 1 - sum(spread.levels) / max(1, spread.level_count)
    note = f" · {beyond:.1%} of the levels lie beyond them" if beyond >= 0.0005 else ""
    return BarChart(
        counts.counts,
        -counts.limit,
        counts.limit,
        title="Weights and levels",
        subtitle=f"{details.name} · {sum(counts.counts):,} weights, {spread.level_count:,} levels{note}",
        x_label="weight",
        what="weights",
        outline=tuple(share * level for level in spread.levels),
        outline_label="density of the levels, scaled to as many",
    )


def errors_chart(details: LayerDetails) -> BarChart:
    """Return the histogram of the errors."""
    counts = details.spread.histogram
    config = details.config
    return BarChart(
        counts.error_counts,
        -counts.error_limit,
        counts.error_limit,
        title="Errors",
        subtitle=f"dequantized − original · {config.solver}, {config.domain}, group size {config.group_size}",
        x_label="error, weight units",
        what="weights",
    )
