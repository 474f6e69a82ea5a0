"""Write a checkpoint, check it by loading it, and show the recipe as Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workbench.coverage import size
from workbench.exporting import ExportResult
from workbench.quantize import layer_notes
from workbench.records import LayerResult
from workbench.session import Event, Session
from workbench.widgets.commands import Command, Commands
from workbench.widgets.component import ErrorHandler
from workbench.widgets.facts import Fact, Facts
from workbench.widgets.form import Field, Form, Value
from workbench.widgets.panel import Panel

_MOST_NOTES = 8
FIELDS = (
    Field("directory", "Directory", "text", (), "Where the checkpoint goes; made when it does not exist", wide=True),
    Field("overwrite", "Replace what is there", "switch", (), "Off: an existing directory is refused"),
    Field(
        "verify",
        "Load it again and generate",
        "switch",
        (),
        "Checks every hash, loads the checkpoint and generates a few tokens",
    ),
)


class ExportPanel(Panel):
    """From recipe to checkpoint."""

    def __init__(self, session: Session, on_error: ErrorHandler) -> None:
        values: dict[str, Value] = {"directory": "exports/int4", "overwrite": False, "verify": True}
        self.form = Form(FIELDS, values, on_error=on_error, title="Export")
        self.commands = Commands(
            [
                Command("export", "Export checkpoint", "Quantize under the recipe and write the checkpoint", "primary"),
                Command("python", "Copy as Python", "Show a cell that does the same without the app"),
            ],
            on_error=on_error,
        )
        self.result = Facts(on_error=on_error)
        super().__init__(session, on_error, [self.form, self.commands, self.result])
        self._show_plan()
        self.commands.on_command(self._run)

    def on_event(self, event: Event) -> None:
        """Show the plan after a change, and the result after an export."""
        if event.kind == "coverage":
            self._show_plan()
        elif event.kind == "export":
            self._show_result(event.data)

    def _run(self, command: str) -> str:
        values: dict[str, Any] = self.form.values
        if command == "python":
            self.result.code = self.session.as_python(values["directory"])
            return ""
        self.session.export(values["directory"], overwrite=values["overwrite"], verify=values["verify"])
        return "exporting"

    def _show_plan(self) -> None:
        coverage = self.session.coverage
        facts = [
            Fact("Format", "native", "portable codes, any device"),
            Fact("Planned size", size(coverage.after_bytes), f"from {size(coverage.before_bytes)}"),
        ]
        self.result.show(facts, title="", verdict="", badge="", notes=[], code="")

    def _show_result(self, result: ExportResult) -> None:
        facts = [
            Fact("Format", "native", "portable codes, any device"),
            Fact("Written", size(result.size_bytes), f"{result.files} files in {result.seconds:.1f} s"),
            Fact(
                "Verified", "yes" if result.verified else "not asked", result.checked, "good" if result.verified else ""
            ),
        ]
        notes = [f"Sample: {result.sample}"] if result.sample else []
        notes += notes_of(result.layers)
        code = (
            "import workbench.hf\nfrom transformers import AutoModelForCausalLM\n\n"
            f"model = AutoModelForCausalLM.from_pretrained({str(result.directory)!r})"
        )
        self.result.show(facts, title=f"Exported to {result.directory}", badge="", notes=notes, code=code)


def notes_of(layers: Sequence[LayerResult]) -> list[str]:
    """Say what a person must know of the layers, the same remark once for all that it is about."""
    lines = layer_notes(layers)
    left = len(lines) - _MOST_NOTES
    return lines if left <= 0 else [*lines[:_MOST_NOTES], f"and {left} more remarks: session.exported.layers has all"]
