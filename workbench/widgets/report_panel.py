"""Save the report: one HTML file with every figure, for people without a kernel."""

from __future__ import annotations

from workbench.errors import WorkbenchError
from workbench.jobs import Job
from workbench.session import Event, Session
from workbench.session.report import JOB_LABEL, ReportFile
from workbench.sizes import size
from workbench.widgets.commands import Command, Commands
from workbench.widgets.component import ErrorHandler
from workbench.widgets.facts import Fact, Facts
from workbench.widgets.form import Field, Form, Value
from workbench.widgets.panel import Panel, row, styled

_FIELDS = (Field("path", "Report file", "text", (), "An HTML file; one that exists is replaced", wide=True),)
_HINT = "coverage, errors, speed, quality and code in one HTML file, for people without a kernel"
_MOST_NAMES = 3


class ReportPanel(Panel):
    """From what is known to a file to send around."""

    def __init__(self, session: Session, on_error: ErrorHandler) -> None:
        values: dict[str, Value] = {"path": "report.html"}
        self.form = Form(_FIELDS, values, on_error=on_error, title="Report", hint=_HINT)
        self.commands = Commands(
            [Command("report", "Save report", "Solve what is not solved yet and write the file", "primary")],
            on_error=on_error,
        )
        self.result = Facts(on_error=on_error)
        saving = styled(row(self.form, self.commands), "wb-saving")
        super().__init__(session, on_error, [saving, self.result])
        self._follow_missing()
        self.form.on_change(lambda _field, _value: self._complain(None))
        self.commands.on_command(self._run)

    def on_event(self, event: Event) -> None:
        """Show what a report would solve first, how far it is, and where the file is."""
        if event.kind == "report":
            self._show(event.data)
        elif event.kind == "job" and event.data.label.startswith(JOB_LABEL):
            self._follow(event.data)
        elif event.kind == "coverage" or (event.kind in ("view", "error") and not self.result.facts):
            self._follow_missing()

    def _run(self, command: str) -> str:
        self._complain(None)
        try:
            self.session.report(str(self.form.values["path"]).strip())
        except WorkbenchError as error:
            self._complain(error)
            return ""
        return "writing the report"

    def _follow(self, job: Job) -> None:
        self.result.busy = not job.finished
        self.commands.enable(report=job.finished)
        if not job.finished:
            at = f": {job.progress.label}" if job.progress is not None else ""
            self.result.show([], verdict=f"{job.state.capitalize()}{at} …", code="", notes=[])
        elif isinstance(job.error, WorkbenchError):
            self._complain(job.error)
        if job.state in ("cancelled", "failed"):
            self._follow_missing(f"{job.state.capitalize()}, nothing was written. ")

    def _follow_missing(self, before: str = "") -> None:
        """Say what is solved first, so that nobody wonders what takes its time."""
        if self.result.busy:
            return
        names = self.session.coverage.configs
        left = sum(name not in self.session.errors for name in names)
        layers = f"{left} of {len(names)} int4 layers" if left < len(names) else f"all {left} int4 layers"
        verdict = f"{before}{layers[0].upper()}{layers[1:]} are solved first." if left else before.strip()
        if verdict != self.result.verdict or self.result.facts:
            self.result.show([], verdict=verdict, code="", notes=[])

    def _show(self, written: ReportFile) -> None:
        missing = written.missing
        names = ", ".join(missing[:_MOST_NAMES]) + (" …" if len(missing) > _MOST_NAMES else "")
        notes = [f"{len(missing)} int4 layers could not be solved and have no error in it: {names}"] if missing else []
        fact = Fact("Written", size(written.size_bytes), "opens in any browser, without a network", "good")
        self.result.show([fact], verdict=f"Saved as {written.path.name}", code=str(written.path), notes=notes)

    def _complain(self, error: WorkbenchError | None) -> None:
        self.form.errors = {} if error is None else {"path": str(error)}
