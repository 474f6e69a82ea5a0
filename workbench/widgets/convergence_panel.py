"""How the error of the current layer fell while its solver worked."""

from __future__ import annotations

import math

from workbench.records.errors import ErrorTrace
from workbench.session import Event, Session
from workbench.views.views import LayerView
from workbench.widgets.component import ErrorHandler
from workbench.widgets.line_chart import Chart, LineChart, Series
from workbench.widgets.panel import NOT_LINEAR, Panel

_TITLE = "Convergence"
_NO_STEPS = "Round-to-nearest takes no steps: there is nothing to converge. Choose hqq, refined or calibrated."
_FROM_ZERO_BELOW = 0.6  # of round-to-nearest's error: from there on, the axis begins at zero


class ConvergencePanel(Panel):
    """The solver's own objective after each of its steps, over that of round-to-nearest."""

    def __init__(self, session: Session, on_error: ErrorHandler) -> None:
        self.chart = LineChart(Chart(title=_TITLE, empty="No layer is solved yet."), on_error=on_error, height=180)
        super().__init__(session, on_error, [self.chart])
        self._shown = 0

    def on_event(self, event: Event) -> None:
        """Show the trace of a view; newer ones win."""
        if event.kind == "view":
            self._show(event.data, 2 * (event.job.number if event.job else 0) + int(event.data.exact))
        elif event.kind in ("coverage", "selection"):
            if not self.shows_layer():
                self.chart.show(Chart(title=_TITLE, empty=NOT_LINEAR))
            self._show_busy()
        elif event.kind == "job" and event.data.quiet:
            self._show_busy()
            if self.failed_view(event) is not None:
                self.chart.show(Chart(title=_TITLE, empty="The layer cannot be solved."))

    def _show_busy(self) -> None:
        job = self.session.views.lane.current
        self.chart.busy = job is not None and not job.finished

    def _show(self, view: LayerView, seq: int) -> None:
        if view.name == self.session.current and seq >= self._shown:
            self._shown = seq
            self.chart.show(chart_of(view))


def chart_of(view: LayerView) -> Chart:
    """Return the chart of a view's trace."""
    trace, title = view.trace, f"{_TITLE}: {view.solver}"
    if len(trace.values) < 2:
        return Chart(title=title, subtitle=view.name, empty=_NO_STEPS)
    if not 0 < trace.rtn_error < math.inf:
        exact = "is exact here" if trace.rtn_error == 0 else "has no finite error here"
        return Chart(title=title, subtitle=view.name, empty=f"Round-to-nearest {exact}: there is no ratio to show.")
    sample = "" if view.exact else f" · {view.badge}"
    return Chart(
        series=(_series(view.solver, trace),),
        title=title,
        subtitle=f"{view.name} · {improved(trace)}{sample}",
        x_label="step (0: round-to-nearest)",
        y_label=trace.objective,
        x_scale="linear",
        y_from_zero=trace.relative[-1] < _FROM_ZERO_BELOW,
        y_suffix="×",
        reference=1.0,
        reference_label="round-to-nearest",
    )


def improved(trace: ErrorTrace) -> str:
    """Say how many groups came out better."""
    return f"{trace.improved_groups:,} of {trace.groups:,} groups better than round-to-nearest"


def _series(name: str, trace: ErrorTrace) -> Series:
    unit = f" {trace.unit}" if trace.unit else ""
    points = [
        (float(step), share, f"{value:.4g}{unit}")
        for step, (value, share) in enumerate(zip(trace.values, trace.relative, strict=True))
        if math.isfinite(share)
    ]
    steps, shares, details = zip(*points, strict=True)
    return Series(name, steps, shares, detail=details)
