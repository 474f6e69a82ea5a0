"""`Workbench`: the app in a notebook. Panels over one session; a bare `app` shows them all."""

from __future__ import annotations

import threading
import traceback
from pathlib import Path
from typing import Any

import ipywidgets
import traitlets
from torch import nn

from workbench.errors import WorkbenchError
from workbench.jobs import Job
from workbench.recipe.recipe import Recipe
from workbench.session import Event, Session, open_session
from workbench.session.words import facts_html, session_facts
from workbench.widgets.calibration_panel import CalibrationPanel
from workbench.widgets.compare_panel import ComparePanel
from workbench.widgets.configure_panel import ConfigurePanel
from workbench.widgets.convergence_panel import ConvergencePanel
from workbench.widgets.errors_panel import ErrorsPanel
from workbench.widgets.export_panel import ExportPanel
from workbench.widgets.given_panels import GivenLayerPanel, GivenRecipePanel
from workbench.widgets.histogram_panel import HistogramPanel
from workbench.widgets.improve_panel import ImprovePanel
from workbench.widgets.job_commands import JobCommands
from workbench.widgets.layer_errors_panel import LayerErrorsPanel
from workbench.widgets.layers_panel import LayersPanel
from workbench.widgets.microscope_panel import MicroscopePanel
from workbench.widgets.panel import close_children, row, styled
from workbench.widgets.perplexity_panel import PerplexityPanel
from workbench.widgets.quality_panel import QualityPanel
from workbench.widgets.quality_words import tab_badge
from workbench.widgets.recipe_panel import RecipePanel
from workbench.widgets.report_panel import ReportPanel
from workbench.widgets.speed_panel import SpeedPanel
from workbench.widgets.status import Status
from workbench.widgets.tabs import GIVEN_TABS, TABS, Tabs
from workbench.widgets.tools import Tools


class Workbench(ipywidgets.VBox):
    """The int4 workbench over a model: layers, settings, errors, speed and export, all linked.

    One that is int4 already is shown as it is, to be timed and converted; errors and settings take the original.

    Args:
        model_or_path: A live model (not changed), a model folder (read by header and slice), or None: the demo model;
            or an int4 model, live or on disk in any format that `wb.import_checkpoint` reads.
        tokenizer: Saved beside an exported checkpoint of a live model.
        device: Device that will run the layers; None is where a live model is, and for a folder "cuda" when this
            machine has it, or the CPU.

    Attributes:
        session: The state behind the view; everything that a click does is one of its methods.
        layers: The panel with the layer table.
        configure: The panel with the settings.
        calibration: The panel with the calibration text, shown once a layer is calibrated or its output error wanted.
        errors: The panel with the heatmap and its numbers.
        convergence: The panel with the solver's error by step.
        microscope: The panel with the levels of one group.
        compare: The panel that holds settings fast and shows them beside those of now.
        histogram: The panel with the histograms of weights, levels and errors.
        layer_errors: The panel with the error of every layer in the model's order.
        speed: The panel with the speedup chart.
        quality: The panel with perplexity and divergence on a text, and a prompt on both models.
        recipe_panel: The panel with the recipe's rules, changes, history, text and files.
        export: The panel that writes a checkpoint.
        report: The panel that saves the report.
        tabs: Which parts are shown; `tabs.selected` may be set.
        improve: The panel with what Improve changed, shown once it has an answer.
        given: Of a model that came int4, the panels with a layer's form, its recipe and its perplexity; else none.
        tools: Improve, undo, redo, and the sweep over all layers.
        commands: Resume where work stopped short of its end, and Cancel while something runs.
        status: The running job, and what went wrong.

    Traits:
        recipe: The recipe; set it to change every panel.
        selection: Names of the selected layers; set it to select.
        view: The newest view of a layer's errors, or None.

    Raises:
        ModelError: when the model cannot be read.
        CheckpointError: when an int4 checkpoint is damaged.
    """

    recipe = traitlets.Instance(Recipe)
    selection = traitlets.List(traitlets.Unicode())
    view = traitlets.Any(None, allow_none=True)

    def __init__(
        self, model_or_path: nn.Module | str | Path | None = None, tokenizer: Any = None, *, device: str | None = None
    ) -> None:
        self._showing = threading.RLock()  # one event at a time, or a panel could write what it read before another's
        self._told: Recipe | None = None  # the recipe that the session told: taking it over is no wish for it
        self.session: Session = open_session(
            "demo" if model_or_path is None else model_or_path, tokenizer, device=device
        )
        self.status = Status(on_error=self._on_error)
        self.layers = LayersPanel(self.session, self._on_error)
        self.configure = ConfigurePanel(self.session, self._on_error)
        self.calibration = CalibrationPanel(self.session, self._on_error)
        self.errors = ErrorsPanel(self.session, self._on_error)
        self.convergence = ConvergencePanel(self.session, self._on_error)
        self.microscope = MicroscopePanel(self.session, self._on_error)
        self.compare = ComparePanel(self.session, self._on_error)
        self.histogram = HistogramPanel(self.session, self._on_error)
        self.layer_errors = LayerErrorsPanel(self.session, self._on_error)
        self.speed = SpeedPanel(self.session, self._on_error)
        self.quality = QualityPanel(self.session, self._on_error)
        self.recipe_panel = RecipePanel(self.session, self._on_error)
        self.export = ExportPanel(self.session, self._on_error)
        self.report = ReportPanel(self.session, self._on_error)
        self.improve = ImprovePanel(self.session, self._on_error)
        is_int4 = self.session.given is not None
        panels = (GivenLayerPanel, GivenRecipePanel, PerplexityPanel) if is_int4 else ()
        self.given = [panel(self.session, self._on_error) for panel in panels]
        self.tools = Tools(self.session, on_error=self._on_error)
        self.commands = JobCommands(on_error=self._on_error)
        self.tools.on_command(self._on_command)
        self.commands.on_command(self._on_command)
        self.tabs = Tabs(GIVEN_TABS if is_int4 else TABS, on_error=self._on_error)
        header = styled(ipywidgets.Box([self.tools, self.layers.verdict]), "wb-app-header")
        footer = row(self.status, self.commands, grow=self.status)
        left = ipywidgets.VBox([self.layers, self.calibration, self.convergence])
        right = ipywidgets.VBox([self.errors, *self.given[:1]])
        columns = [styled(column, "wb-app-column", "wb-on-layers") for column in (left, right)]
        wide = [
            *(("layers", panel) for panel in (self.microscope, self.compare, self.histogram, self.layer_errors)),
            *(("speed", self.speed), ("quality", self.quality), ("recipe", self.recipe_panel), ("export", self.export)),
            ("export", self.report),
            *zip(("recipe", "quality"), self.given[1:], strict=False),
        ]
        below = [styled(panel, "wb-across", f"wb-on-{tab}") for tab, panel in wide]
        above = [styled(header, "wb-panel", "wb-across"), styled(ipywidgets.VBox([self.tabs]), "wb-across")]
        for panel in (self.layers, self.errors, *self.given[:1]):
            styled(panel, "wb-tall")
        for panel in (self.convergence, self.histogram, self.layer_errors):
            styled(panel, "wb-aside")  # a third column where there is room for one
        lost = (self.configure, self.errors, self.convergence, self.microscope, self.compare, self.histogram)
        for panel in (*lost, self.layer_errors, self.recipe_panel, self.quality) if is_int4 else ():
            styled(panel, "wb-away")  # there is no original to measure errors against, and no recipe to choose
        settings = styled(self.configure, "wb-across", "wb-on-layers", "wb-configure")
        parts = [*above, styled(self.improve, "wb-across"), settings, *columns, *below]
        grid = styled(ipywidgets.Box(parts), "wb-app-grid")
        super().__init__([grid, styled(footer, "wb-panel", "wb-footer")])
        styled(self, "wb-app")
        self.recipe = self.session.recipe
        self.selection = self.session.selection
        self._forget = self.session.listen(self._on_event)
        self.observe(self._recipe_set, names="recipe")
        self.observe(self._selection_set, names="selection")
        self.session.ahead.on = True
        self.session.refresh()

    def __repr__(self) -> str:
        """Name the model and the coverage without serialising a widget."""
        return f"Workbench({self.session.source.name!r}, {self.session.coverage.verdict()})"

    def _repr_html_(self) -> str:
        """What is known so far as a plain table, for pages where no widget runs."""
        hint = "Run the cell in JupyterLab, Notebook 7, VS Code, Colab or Voilà to work with it."
        return facts_html("Int4 Workbench", session_facts(self.session), [hint])

    def cancel(self) -> None:
        """Stop what runs at its next block."""
        self.session.cancel()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until nothing runs; False when `timeout_s` seconds passed first."""
        return self.session.wait(timeout_s)

    def close(self) -> None:
        """Stop what runs and close every panel's channel."""
        if not hasattr(self, "_forget"):  # opening the model failed, and the interpreter lets go of the rest
            return
        self._forget()
        self.session.cancel()
        close_children(self)
        super().close()

    def _on_event(self, event: Event) -> None:
        panels = (
            *(self.layers, self.configure, self.calibration, self.errors, self.convergence),
            *(self.microscope, self.compare, self.histogram, self.layer_errors, self.speed),
            *(self.quality, self.recipe_panel, self.export, self.report, self.improve, *self.given),
        )
        with self._showing:
            for show in (*(panel.on_event for panel in panels), self._show):
                try:
                    show(event)
                except Exception as error:  # the other panels and the person must be told, whatever one panel does
                    self._on_error(error, f"showing {event.kind}")

    def _show(self, event: Event) -> None:
        if event.kind == "coverage":
            self._told = self.session.recipe
            self.recipe = self._told
            self.tools.follow()
        elif event.kind == "selection":
            self.selection = list(self.session.selection)
        elif event.kind == "view":
            self.view = event.data
        elif event.kind == "quality":
            self.tabs.badge("quality", tab_badge(self.session.quality.state))
        elif event.kind == "job":
            self._show_job(event.data)
        elif event.kind == "problem":
            job = event.job
            self.status.show_problem(event.data, job.label if job else "", job.details if job else "")

    def _show_job(self, job: Job) -> None:
        if not job.quiet or job.state == "failed":
            self.status.show_job(job)
        self.commands.follow(job)

    def _on_command(self, command: str) -> str:
        if command == "cancel":
            busy = any(lane.busy for lane in self.session.lanes)
            self.session.cancel()
            return "stopping at the next block" if busy else "nothing runs"
        if command == "undo":
            return "undone" if self.session.undo() else "nothing to undo"
        if command == "redo":
            return "done again" if self.session.redo() else "nothing to redo"
        if command == "resume":
            return self.commands.resume()
        if command == "improve":
            self.session.improve()
        else:
            self.session.sweep_errors()
        return ""

    def _recipe_set(self, change: Any) -> None:
        if change["new"] is not self._told:  # which may be an older one by now
            self.session.set_recipe(change["new"])

    def _selection_set(self, change: Any) -> None:
        if list(change["new"]) != self.session.selection:
            self.session.select(change["new"])

    def _on_error(self, error: Exception, where: str) -> None:
        details = "".join(traceback.format_exception(error))
        self.status.show_problem(error, where if not isinstance(error, WorkbenchError) else "", details)
