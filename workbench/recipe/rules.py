"""The rules of a recipe held against a model: what each of them decides, as a person reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from workbench.coverage.coverage import Coverage
from workbench.kinds import QUANTIZABLE_KINDS
from workbench.recipe.history import choice_said
from workbench.recipe.recipe import Choice, Recipe
from workbench.records.layers import CoverageRow

RuleKind = Literal["rule", "default", "head"]
Key = int | Literal["default", "head"]


@dataclass(frozen=True)
class RuleRow:
    """A rule as a person reads it.

    Attributes:
        kind: "rule", "default" (layers that no rule matches) or "head" (output heads that no rule matches).
        place: Its place among the rules, from 0; -1 for the other kinds.
        pattern: What it matches, or what the other kinds stand for, in words.
        settings: What it decides, in words.
        dense: Whether that is to leave layers dense.
        layers: Names of the linear layers that it decides, in the order of the model.
        note: What a person may not expect of it, or "".
    """

    kind: RuleKind
    place: int
    pattern: str
    settings: str
    dense: bool
    layers: tuple[str, ...]
    note: str = ""


def rule_rows(recipe: Recipe, coverage: Coverage) -> list[RuleRow]:
    """Return the rules in the order in which they decide, then the default, then an output head if there is one.

    Args:
        recipe: The rules.
        coverage: What becomes of every weight under them.
    """
    linear = [row for row in coverage.rows if row.kind in QUANTIZABLE_KINDS]
    decided: dict[Key, list[CoverageRow]] = {}
    matched: Counter[int] = Counter()
    for row in linear:
        places = recipe.matching(row.name)
        matched.update(places)
        other: Key = "head" if row.kind == "output_head" else "default"
        decided.setdefault(places[0] if places else other, []).append(row)
    rows = []
    for place, rule in enumerate(recipe.rules):
        own = decided.get(place, [])
        rows.append(_row("rule", place, rule.pattern, rule.choice, own, "" if own else _idle(matched[place])))
    rows.append(_row("default", -1, "all other layers", recipe.default, decided.get("default", [])))
    if any(row.kind == "output_head" for row in linear):
        choice = recipe.default if recipe.output_head else None
        rows.append(_row("head", -1, "output head", choice, decided.get("head", [])))
    return rows


def _row(
    kind: RuleKind, place: int, pattern: str, choice: Choice | None, own: Sequence[CoverageRow], note: str = ""
) -> RuleRow:
    if choice is not None:
        note = note or _left_dense(own)
    return RuleRow(kind, place, pattern, choice_said(choice), choice is None, tuple(row.name for row in own), note)


def _left_dense(rows: Sequence[CoverageRow]) -> str:
    """Say how many layers stay dense though they were to become int4, and why."""
    dense = [row for row in rows if row.decision == "dense"]
    stay = "stays" if len(dense) == 1 else "stay"
    return f"{len(dense)} {stay} dense all the same: {dense[0].reason}" if dense else ""


def _idle(matched: int) -> str:
    """Say why a rule decides no linear layer."""
    if not matched:
        return "matches no linear layer"
    return f"rules above it decide {f'all {matched} layers' if matched > 1 else 'the one layer'} that it matches"
