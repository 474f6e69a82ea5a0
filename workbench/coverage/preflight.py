"""Decide what becomes int4, what does not, and why: from headers and shapes, before any work."""

from __future__ import annotations

from dataclasses import replace

import torch

from workbench.choice import device_note
from workbench.config import Resolution, ResolvedConfig
from workbench.coverage.coverage import ALREADY, STACKED, Coverage, counts_as_linear
from workbench.coverage.rows import dense_row, int4_row, planned_bytes
from workbench.errors import ConfigError, PatternError
from workbench.kinds import EXPERTS, INT4, QUANTIZABLE_KINDS, STACK
from workbench.recipe.recipe import Choice, Recipe
from workbench.records.layers import CoverageRow, LayerRecord
from workbench.sizes import size
from workbench.sources import FolderSource, Source

_FLOAT_DTYPES = ("bfloat16", "float16", "float32", "float64")
_NOT_CALIBRATED = Resolution("solver", "calibrated", "refined", "for experts, whose inputs are not recorded one by one")
_UNKNOWN = "a matrix whose module is no linear layer"
_NEVER_LINEAR = ("bias", "norm", "embedding", "convolution", "parametrization")


def preflight_source(
    source: Source, recipe: Recipe, *, device: torch.device | str = "cpu", min_coverage: float = 0.0
) -> Coverage:
    """Decide what becomes of every weight of a source; no weight is read.

    Args:
        source: Where the weights come from.
        recipe: What the user wants.
        device: Device that will run the layers.
        min_coverage: Least share of the linear layers' bytes that must become int4, 0 to 1.

    Raises:
        PatternError: for a pattern that matches nothing.
        ConfigError: when less than `min_coverage` becomes int4, naming the largest weights left out.
    """
    records = source.records()
    recipe.check([record.name for record in records])
    rows: list[CoverageRow] = []
    configs: dict[str, ResolvedConfig] = {}
    notes: dict[str, None] = {}
    for record in records:
        choice, reason = recipe.decide(record.name)
        why_not = _why_not(record, source, recipe, choice, reason)
        config = None
        if not why_not and choice is not None:
            config = _resolved(choice, record, device)
            if record.tied_to is None and planned_bytes(record, config) >= record.dense_bytes:
                why_not = "int4 with its scales would not be smaller"
        if why_not or config is None:
            rows.append(dense_row(record, why_not))
            continue
        configs[record.name] = config
        rows.append(int4_row(record, config, reason, device))
        notes.update(dict.fromkeys(str(note) for note in config.notes))
        if record.tied_to is not None:
            notes[_untied_note(record, configs)] = None
    _refuse_useless_rules(recipe, records)
    left = [*(source.notes() if isinstance(source, FolderSource) else ()), *_left_stacks(rows)]
    coverage = Coverage(source.name, tuple(rows), configs, (*notes, *left, f"kernel: {device_note(device)}"))
    _hold_minimum(coverage, min_coverage)
    return coverage


def _resolved(choice: Choice, record: LayerRecord, device: torch.device | str) -> ResolvedConfig:
    """Decide a layer's settings; a stack of experts has no input of its own that calibrating could look at."""
    config = choice.resolved(device)
    if record.kind not in (EXPERTS, STACK) or config.solver != "calibrated":
        return config
    config = replace(choice, solver="refined", options=None).resolved(device)
    return replace(config, notes=(*config.notes, _NOT_CALIBRATED))


def _why_not(record: LayerRecord, source: Source, recipe: Recipe, choice: Choice | None, reason: str) -> str:
    """Return why a weight stays as it is, or ""."""
    if record.kind == INT4:
        return f"{ALREADY}: {record.int4_form}"
    if record.kind not in QUANTIZABLE_KINDS:
        return _no_linear_layer(record)
    if record.dtype not in _FLOAT_DTYPES:
        return f"stored as {record.dtype}"
    if record.kind == "output_head" and reason == "default" and not recipe.output_head:
        return "output head: left dense unless named in a rule"
    if choice is None:
        return f"left out by {reason}" if reason != "default" else "matched by no include pattern"
    if record.parameters == 0:
        return "no elements"
    return source.missing(record.tied_to or record.name)


def _no_linear_layer(record: LayerRecord) -> str:
    """Return the reason of a weight that stays for its kind; a matrix may well be multiplied with, and says so."""
    matrix = record.kind not in _NEVER_LINEAR and min(record.shape, default=1) > 1
    why = {2: _UNKNOWN, 3: STACKED}.get(len(record.shape), "") if matrix else ""
    return f"{record.kind}: {why or 'not a linear layer'}"


def _left_stacks(rows: list[CoverageRow]) -> list[str]:
    """Say how much stays dense only because nobody can tell how its module multiplies with it."""
    found = [row for row in rows if STACKED in row.reason]
    whole = sum(row.before_bytes for row in found)
    kinds = ", ".join(sorted({row.reason.partition(";")[0] for row in found}))
    return [f"{len(found)} weights with {size(whole)} stay dense: {kinds}"] if found else []


def _untied_note(record: LayerRecord, configs: dict[str, ResolvedConfig]) -> str:
    if record.tied_to in configs:  # listed before it
        return f"{record.name} shares its weight with {record.tied_to}: each gets an int4 copy of its own"
    return f"{record.name} is untied: {record.tied_to} keeps its dense weight beside the int4 copy"


def _refuse_useless_rules(recipe: Recipe, records: list[LayerRecord]) -> None:
    """A rule that asks for int4 but catches no linear layer at all is a mistake, not a wish."""
    kinds: list[set[str]] = [set() for _ in recipe.rules]
    for record in records:
        for place in recipe.matching(record.name):
            kinds[place].add(record.kind)
    for rule, caught in zip(recipe.rules, kinds, strict=True):
        if rule.choice is not None and caught and not caught & {*QUANTIZABLE_KINDS, INT4}:
            raise PatternError(
                f"The pattern {rule.pattern!r} matches no linear layer, only: {', '.join(sorted(caught))}.",
                mend="name linear layers, for instance 'q_proj' or 'mlp'",
            )


def _hold_minimum(coverage: Coverage, least: float) -> None:
    if not 0 <= least <= 1:
        raise ConfigError(f"min_coverage={least!r}.", allowed="0 to 1")
    if coverage.linear_share >= least:
        return
    dense = [row for row in coverage.rows if row.decision == "dense" and counts_as_linear(row)]
    largest = sorted(dense, key=lambda row: -row.before_bytes)[:3]
    named = "; ".join(f"{row.name} ({size(row.before_bytes)}: {row.reason})" for row in largest)
    raise ConfigError(
        f"Only {coverage.linear_share:.1%} of the linear layers' bytes would become int4, less than {least:.1%}. "
        f"Largest left out: {named}.",
        mend="widen the recipe, or lower min_coverage",
    )
