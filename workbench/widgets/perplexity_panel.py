"""How well a model that came int4 predicts a text: its perplexity, in place of a comparison with the original."""

from __future__ import annotations

from workbench.int4_source import ORIGINAL
from workbench.jobs import Job
from workbench.session import Event, Session
from workbench.session.perplexity import Perplexity
from workbench.widgets.commands import Command
from workbench.widgets.component import ErrorHandler
from workbench.widgets.facts import Fact
from workbench.widgets.text_panel import TextPanel

_MEASURING = (
    Command("measure", "Measure perplexity", "Run the model on the text", "primary"),
    Command("stop", "Stop measuring", "Keep the windows measured so far", enabled=False),
)
_COMPARE = f"how far int4 is from the original says more: {ORIGINAL}"


class PerplexityPanel(TextPanel):
    """Text and settings, and the perplexity of the model alone."""

    def __init__(self, session: Session, on_error: ErrorHandler) -> None:
        super().__init__(session, on_error, _MEASURING)
        if session.perplexity.refused() is not None:
            self.commands.enable(measure=False)
        self._show()

    def on_event(self, event: Event) -> None:
        """Show the text, and the perplexity as it comes."""
        if event.kind in ("quality", "perplexity"):
            self._show()
        elif event.kind == "job" and (job := event.data) is self.session.perplexity.lane.latest and job is not None:
            self._follow(job)

    def run(self, command: str) -> str:
        """Do what a button says; return what came of it."""
        if command == "stop":
            self.session.perplexity.lane.cancel()
            return "stopping after this window"
        self.session.perplexity.measure()
        return ""

    def _show(self) -> None:
        self.show_text()
        refused, found = self.session.perplexity.refused(), self.session.perplexity.latest
        if found is not None:
            verdict = f"Perplexity {found.quality.perplexity:.4g} on this text, of the int4 model alone."
            self.numbers.show(facts_of(found), verdict=verdict, notes=[*found.notes, _COMPARE])
            return
        text = "" if self.session.quality.state.origin else ": give a text first"
        verdict = f"Not measured yet{text}." if refused is None else f"Nothing can be measured: {refused}"
        self.numbers.show([], verdict=verdict, notes=[_COMPARE])

    def _follow(self, job: Job) -> None:
        self.numbers.busy = not job.finished
        self.commands.enable(measure=job.finished, stop=not job.finished)
        if not job.finished and job.progress is not None and self.session.perplexity.latest is None:
            self.numbers.verdict = f"Measuring: {job.progress.label}"
        elif job.finished:
            self._show()
            if job.error is not None:
                self.numbers.verdict = f"Not measured: {job.error}"


def facts_of(found: Perplexity) -> list[Fact]:
    """Return the numbers."""
    quality = found.quality
    rest = "all of the text" if found.available == quality.windows else f"the text has {found.available:,}"
    windows = f"{quality.windows} window{'s' * (quality.windows != 1)} of {quality.window:,}, {rest}"
    return [
        Fact("Perplexity", f"{quality.perplexity:.4g}", "of the int4 model"),
        Fact("Nats a token", f"{quality.nats_per_token:.4f}", "mean negative log-likelihood"),
        Fact("Measured on", f"{quality.tokens:,} tokens", windows),
    ]
