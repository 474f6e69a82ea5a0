"""The layer table with the coverage, and the line that sums it up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from workbench.checkpoint.native import ModuleFormat
from workbench.config import GROUP_SIZES
from workbench.coverage.coverage import ALREADY, Coverage
from workbench.kinds import INT4, QUANTIZABLE_KINDS
from workbench.measure.decode import DecodeSpeed
from workbench.records.layers import CoverageRow
from workbench.session import Event, Session
from workbench.sizes import size
from workbench.views.views import LayerView
from workbench.widgets.component import ErrorHandler
from workbench.widgets.facts import Fact, Facts
from workbench.widgets.layer_table import LayerChoice, LayerTable, columns_of
from workbench.widgets.panel import Panel


class LayersPanel(Panel):
    """Pick layers: one to look at, any number to configure."""

    def __init__(self, session: Session, on_error: ErrorHandler) -> None:
        self.verdict = Facts(on_error=on_error)
        able = session.given is None  # else nothing is to be chosen, and no size changes
        self.table = LayerTable(
            on_error=on_error,
            height=308 if able else 616,  # where the settings are away, there is room for more rows
            error_label="relative error (RMS)",
            group_sizes=list(GROUP_SIZES) if able else [],
            show_totals=able,
        )
        super().__init__(session, on_error, [self.table])
        self._told: tuple[tuple[str, ...], str] = ((), "")
        self._show_coverage(session.coverage)
        self._show_selection()
        self.table.observe(self._picked, names=["selected", "current"])
        self.table.on_choose(partial(make_choice, session))

    def on_event(self, event: Event) -> None:
        """Show a new coverage, a selection, or a layer's error."""
        if event.kind in ("verdict", "improved", "view", "error", "selection", "problem"):
            self._show_verdict()
        if event.kind == "coverage":
            self._show_coverage(self.session.coverage)
        elif event.kind == "selection":
            self._show_selection()
        elif event.kind == "problem":
            self._show_broken()
        elif event.kind in ("view", "error") and event.data.exact:
            self._show_error(event.data)
        elif event.kind == "verdict" or (event.kind == "job" and event.data.finished and not event.data.quiet):
            self._show_notes(self.session.coverage)

    def _show_coverage(self, coverage: Coverage) -> None:
        given = self.session.given
        self.table.show(columns_with_groups(coverage) if given is None else given_columns(coverage, given.forms))
        self._told = (tuple(self.table.selected), self.table.current)
        known = {name: view for name, view in self.session.errors.items() if name in coverage.configs}
        if known:
            self.table.update(list(known), error=[view.summary.relative_rmse for view in known.values()])
        self._show_broken()
        self.verdict.title = f"Int4 Workbench: {coverage.model}"
        self._show_verdict()
        self._show_notes(coverage)

    def _show_verdict(self) -> None:
        said = ("Size",) if self.session.given is None else ("Size", "Int4 layers")  # by the verdict
        facts = [fact for fact in facts_of(self.session.coverage) if fact.label not in said]
        self.verdict.show(facts, verdict=self.session.verdict.line())

    def _show_notes(self, coverage: Coverage) -> None:
        errors = self.session.errors
        views = [errors[row.name] for row in coverage.int4_rows if row.name in errors]
        fallen, speed = _fallen_back(views), self.session.verdict.speed
        notes = [*fallen, *_surprises(coverage), *([_decoded(speed)] if speed else [])]
        with self.verdict.hold_sync():
            self.verdict.notes, self.verdict.open_notes = notes, len(fallen)

    def _show_selection(self) -> None:
        self._told = (tuple(self.session.selection), self.session.current)
        with self.table.hold_sync(), self.table.hold_trait_notifications():  # one change, not two with a state between
            self.table.selected = list(self.session.selection)
            self.table.current = self.session.current

    def _show_error(self, view: LayerView) -> None:
        kept = self.session.errors.get(view.name)
        if kept is not None:
            self.table.update([view.name], error=[kept.summary.relative_rmse])

    def _show_broken(self) -> None:
        exact, configs = self.session.exact, self.session.coverage.configs
        broken = {name: why for name, why in exact.broken.items() if name in configs and name not in exact.views}
        if broken:
            self.table.update(list(broken), error=list(broken.values()))

    def _picked(self, _change: Any) -> None:
        now = (tuple(self.table.selected), self.table.current)
        if now == self._told:
            return
        self._told = now
        self.session.select(list(now[0]), now[1] or None)


def columns_with_groups(coverage: Coverage) -> dict[str, list[Any]]:
    """Return the columns of the layer table: those of the rows, and the group size of each int4 layer."""
    configs = [coverage.configs.get(row.name) for row in coverage.rows]
    sizes = [None if config is None else config.group_size for config in configs]
    return columns_of(coverage.rows) | {"group_size": sizes}


def given_columns(coverage: Coverage, forms: Mapping[str, ModuleFormat]) -> dict[str, list[Any]]:
    """Return the columns of the layer table of a model that came int4: these layers are int4, in groups of their own.

    Args:
        coverage: Every weight.
        forms: Module path → form of each int4 layer.
    """
    columns = columns_of(coverage.rows)
    sizes = [forms[row.name].group_size if row.name in forms else None for row in coverage.rows]
    decisions = ["int4" if row.name in forms else row.decision for row in coverage.rows]
    reasons = [row.reason.removeprefix(f"{ALREADY}: ") for row in coverage.rows]
    return columns | {"group_size": sizes, "decision": decisions, "reason": reasons}


def make_choice(session: Session, choice: LayerChoice) -> str:
    """Do what was chosen in the layer table; say what came of it."""
    return session.layers.choose(choice.names, choice.decision, group_size=choice.group_size, glob=choice.glob)


def facts_of(coverage: Coverage) -> list[Fact]:
    """Return the numbers of a coverage."""
    ratio = coverage.before_bytes / max(1, coverage.after_bytes)
    parameters = max(1, sum(row.parameters for row in coverage.rows))
    already = [row for row in coverage.rows if row.kind == INT4]
    if already and not coverage.configs:
        share = sum(row.before_bytes for row in already) / max(1, coverage.before_bytes)
        return [
            Fact("Size", size(coverage.before_bytes), "as it is"),
            Fact("In int4", f"{share:.1%}", "of the model's bytes, already"),
            Fact("Int4 layers", str(len(already)), "int4 already"),
        ]
    facts = [
        Fact("Size", f"{size(coverage.before_bytes)} → {size(coverage.after_bytes)}", f"{ratio:.2f}× smaller"),
        Fact("In int4", f"{coverage.share:.1%}", "of the model's bytes"),
        Fact("Linear layers", f"{coverage.linear_share:.1%}", "of their bytes in int4"),
        Fact("Weights", f"{len(coverage.int4_rows):,} of {len(coverage.rows):,}", "become int4"),
        Fact("Bits per weight", f"{8 * coverage.after_bytes / parameters:.2f}", "scales included"),
    ]
    return [*facts, Fact("Int4 already", str(len(already)), "layers, left as they are")] if already else facts


def _decoded(speed: DecodeSpeed) -> str:
    return f"decoding: measured with a layer of {speed.n}×{speed.k} at batch 1 on {speed.device_name}"


def _surprises(coverage: Coverage) -> list[str]:
    """Say what a person may not expect: layers left out, padding, ties, kinds that stay dense, the kernel."""
    skipped = [row for row in coverage.rows if row.decision == "dense" and row.kind in QUANTIZABLE_KINDS]
    padded = [row for row in coverage.int4_rows if row.padding]
    found = []
    if skipped:
        found.append(f"{_named(skipped)} dense: {'; '.join(dict.fromkeys(row.reason for row in skipped))}")
    if padded:
        found.append(f"{_named(padded)} padded in the kernel's layout: {padded[0].padding}")
    return [*found, *coverage.remarks]


def _fallen_back(views: Iterable[LayerView]) -> list[str]:
    """Say which layers another solver solved than the one asked for, and why, the same reason once."""
    about: dict[str, list[str]] = {}
    for view in views:
        if view.solver != view.config.solver:
            about.setdefault(view.notes[-1], []).append(view.name)
    return [f"{_some(names)} {note}" for note, names in about.items()]


def _named(rows: list[CoverageRow]) -> str:
    return _some([row.name for row in rows])


def _some(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} more"
