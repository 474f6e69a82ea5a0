"""The errors of all int4 layers in the model's order, as far as they are known."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.records.errors import ErrorSummary
from workbench.session import Event, Session
from workbench.widgets.component import ErrorHandler
from workbench.widgets.form import Field, Form, Value
from workbench.widgets.layer_chart import LayerChart
from workbench.widgets.panel import Panel


@dataclass(frozen=True)
class _Measure:
    """What a dot's height stands for: a field of `ErrorSummary`, and how it is shown."""

    field: str
    text: str
    label: str
    log: bool = True
    suffix: str = ""


_MEASURES = (
    _Measure("relative_rmse", "relative RMS error", "RMS error / RMS weight"),
    _Measure("sqnr_db", "SQNR", "SQNR, dB (higher is better)", False, " dB"),
    _Measure("rmse", "RMS error", "RMS error, weight units"),
    _Measure("mse", "MSE", "MSE, squared weight units"),
    _Measure("max_abs", "largest |error|", "largest |error|, weight units"),
)
_FIELD = Field(
    "measure",
    "A dot stands for",
    "menu",
    tuple((one.field, one.text) for one in _MEASURES),
    "What the height of a dot is",
)
_EMPTY = "Layers come here as they are solved; “Measure all layers” solves every one."


class LayerErrorsPanel(Panel):
    """A dot for each solved layer; a click puts the layer on show."""

    def __init__(self, session: Session, on_error: ErrorHandler) -> None:
        self.measure = _MEASURES[0]
        self.form = Form([_FIELD], {"measure": self.measure.field}, on_error=on_error, inline=True)
        self.chart = LayerChart(on_error=on_error, title="Errors across layers", empty=_EMPTY)
        super().__init__(session, on_error, [self.form, self.chart])
        self._show()
        self._show_selection()
        self.form.on_change(self._changed)
        self.chart.on_pick(self._pick)

    def on_event(self, event: Event) -> None:
        """Show a new coverage, a selection, or a layer's error."""
        if event.kind == "coverage":
            self._show()
        elif event.kind == "selection":
            self._show_selection()
        elif event.kind in ("view", "error") and event.data.exact:
            self._add(event.data.name)
        elif event.kind == "job" and not event.data.quiet:
            self.chart.busy = event.data.label.startswith("Errors of all") and not event.data.finished

    def _value(self, summary: ErrorSummary) -> float:
        return float(getattr(summary, self.measure.field))

    def _show(self) -> None:
        """Show all layers anew: under another recipe, or by another measure."""
        names = [row.name for row in self.session.coverage.int4_rows]
        errors = self.session.errors
        self.chart.show(
            names,
            {name: self._value(errors[name].summary) for name in names if name in errors},
            subtitle=self._subtitle(),
            y_label=self.measure.label,
            y_log=self.measure.log,
            y_suffix=self.measure.suffix,
        )

    def _add(self, name: str) -> None:
        view = self.session.errors.get(name)
        if view is not None and name in self.session.coverage.configs:
            self.chart.update({name: self._value(view.summary)})
            self.chart.subtitle = self._subtitle()

    def _subtitle(self) -> str:
        wanted = self.session.coverage.configs
        known = sum(name in wanted for name in self.session.errors)
        return f"{known:,} of {len(wanted):,} int4 layers solved under this recipe"

    def _show_selection(self) -> None:
        with self.chart.hold_sync():
            self.chart.selected = list(self.session.selection)
            self.chart.current = self.session.current

    def _changed(self, _field: str, value: Value) -> None:
        self.measure = next(one for one in _MEASURES if one.field == value)
        self._show()

    def _pick(self, name: str) -> None:
        self.session.select([name])
