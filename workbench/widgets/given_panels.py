"""What stands in place of errors and recipe where a model came int4 already: how it is stored, and what is missing."""

from __future__ import annotations

from typing import cast

from workbench.checkpoint.native import ModuleFormat
from workbench.int4_source import ORIGINAL
from workbench.kinds import HEAD, QUANTIZABLE_KINDS
from workbench.recipe.text import recipe_text
from workbench.session import Event, Session
from workbench.session.stored import StoredMetric, StoredView
from workbench.widgets.bars import BarChart, Bars
from workbench.widgets.component import ErrorHandler
from workbench.widgets.facts import Fact, Facts
from workbench.widgets.form import Field, Form, Value
from workbench.widgets.heat_payload import payload_of_map
from workbench.widgets.heatmap import Heatmap, HeatPayload
from workbench.widgets.panel import Panel

_SHOW = Field(
    "stored_metric",
    "Show",
    "menu",
    (("scale", "scale of each group"), ("zero", "zero of each group"), ("dequantized", "dequantized weight")),
    "What a cell's colour stands for",
)
_NOT_READ = "The layer is being read."
_DENSE = "Nothing of this weight is in int4."
NO_ORIGINAL = "errors are measured against the original weights, which are not here: to see them, and to choose anew, "


class GivenLayerPanel(Panel):
    """What is stored of the layer on show, in place of the heatmap of its errors."""

    def __init__(self, session: Session, on_error: ErrorHandler) -> None:
        self.form = Form([_SHOW], {"stored_metric": session.stored.metric}, on_error=on_error, inline=True)
        self.heatmap = Heatmap(on_error=on_error)
        self.facts = Facts(on_error=on_error)
        self.codes = Bars(BarChart(title="Codes", empty=_NOT_READ), on_error=on_error)
        super().__init__(session, on_error, [self.facts, self.form, self.heatmap, self.codes])
        self._show()
        self.form.on_change(self._changed)

    def on_event(self, event: Event) -> None:
        """Show the layer that is on show now, and what is stored of it."""
        if event.kind == "selection":
            self._show()
        elif event.kind == "stored":
            self._show_stored(event.data, event.job.number if event.job else 0)
        elif event.kind == "job" and (job := event.data) is self.session.stored.lane.latest and job is not None:
            self.heatmap.busy = not job.finished
            if job.error is not None:
                self._clear(str(job.error))

    def _show(self) -> None:
        session = self.session
        row = session.row(session.current) if session.current else None
        form = None if session.given is None or row is None else session.given.forms.get(row.name)
        title = "" if row is None else row.name
        notes = [NO_ORIGINAL + ORIGINAL]
        if row is None or form is None:
            more = []
            if session.given is not None and row is not None and row.kind in QUANTIZABLE_KINDS:
                more = [session.given.how_more(head=row.kind == HEAD)]
            self.facts.show([], title=title, verdict="Dense, in a model that is int4 already.", notes=[*more, *notes])
            self._clear(_DENSE)
            return
        verdict = "Int4 already: its errors take the original, and this is what is stored."
        self.facts.show(form_facts(form, row.bits_per_weight), title=title, verdict=verdict, notes=notes)
        if session.stored.latest is None or session.stored.latest.name != row.name:
            self._clear(_NOT_READ)

    def _clear(self, message: str) -> None:
        self.heatmap.clear(message)
        self.codes.show(BarChart(title="Codes", empty=message))

    def _show_stored(self, view: StoredView, number: int) -> None:
        if view.name == self.session.current and self.heatmap.show(payload_of(view, number)):
            self.codes.show(codes_chart(view))

    def _changed(self, _field: str, value: Value) -> None:
        self.session.stored.show(cast(StoredMetric, value))


class GivenRecipePanel(Panel):
    """The recipe that the model was made with, in place of one to change."""

    def __init__(self, session: Session, on_error: ErrorHandler) -> None:
        self.facts = Facts(on_error=on_error)
        super().__init__(session, on_error, [self.facts])
        made = None if session.given is None else session.given.recipe
        self.facts.show(
            [],
            title="Recipe",
            verdict="The model is int4 already: no recipe applies to it."
            + (" It was made with this one:" if made is not None else " It does not say which it was made with."),
            notes=[f"to take another, {ORIGINAL}"],
            code="" if made is None else recipe_text(made.to_json()),
        )

    def on_event(self, event: Event) -> None:
        """Nothing that happens changes it."""


def payload_of(view: StoredView, seq: int) -> HeatPayload:
    """Return the heatmap's payload of what is stored."""
    form = view.form
    return payload_of_map(
        view.map,
        title=view.name,
        badge="as stored",
        seq=seq,
        groups=None if view.metric == "dequantized" else (form.group_size, form.in_features),
        stack_rows=form.out_features if form.experts else None,
    )


def codes_chart(view: StoredView) -> BarChart:
    """Return how many weights have each code."""
    return BarChart(
        view.codes,
        -0.5,
        15.5,
        title="Codes",
        subtitle=f"{view.name} · {sum(view.codes):,} weights",
        x_label="code",
        what="weights",
    )


def form_facts(form: ModuleFormat, bits_per_weight: float) -> list[Fact]:
    """Return how an int4 layer is stored."""
    solver = form.solved_by.partition("/")[0]
    return [
        Fact("Group size", str(form.group_size), "weights per scale"),
        Fact("Zero-point domain", form.domain),
        Fact("Scales", form.scale_dtype),
        Fact("Bits per weight", f"{bits_per_weight:.2f}", "scales and zeros included"),
        Fact("Solver", solver or "not known", "that found the codes"),
    ]
