"""The layer on show under settings that are held fast, "A", beside those of now, "B", with their numbers."""

from __future__ import annotations

import math

from workbench.measure.error_map import LOW_IS_WORSE
from workbench.records.errors import ErrorSummary
from workbench.session import Event, Session
from workbench.session.compare import Comparison
from workbench.views.groups import GroupView
from workbench.widgets.commands import Command, Commands
from workbench.widgets.compare_map import CompareMap, ComparePayload
from workbench.widgets.component import ErrorHandler
from workbench.widgets.facts import Fact, Facts, Tone
from workbench.widgets.panel import NOT_LINEAR, Panel

_WEIGHTS = ("original", "dequantized")  # metrics whose columns are weights, not groups
_START = "Pin the present settings as A, then change them: A, B and their difference come here side by side."
_COMING = "The layer is being solved as A and as B."


class ComparePanel(Panel):
    """A | B | B − A of the current layer."""

    def __init__(self, session: Session, on_error: ErrorHandler) -> None:
        self.commands = Commands(
            [
                Command("pin", "Pin as A", "Hold the present settings fast, and compare what follows with them"),
                Command("unpin", "Unpin", "Let A go", enabled=False),
            ],
            on_error=on_error,
        )
        self.map = CompareMap(on_error=on_error, message=_START)
        self.numbers = Facts(on_error=on_error)
        super().__init__(session, on_error, [self.commands, self.map, self.numbers])
        self._comparison: Comparison | None = None
        self.commands.on_command(self._on_command)
        self.map.on_pick(self._picked)
        self._enable()
        if session.compare.latest is not None:
            self._show(session.compare.latest, 0)

    def on_event(self, event: Event) -> None:
        """Show a comparison; newer ones win."""
        if event.kind == "compare":
            self._enable()
            if event.data is None or self.session.compare.pinned is None:
                self._clear()
            elif event.data.name == self.session.current:
                self._show(event.data, event.job.number if event.job else 0)
        elif event.kind == "group":
            self._mark(event.data)
        elif (failed := self.failed_view(event)) is not None:
            self._clear(str(failed.error))
        elif event.kind == "selection" and not self.shows_layer():
            self._clear()
        if event.kind in ("coverage", "selection", "compare"):
            self.map.busy = self._waits()

    def _waits(self) -> bool:
        """Say whether a comparison is to come; it may have come before its recipe was told."""
        compare = self.session.compare
        latest = compare.latest
        there = latest is not None and compare.holds(latest.name, latest.b.config)
        return compare.pinned is not None and self.shows_layer() and not there

    def _enable(self) -> None:
        self.commands.enable(unpin=self.session.compare.pinned is not None)

    def _clear(self, message: str = "") -> None:
        self._comparison = None
        coming = _COMING if self.shows_layer() else NOT_LINEAR
        self.map.clear(message or (_START if self.session.compare.pinned is None else coming))
        self.numbers.show([], verdict="", notes=[])

    def _show(self, found: Comparison, number: int) -> None:
        if self.map.show(payload_of(found, number, self.session.row(found.name).stack_rows)):
            self._comparison = found
            self.numbers.show(facts_of(found), verdict=verdict_of(found), notes=notes_of(found))
            if self.session.microscope.latest is not None:
                self._mark(self.session.microscope.latest)

    def _mark(self, view: GroupView) -> None:
        """Mark the cell of the group under the microscope."""
        found, place = self._comparison, view.microscope
        if found is None or (found.name, found.b.config) != (place.name, view.config):
            return
        weights = found.metric in _WEIGHTS
        self.map.marked = (place.row, place.first_column if weights else place.first_column // found.maps.group_size)

    def _picked(self, rows: tuple[int, int], columns: tuple[int, int]) -> None:
        """Put the worst group of a clicked cell under the microscope, as B has it."""
        found = self._comparison
        if found is None:
            return
        size = 1 if found.metric in _WEIGHTS else found.maps.group_size
        own = found.b.config.group_size
        self.session.microscope.look_at_worst(rows, (columns[0] * size // own, -(-columns[1] * size // own)))

    def _on_command(self, command: str) -> str:
        if command == "pin":
            self.session.compare.pin()
            return "A holds the present settings"
        self.session.compare.unpin()
        return "A is let go"


def payload_of(found: Comparison, seq: int, stack_rows: int | None = None) -> ComparePayload:
    """Return the maps of a comparison; `stack_rows` are the rows of an expert of a stack."""
    weights = found.metric in _WEIGHTS
    return ComparePayload(
        *(found.maps.a, found.maps.b, found.maps.difference, found.name, str(found.a), str(found.b), seq),
        col_name="input feature" if weights else "group",
        group_size=None if weights else found.maps.group_size,
        total_in=None if weights else found.in_features,
        stack_rows=stack_rows,
        low_is_worse=found.metric in LOW_IS_WORSE,
    )


def verdict_of(found: Comparison) -> str:
    """Say which is better by the mean squared error, and what it costs."""
    a, b = found.a.summary, found.b.summary
    if not found.better:
        return "A and B store the same error."
    good, other = (a, b) if found.better == "A" else (b, a)
    less = 1 - good.mse / other.mse
    bits = good.bits_per_weight - other.bits_per_weight
    size = "at the same size" if abs(bits) < 0.005 else f"with {abs(bits):.2f} bits per weight {_more(bits)}"
    return f"{found.better} is better: {less:.1%} less mean squared error, {size}."


def _more(bits: float) -> str:
    return "more" if bits > 0 else "less"


def facts_of(found: Comparison) -> list[Fact]:
    """Return the numbers of both, and how B stands to A."""
    a, b = found.a.summary, found.b.summary
    return [
        _pair("MSE", a.mse, b.mse),
        _pair("Mean |error|", a.mean_abs, b.mean_abs),
        _pair("Largest |error|", a.max_abs, b.max_abs),
        _pair("Relative error", a.relative_rmse, b.relative_rmse),
        _decibels(a, b),
        _pair("Bits per weight", a.bits_per_weight, b.bits_per_weight),
    ]


def notes_of(found: Comparison) -> list[str]:
    """Say what a person must know of either side."""
    return [f"{side}: {note}" for side, one in (("A", found.a), ("B", found.b)) for note in one.notes]


def _pair(label: str, a: float, b: float) -> Fact:
    ratio = f"B: {b / a - 1:+.1%}" if a > 0 else "A is exact"
    same = a == b
    bits = label == "Bits per weight"
    tone: Tone = "" if same or bits else ("good" if b < a else "warn")
    form = ".2f" if bits else ".3g"
    return Fact(label, f"A {a:{form}} · B {b:{form}}", "the same" if same else ratio.replace("-", "−"), tone)


def _decibels(a: ErrorSummary, b: ErrorSummary) -> Fact:
    both = math.isfinite(a.sqnr_db) and math.isfinite(b.sqnr_db)
    gain = f"B: {b.sqnr_db - a.sqnr_db:+.2f} dB".replace("-", "−") if both and a.sqnr_db != b.sqnr_db else "the same"
    tone: Tone = "" if a.sqnr_db == b.sqnr_db else ("good" if b.sqnr_db > a.sqnr_db else "warn")
    return Fact("SQNR", f"A {a.sqnr_db:.2f} · B {b.sqnr_db:.2f} dB", gain, tone)
