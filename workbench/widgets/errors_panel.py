"""The heatmap of the current layer and the numbers of its error."""

from __future__ import annotations

import threading

from workbench.kinds import EXPERTS, STACK
from workbench.measure.error_map import LOW_IS_WORSE, Metric
from workbench.measure.sampling import sampled_rows
from workbench.session import METRICS, Event, Session
from workbench.session.details import LayerDetails
from workbench.session.zoom import ZoomedBlock
from workbench.views.groups import GroupView
from workbench.views.views import LayerView
from workbench.widgets.commands import Command, Commands
from workbench.widgets.component import ErrorHandler
from workbench.widgets.error_facts import described, facts_of, output_of
from workbench.widgets.facts import Facts
from workbench.widgets.form import Field, Form, Value
from workbench.widgets.heat_payload import payload_of_map
from workbench.widgets.heatmap import HeatBlock, HeatCell, Heatmap, HeatPayload, ZoomRequest
from workbench.widgets.panel import NOT_LINEAR, Panel, row

_METRIC_NAMES = {
    "rmse": "RMS error",
    "mse": "MSE",
    "max": "largest |error|",
    "mean_abs": "mean |error|",
    "relative": "relative RMS error",
    "relative_max": "relative largest |error|",
    "sqnr": "SQNR in dB",
    "scale": "scale of each group",
    "zero": "zero of each group",
    "original": "original weight",
    "dequantized": "dequantized weight",
}
_WEIGHTS = ("original", "dequantized")  # metrics whose columns are weights, not groups
# The same error in units of the weight and relative to the group's weights.
_RELATIVE: dict[Metric, Metric] = {"rmse": "relative", "mean_abs": "relative", "max": "relative_max", "mse": "sqnr"}
_ABSOLUTE: dict[Metric, Metric] = {"relative": "rmse", "relative_max": "max", "sqnr": "mse"}
_NO_LAYER = "No layer of this model becomes int4: there is no error to show."
_UNITS = (("weight", "weight"), ("relative", "relative"))
FIELDS = (
    Field("metric", "Show", "menu", tuple((m, _METRIC_NAMES[m]) for m in METRICS), "What a cell's colour stands for"),
    Field("units", "Units", "segments", _UNITS, "Errors in weight units, or over the RMS of the group's weights"),
    Field(
        "reduce",
        "Reduce by",
        "segments",
        (("max", "max"), ("mean", "mean")),
        "How cells share a pixel; the mean hides outliers",
    ),
)

_OUTPUT = Command(
    "output", "Measure output error", "Run the calibration text through the model: how far is what the layer puts out?"
)


class ErrorsPanel(Panel):
    """Rows x groups of the current layer."""

    def __init__(self, session: Session, on_error: ErrorHandler) -> None:
        self.heatmap = Heatmap(on_error=on_error, height=560)
        self.form = Form(FIELDS, self._values(session), on_error=on_error, inline=True)
        self.numbers = Facts(on_error=on_error)
        self.commands = Commands([_OUTPUT], on_error=on_error)
        self._more = row(self.commands)  # a component's own classes stay as they were when it was drawn
        super().__init__(session, on_error, [self.form, self.heatmap, self.numbers, self._more])
        self.commands.on_command(self._measure)
        self._show_more()
        self.form.on_change(self._changed)
        self.heatmap.on_select(self._picked)
        self.heatmap.on_zoom(self._zoomed)
        self._view: LayerView | None = None
        self._marking: int | None = None  # the thread that moves the mark, which is no click
        if not self.shows_layer():
            self._clear(_NO_LAYER)

    @staticmethod
    def _values(session: Session) -> dict[str, Value]:
        """Return what the controls show."""
        relative = session.metric in _ABSOLUTE
        return {
            "metric": session.metric,
            "units": "relative" if relative else "weight",
            "reduce": session.reduce,
        }

    def on_event(self, event: Event) -> None:
        """Show a view; newer ones win."""
        if event.kind == "view":
            self._show(event.data, event.job.number if event.job else 0)
        elif event.kind == "group":
            self._mark(event.data)
        elif event.kind == "details":
            self._show_details(event.data)
        elif event.kind == "zoom":
            self._show_block(event.data)
        elif event.kind == "calibration":
            self._show_more()
        elif event.kind in ("coverage", "selection"):
            self._show_more()
            if not self.shows_layer():
                self._clear(NOT_LINEAR)
            self._show_busy()
        elif event.kind == "job" and event.data.quiet:
            self._show_busy()
            if (failed := self.failed_view(event)) is not None:
                self._clear(str(failed.error))

    def _show_busy(self) -> None:
        job = self.session.views.lane.current  # its last event comes while it still holds the lane
        self.heatmap.busy = job is not None and not job.finished

    def _clear(self, message: str) -> None:
        """Take away a picture that is not of what is on show."""
        self._view = None
        self.heatmap.clear(message)
        self.numbers.show([], badge="", notes=[])

    def _show(self, view: LayerView, number: int) -> None:
        if view.name != self.session.current:
            return
        payload = payload_of(view, 2 * number + int(view.exact), self.session.row(view.name).stack_rows)
        if not self.heatmap.show(payload):
            return
        self._view = view
        known = self.session.details.latest
        same = view.exact and known is not None and (known.name, known.config) == (view.name, view.config)
        facts = [*(output_of(known) if same and known else []), *facts_of(view)]
        self.numbers.show(facts, notes=[described(view), *view.notes])

    def _mark(self, view: GroupView) -> None:
        """Mark the cell of the group under the microscope."""
        shown, found = self._view, view.microscope
        if shown is None or not shown.exact or (shown.name, shown.config) != (found.name, view.config):
            return
        weights = shown.map.metric in _WEIGHTS
        self._marking = threading.get_ident()
        try:
            self.heatmap.selected = (found.row, found.first_column if weights else found.group)
        finally:
            self._marking = None

    def _picked(self, cell: HeatCell) -> None:
        """Put the worst group of a clicked cell under the microscope."""
        view = self._view
        if view is not None and self._marking != threading.get_ident():
            self.session.microscope.look_at_worst(*block_of(view, cell))

    def _zoomed(self, request: ZoomRequest) -> None:
        view = self._view
        if view is not None:
            self.session.zoom.look(view, request.rows, request.cols, request.turn)

    def _show_block(self, block: ZoomedBlock) -> None:
        view, shown = self._view, self.heatmap.payload
        if (
            view is None
            or shown is None
            or (view.name, view.config, view.map.metric)
            != (
                *(block.name, block.config),
                block.metric,
            )
        ):
            return
        spans = block.rows, block.columns, block.row_span, block.column_span
        self.heatmap.show_block(HeatBlock(*spans, block.values, shown.seq, block.turn))

    def _show_details(self, details: LayerDetails) -> None:
        """Add the error of the layer's output to the numbers."""
        self._show_more()
        view = self._view
        if view is not None and view.exact and (view.name, view.config) == (details.name, details.config):
            self.numbers.show([*output_of(details), *facts_of(view)], notes=[described(view), *view.notes])

    def _show_more(self) -> None:
        """Offer to measure the error of the layer's output while nobody has asked for it and it is not known."""
        details, name = self.session.details, self.session.current
        known = details.latest is not None and details.latest.name == name and details.latest.output is not None
        stacked = bool(name) and self.session.row(name).kind in (EXPERTS, STACK)
        offered = self.shows_layer() and not (details.wants_output or known or stacked)
        (self._more.remove_class if offered else self._more.add_class)("wb-away")

    def _measure(self, _command: str) -> str:
        self.session.details.measure_output()
        return ""

    def _changed(self, field: str, value: Value) -> None:
        if field == "units":
            pairs = _RELATIVE if value == "relative" else _ABSOLUTE
            field, value = "metric", pairs.get(self.session.metric, self.session.metric)
        self.session.show(**{field: value})  # type: ignore[arg-type]
        self._show_controls()

    def _show_controls(self) -> None:
        self.form.set_values(**self._values(self.session))
        errors = self.session.metric in (*_RELATIVE, *_ABSOLUTE)
        self.form.disabled = [] if errors else ["units"]


def block_of(view: LayerView, cell: HeatCell) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the rows and the groups that a cell stands for, each as (first, one past the last)."""
    rows, groups = (cell.row, cell.row_stop), (cell.group, cell.group_stop)
    if not view.exact:  # its rows are those of the sample
        sample = sampled_rows(view.total_rows, view.rows).tolist()
        rows = (sample[cell.row], sample[cell.row_stop - 1] + 1)
    if view.map.metric in _WEIGHTS:
        groups = (cell.group // view.group_size, -(-cell.group_stop // view.group_size))
    return rows, groups


def payload_of(view: LayerView, seq: int, stack_rows: int | None = None) -> HeatPayload:
    """Return the heatmap's payload of a view; `stack_rows` are the rows of an expert of a stack."""
    picture = view.map
    return payload_of_map(
        picture,
        title=view.name,
        badge=view.badge,
        seq=seq,
        groups=None if picture.metric in _WEIGHTS else (view.group_size, view.in_features),
        row_name="output feature" if view.exact else "sampled output feature",
        stack_rows=stack_rows if view.exact else None,
        low_is_worse=picture.metric in LOW_IS_WORSE,
    )
