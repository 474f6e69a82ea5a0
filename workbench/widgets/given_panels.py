"""What stands in place of errors and recipe where a model came int4 already: how it is stored, and what is missing."""

from __future__ import annotations

from workbench.checkpoint.native import ModuleFormat
from workbench.int4_source import ORIGINAL
from workbench.recipe.text import recipe_text
from workbench.session import Event, Session
from workbench.widgets.component import ErrorHandler
from workbench.widgets.facts import Fact, Facts
from workbench.widgets.panel import Panel
from workbench.widgets.tabs import Tab

GIVEN_TABS = (
    Tab("layers", "Layers", "Which layers are int4 already, and how each is stored"),
    Tab("speed", "Speed", "Int4 against dense on this machine, by batch size"),
    Tab("quality", "Quality", "How well the model predicts a text"),
    Tab("recipe", "Recipe", "The recipe that the model was made with, where it says so"),
    Tab("export", "Export", "Convert the model to another format, its codes as they are; save a report"),
)
NO_ORIGINAL = "errors are measured against the original weights, which are not here: to see them, and to choose anew, "


class GivenLayerPanel(Panel):
    """How the layer on show is stored, in place of the heatmap of its errors."""

    def __init__(self, session: Session, on_error: ErrorHandler) -> None:
        self.facts = Facts(on_error=on_error)
        super().__init__(session, on_error, [self.facts])
        self._show()

    def on_event(self, event: Event) -> None:
        """Show the layer that is on show now."""
        if event.kind == "selection":
            self._show()

    def _show(self) -> None:
        session = self.session
        row = session.row(session.current) if session.current else None
        form = None if session.given is None or row is None else session.given.forms.get(row.name)
        title = "" if row is None else row.name
        notes = [NO_ORIGINAL + ORIGINAL]
        if row is None or form is None:
            self.facts.show([], title=title, verdict="Dense, in a model that is int4 already.", notes=notes)
            return
        facts = form_facts(form, row.bits_per_weight)
        self.facts.show(facts, title=title, verdict="Int4 already: its errors take the original.", notes=notes)


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
