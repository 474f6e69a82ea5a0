"""The state behind a notebook: model, recipe, selection, results. One method per user action; no widget.

Whoever shows the session listens to its events. Everything that takes longer than a blink runs on a worker thread:
previews on a latest-wins lane, measurements and exports one at a time on another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from workbench.coverage.coverage import needs_calibration
from workbench.exporting import ExportResult
from workbench.jobs import Job
from workbench.measure.error_map import Metric
from workbench.options import SolverName
from workbench.session.connected import ConnectedRooms
from workbench.session.layers import Scope
from workbench.session.script import DEFAULT_DIRECTORY, command_of, convert_command, convert_python, python_of
from workbench.session.words import facts_html, session_facts
from workbench.targets import NATIVE
from workbench.views.views import LayerView


class Session(ConnectedRooms):
    """Model, recipe, selection and results, with one method per user action; made by `open_session`.

    What is seen and made of the model is in its rooms: see `ConnectedRooms`.
    """

    def __repr__(self) -> str:
        """Name the model and the coverage."""
        return f"Session({self.source.name!r}, {self.coverage.verdict()})"

    def _repr_html_(self) -> str:
        """What is known so far as a plain table, where no widget need run."""
        return facts_html("Int4 Workbench", session_facts(self))

    # --- choosing -----------------------------------------------------------------------------------------------

    def select(self, names: Sequence[str], current: str | None = None) -> None:
        """Select layers; `current` (default: the last of them) is put on show.

        Raises:
            ConfigError: for a name that the model does not have; nothing is changed then.
        """
        for name in (*names, *([current] if current else [])):
            self.row(name)
        wanted = set(names)
        self.selection = [row.name for row in self.coverage.rows if row.name in wanted]
        show = current or (names[-1] if names else self.current)
        changed = show != self.current
        with self._state:  # or a group that is found meanwhile, of the layer before, would stay
            self.current = show
            if changed:
                self.microscope.leave()
        self._listeners.emit("selection", self)
        if changed:
            self.refresh()

    def targets(self, scope: Scope | None = None) -> list[str]:
        """Names of the linear layers that a change of the given scope touches."""
        return self.layers.targets(scope)

    def configure(
        self,
        *,
        group_size: int | None = None,
        domain: str | None = None,
        solver: SolverName | None = None,
        preserve_zero: bool | Literal["auto"] | None = None,
        inner_k_tiles: int | None = None,
        options: Mapping[str, Any] | None = None,
        scope: Scope | None = None,
    ) -> None:
        """Change settings of the scope's int4 layers; what is not given stays as it is, layer by layer.

        Dense layers of the scope stay dense, unless all of them are: then they become int4.

        Args:
            group_size: 256, 128, 64 or 32.
            domain: "auto", "float", "int" or "symmetric".
            solver: "rtn", "hqq", "refined" or "calibrated"; the options of another solver are dropped.
            preserve_zero: True, False, or "auto" (the domain's own default).
            inner_k_tiles: 2, 4 or 8.
            options: Settings of the solver (of the one on show, when none is given) by name; layers of another solver
                keep theirs.
            scope: "layer", "selection" or "all"; None follows `self.scope`.

        Raises:
            ConfigError: for settings that cannot work together; nothing is changed then.
        """
        self.layers.configure(
            scope,
            group_size=group_size,
            domain=domain,
            solver=solver,
            preserve_zero=preserve_zero,
            inner_k_tiles=inner_k_tiles,
            options=options,
        )

    def keep_dense(self, scope: Scope | None = None) -> None:
        """Leave the layers of the scope in full precision."""
        self.layers.keep_dense(scope)

    def make_int4(self, scope: Scope | None = None) -> None:
        """Make the layers of the scope int4 with the settings on show; the output head only when it is selected."""
        self.layers.make_int4(scope)

    @property
    def can_undo(self) -> bool:
        """Whether there is a recipe to go back to."""
        return self.recipes.history.can_undo

    @property
    def can_redo(self) -> bool:
        """Whether there is an undo to take back."""
        return self.recipes.history.can_redo

    def undo(self) -> bool:
        """Go back to the recipe before the last change; False when there is none."""
        return self.history.undo()

    def redo(self) -> bool:
        """Take back the last undo; False when there is none."""
        return self.history.redo()

    def go_to(self, place: int) -> bool:
        """Take the recipe at a place of the history, 0 for the first; see `SessionHistory.go_to`."""
        return self.history.go_to(place)

    # --- seeing -------------------------------------------------------------------------------------------------

    def show(self, *, metric: Metric | None = None, reduce: Literal["max", "mean"] | None = None) -> None:
        """Change what the heatmap shows; see `SessionViews.show`."""
        self.views.show(metric, reduce)

    @property
    def errors(self) -> dict[str, LayerView]:
        """Layer name → its latest exact view under the recipe; replaced, never changed in place."""
        return self.exact.views

    def sweep_errors(self) -> Job:
        """Solve every int4 layer under the recipe and record its errors; see `SessionErrors.start`."""
        self._choosable("its errors are measured against the original")
        return self.exact.start()

    def improve(self) -> Job:
        """Look for a recipe with less error at no more bytes, and take it; see `SessionImprove.start`."""
        self._choosable("no recipe applies to it")
        return self.improving.start()

    # --- exporting ----------------------------------------------------------------------------------------------

    def export(
        self, directory: Path | str, *, format: str = NATIVE, overwrite: bool = False, verify: bool = True
    ) -> Job:
        """Quantize under the recipe and write a checkpoint, then check what was written.

        A model that was opened int4 already is converted: its codes stay as they are.

        Args:
            directory: The folder to make.
            format: "native", or a format that `exports.targets()` lists.
            overwrite: Replace a folder that exists; old or new is there at any moment, never a mixture.
            verify: Check every hash of what was written; a native checkpoint is loaded again and generates too.

        Raises:
            CheckpointError: when the format cannot hold the recipe, the directory is blank, holds the model or the
                working folder, or replacing it would delete files that are no checkpoint.
            ModelError: when a live model is on the meta device, or has int4 layers and was opened with a recipe.
            ConfigError: when no layer becomes int4, one is to be calibrated without a text, or other work is running.
        """
        return self.exports.start(directory, target=format, overwrite=overwrite, verify=verify)

    @property
    def exported(self) -> ExportResult | None:
        """The latest finished export, or None."""
        return self.exports.latest

    def report(self, path: Path | str = "report.html") -> Job:
        """Write one HTML file with all figures, for people without a kernel; see `SessionReport.start`."""
        return self.reporting.start(path)

    def as_python(self, directory: Path | str = DEFAULT_DIRECTORY, format: str = NATIVE) -> str:
        """Return a cell that, run alone, quantizes the same model under the same recipe and saves it.

        A calibration text that is in no file is written beside the directory, for the cell to read.

        Raises:
            ConfigError: when a layer is to be calibrated without a text, or its file cannot be written.
        """
        if self.given is not None:
            return convert_python(self.source, directory, format)
        text = self.calibration.as_python(directory) if needs_calibration(self.coverage) else None
        return python_of(self.source, self.recipe, directory, text, format)

    def as_command(self, directory: Path | str = DEFAULT_DIRECTORY, format: str = NATIVE) -> str:
        """Return a command line that quantizes the same model under the same recipe and saves it.

        A calibration text that is in no file is written beside the directory, for the command to read.

        Raises:
            ConfigError: for a model in memory, or a layer to be calibrated without a text that can be written.
        """
        if self.given is not None:
            return convert_command(self.source, directory, format)
        text = self.calibration.as_file(directory) if needs_calibration(self.coverage) else None
        return command_of(self.source, self.recipe, directory, text, self.recipes.file, format)
