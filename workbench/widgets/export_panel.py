"""Choose a format that holds the recipe, write it, check it, and show the lines that load it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workbench.errors import CheckpointError
from workbench.exporting import ExportResult
from workbench.quantization_report import layer_notes
from workbench.recipe.recipe import Recipe
from workbench.records.errors import LayerResult
from workbench.session import Event, Session
from workbench.sizes import size
from workbench.targets import NATIVE, TARGETS
from workbench.targets.run import TargetTable, engines_of
from workbench.targets.target import Fit
from workbench.widgets.commands import Command, Commands
from workbench.widgets.component import ErrorHandler
from workbench.widgets.facts import Fact, Facts
from workbench.widgets.form import Field, Form, Value
from workbench.widgets.formats import FormatRow, FormatTable
from workbench.widgets.panel import Panel, row, styled

_MOST_NOTES = 8
_JOB = "Export to "  # how the labels of exports begin
FIELDS = (
    Field("directory", "Directory", "text", (), "Where the checkpoint goes; made when it does not exist", wide=True),
    Field("overwrite", "Replace what is there", "switch", (), "Off: an existing directory is refused"),
    Field(
        "verify",
        "Check what was written",
        "switch",
        (),
        "Checks every hash; a native checkpoint is loaded again and generates a few tokens",
    ),
)
_FIT = Command("fit", "Make the recipe fit", "Change the settings that this format cannot hold", "primary")
_BACK = Command("undo", "Undo", "Go back to the recipe before it was made to fit")


class ExportPanel(Panel):
    """From recipe to checkpoint."""

    def __init__(self, session: Session, on_error: ErrorHandler) -> None:
        values: dict[str, Value] = {"directory": "exports/int4", "overwrite": False, "verify": True}
        self.formats = FormatTable(on_error=on_error)
        self.form = Form(FIELDS, values, on_error=on_error, title="Export")
        does = "Quantize under the recipe and write the checkpoint"
        does = does if session.given is None else "Convert and write the checkpoint; the codes stay as they are"
        self.commands = Commands(
            [
                Command("export", "Export checkpoint", does, "primary"),
                Command("python", "Copy as Python", "Copy and show a cell that does the same without the app"),
                Command("shell", "Copy as command", "Copy and show a command line that does the same without the app"),
            ],
            on_error=on_error,
        )
        self.result = Facts(on_error=on_error)
        self.refusal = Facts(on_error=on_error)
        self.fitting = Commands(on_error=on_error)
        self._fitted: tuple[str, Recipe] | None = None  # a format, and the recipe that was made to fit it
        self._callout = styled(row(self.refusal, self.fitting, grow=self.refusal), "wb-callout")
        parts = [self.formats, self._callout, self.form, self.commands, self.result]
        super().__init__(session, on_error, parts)
        self.formats.observe(lambda _change: self._follow_choice(), names="selected")
        self._show_formats(session.exports.table)
        self.form.on_change(lambda _field, _value: self._complain(None))
        self.commands.on_command(self._run)
        self.fitting.on_command(self._fit)

    def on_event(self, event: Event) -> None:
        """Show the plan after a change, and the result after an export."""
        if event.kind == "coverage":
            answered = self.session.exports.table is not None  # as after a view that came before its recipe was told
            self.formats.busy = self.session.exports.some and not answered
            self._follow_choice()
        elif event.kind == "targets":
            self._show_formats(self.session.exports.table)
        elif event.kind == "export":
            self._show_result(event.data)
        elif event.kind == "job" and event.data.label.startswith(_JOB):
            self._complain(event.data.error)

    def _complain(self, error: BaseException | None) -> None:
        """Say under the directory why nothing was written there."""
        self.form.errors = {"directory": str(error)} if isinstance(error, CheckpointError) else {}

    def _run(self, command: str) -> str:
        values: dict[str, Any] = self.form.values
        chosen = self.formats.selected or NATIVE
        if command == "python":
            self.result.copy_code(self.session.as_python(values["directory"], chosen))
            return ""
        if command == "shell":
            self.result.copy_code(self.session.as_command(values["directory"], chosen))
            return ""
        self.session.export(values["directory"], format=chosen, overwrite=values["overwrite"], verify=values["verify"])
        return "exporting"

    def _fit(self, command: str) -> str:
        if command == "undo":
            return "undone" if self.session.undo() else "nothing to undo"
        chosen = self.formats.selected or NATIVE
        self.session.exports.fit(chosen)
        self._fitted = chosen, self.session.recipe
        self._follow_choice()
        return ""

    def _show_formats(self, table: TargetTable | None) -> None:
        if table is None:
            self.formats.show([_row(NATIVE, Fit(NATIVE))])
            self.formats.busy = self.session.exports.some  # where nothing becomes int4, none is asked
        else:
            self.formats.show([_row(name, table.fits[name]) for name in table.fits])
        self._follow_choice()

    def _follow_choice(self) -> None:
        """Show what the chosen format would take, and which buttons make sense for it."""
        table, chosen = self.session.exports.table, self.formats.selected or NATIVE
        coverage = self.session.coverage
        fit = None if table is None else table.fits.get(chosen)
        refused = fit is not None and fit.state == "refused"
        self.commands.enable(export=self.session.exports.some and not refused)
        self._show_refusal(chosen, fit if refused else None)
        after = coverage.after_bytes if fit is None or not fit.size_bytes else fit.size_bytes
        facts = [Fact("Format", _title(chosen), "" if fit is None else str(fit.state))]
        if refused:
            self.result.show([], title="", verdict="", badge="", notes=[], code="")
            return
        facts.append(Fact("Planned size", size(after), f"from {size(coverage.before_bytes)}"))
        notes = [] if fit is None else list(fit.notes)
        self.result.show(facts, title="", verdict="", badge="", notes=notes, code="")

    def _show_refusal(self, chosen: str, refused: Fit | None) -> None:
        """Say above the form why a format is refused, with the button that mends it; afterwards, what was changed."""
        if self._fitted == (chosen, self.session.recipe):
            self.refusal.show([], verdict=f"The recipe was changed to fit {_title(chosen)}.", notes=[])
            self.fitting.set_buttons([_BACK])
        elif refused is not None:
            notes = [str(misfit) for misfit in refused.misfits]
            held = "recipe" if self.session.given is None else "model"
            self.refusal.show([], verdict=f"{_title(chosen)} cannot hold this {held}.", notes=notes)
            self.fitting.set_buttons([_FIT] if refused.change else [])
        else:
            self._callout.add_class("wb-away")
            return
        self._callout.remove_class("wb-away")

    def _show_result(self, result: ExportResult) -> None:
        report = result.report
        said = "no weight changed" if report.max_error == 0 else f"from rounding, in {report.worst}"
        facts = [
            Fact("Format", _title(report.target), report.fit.rounds or "exact"),
            Fact("Written", size(result.size_bytes), f"{result.files} files in {result.seconds:.1f} s"),
            Fact("max |Δw|", f"{report.max_error:.3g}", said, "good" if report.max_error == 0 else ""),
            Fact(
                "Verified", "yes" if result.verified else "not asked", result.checked, "good" if result.verified else ""
            ),
        ]
        notes = [f"Sample: {result.sample}"] if result.sample else []
        notes += [*report.fit.notes, *notes_of(result.layers)]
        lines = [line for line in (report.load.python, _commented(report.load.shell)) if line]
        self.result.show(
            facts, title=f"Exported to {result.directory}", verdict="", badge="", notes=notes, code="\n\n".join(lines)
        )


def notes_of(layers: Sequence[LayerResult]) -> list[str]:
    """Say what a person must know of the layers, the same remark once for all that it is about."""
    lines = layer_notes(layers)
    left = len(lines) - _MOST_NOTES
    return lines if left <= 0 else [*lines[:_MOST_NOTES], f"and {left} more remarks: session.exported.layers has all"]


def _row(name: str, fit: Fit) -> FormatRow:
    """Return a format's row: what rounds, or in a few words what does not fit; the notes stand below it when chosen."""
    briefs = [misfit.brief for misfit in fit.misfits] + (["it can be made to fit"] if fit.change else [])
    remark = "; ".join(briefs) if briefs else fit.rounds
    forecast = size(fit.size_bytes) if fit.size_bytes else ""
    return FormatRow(name, _title(name), engines_of(name), fit.state, forecast, remark, bool(fit.change))


def _title(name: str) -> str:
    return "Native" if name == NATIVE else TARGETS[name].title


def _commented(shell: str) -> str:
    return f"# in a shell\n{shell}" if shell else ""
