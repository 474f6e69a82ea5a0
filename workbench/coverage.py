"""What becomes int4, what does not, and why: decided from headers and shapes, before any work."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import torch

from workbench.affine import group_count
from workbench.choice import device_note
from workbench.config import Resolution, ResolvedConfig
from workbench.coverage_words import coverage_html
from workbench.errors import ConfigError, PatternError
from workbench.kinds import EXPERTS, QUANTIZABLE_KINDS, STACK
from workbench.packed import padding_bits, padding_note
from workbench.recipe.recipe import Choice, Recipe
from workbench.records.layers import CoverageRow, LayerRecord
from workbench.sizes import size
from workbench.sources import FolderSource, Source

_FLOAT_DTYPES = ("bfloat16", "float16", "float32", "float64")
_NOT_CALIBRATED = Resolution("solver", "calibrated", "refined", "for experts, whose inputs are not recorded one by one")
_STACKED = "stacked matrices outside transformers' registry of experts"
_UNKNOWN = "a matrix whose module is no linear layer"
_NEVER_LINEAR = ("bias", "norm", "embedding", "convolution", "parametrization")


@dataclass(frozen=True)
class Coverage:
    """The coverage of a model under a recipe.

    Attributes:
        model: Name of the model.
        rows: One row for each weight, int4 or not.
        configs: Layer name → everything resolved, for each int4 layer.
        notes: What "auto" became, how the device runs it, ties that are broken.
    """

    model: str
    rows: tuple[CoverageRow, ...]
    configs: dict[str, ResolvedConfig]
    notes: tuple[str, ...]

    @property
    def int4_rows(self) -> tuple[CoverageRow, ...]:
        """The rows of the layers that become int4."""
        return tuple(row for row in self.rows if row.decision == "int4")

    def row(self, name: str) -> CoverageRow:
        """Return the row of a weight."""
        return self._by_name[name]

    @functools.cached_property
    def _by_name(self) -> dict[str, CoverageRow]:
        return {row.name: row for row in self.rows}

    @property
    def before_bytes(self) -> int:
        """Bytes of all weights now."""
        return sum(row.before_bytes for row in self.rows)

    @property
    def after_bytes(self) -> int:
        """Bytes of all weights afterwards."""
        return sum(row.after_bytes for row in self.rows)

    @property
    def share(self) -> float:
        """Share of the bytes now that becomes int4, 0 to 1."""
        return sum(row.before_bytes for row in self.int4_rows) / max(1, self.before_bytes)

    @property
    def linear_share(self) -> float:
        """Share of the linear layers' bytes that becomes int4, 0 to 1; stacks that must stay dense count as well."""
        linear = sum(row.before_bytes for row in self.rows if _counts_as_linear(row))
        return sum(row.before_bytes for row in self.int4_rows) / max(1, linear)

    @property
    def remarks(self) -> tuple[str, ...]:
        """The notes but those on settings that were left open, which stand beside the settings themselves."""
        resolved = {str(note) for note in {note for config in self.configs.values() for note in config.notes}}
        return tuple(note for note in self.notes if note not in resolved)

    def verdict(self) -> str:
        """Say the coverage in a line."""
        return (
            f"{len(self.int4_rows)} of {len(self.rows)} weights become int4: {self.share:.1%} of the bytes "
            f"({self.linear_share:.1%} of the linear layers'), {size(self.before_bytes)} → {size(self.after_bytes)}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return rows, totals and notes as JSON types."""
        return {
            "model": self.model,
            "rows": [row.to_json() for row in self.rows],
            "notes": list(self.notes),
            "before_bytes": self.before_bytes,
            "after_bytes": self.after_bytes,
            "share": self.share,
        }

    def __str__(self) -> str:
        """The table as text."""
        width = max((len(row.name) for row in self.rows), default=5)
        lines = [f"{'weight':<{width}}  {'kind':<12} {'shape':<14} {'before':>9} {'after':>9} {'bits':>5}  decision"]
        for row in self.rows:
            shape = "x".join(map(str, row.shape))
            why = f"{row.decision}: {row.reason}" + (f"; padded {row.padding}" if row.padding else "")
            lines.append(
                f"{row.name:<{width}}  {row.kind:<12} {shape:<14} {size(row.before_bytes):>9} "
                f"{size(row.after_bytes):>9} {row.bits_per_weight:>5.2f}  {why}"
            )
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes), self.verdict()])

    def _repr_html_(self) -> str:
        """The table in a notebook, where no widget need run."""
        return coverage_html(self.model, self.rows, [self.verdict(), *self.notes], size)


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
            rows.append(_dense_row(record, why_not))
            continue
        configs[record.name] = config
        rows.append(_int4_row(record, config, reason, device))
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


def planned_bytes(record: LayerRecord, config: ResolvedConfig) -> int:
    """Bytes of a weight in the portable form, scales and zero points included."""
    n, k = record.matrix
    scale = config.scale_dtype.itemsize
    zero = {"float": scale, "int": 1, "symmetric": 0}[config.domain]
    return n * ((k + 1) // 2) + n * group_count(k, config.group_size) * (scale + zero)


def _why_not(record: LayerRecord, source: Source, recipe: Recipe, choice: Choice | None, reason: str) -> str:
    """Return why a weight stays as it is, or ""."""
    if record.kind == "int4_linear":
        return "int4 already"
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
    why = {2: _UNKNOWN, 3: _STACKED}.get(len(record.shape), "") if matrix else ""
    return f"{record.kind}: {why or 'not a linear layer'}"


def _counts_as_linear(row: CoverageRow) -> bool:
    return row.kind in QUANTIZABLE_KINDS or _STACKED in row.reason


def _left_stacks(rows: list[CoverageRow]) -> list[str]:
    """Say how much stays dense only because nobody can tell how its module multiplies with it."""
    found = [row for row in rows if _STACKED in row.reason]
    whole = sum(row.before_bytes for row in found)
    kinds = ", ".join(sorted({row.reason.partition(";")[0] for row in found}))
    return [f"{len(found)} weights with {size(whole)} stay dense: {kinds}"] if found else []


def _untied_note(record: LayerRecord, configs: dict[str, ResolvedConfig]) -> str:
    if record.tied_to in configs:  # listed before it
        return f"{record.name} shares its weight with {record.tied_to}: each gets an int4 copy of its own"
    return f"{record.name} is untied: {record.tied_to} keeps its dense weight beside the int4 copy"


def _on_the_way(record: LayerRecord, after_bytes: int) -> str:
    """Say what a weight is dequantized from; its bytes may then grow, for nothing here runs in the stored format."""
    if not record.stored_format:
        return ""
    grows = f", {after_bytes / record.size_bytes:.2f} times its bytes" if after_bytes > record.size_bytes else ""
    return f"; stored in {record.stored_format}: dequantized to {record.dtype} on the way{grows}"


def _dense_row(record: LayerRecord, reason: str) -> CoverageRow:
    bits = 8.0 * record.dense_bytes / max(1, record.parameters)
    if record.tied_to is not None:
        reason = f"tied to {record.tied_to}"
        bits = 0.0
    return CoverageRow(
        record.name,
        record.kind,
        record.shape,
        record.parameters,
        "dense",
        reason + _on_the_way(record, record.dense_bytes),
        record.size_bytes,
        record.dense_bytes,
        bits,
    )


def _int4_row(record: LayerRecord, config: ResolvedConfig, reason: str, device: torch.device | str) -> CoverageRow:
    after = planned_bytes(record, config)
    how = f"g{config.group_size} {config.domain} {config.solver}{_short_group(record, config)}"
    return CoverageRow(
        record.name,
        record.kind,
        record.shape,
        record.parameters,
        "int4",
        f"{reason}: {how}{_on_the_way(record, after)}{_adapted(record)}",
        record.size_bytes,
        after,
        8.0 * after / record.parameters,
        _padding(record, config, device),
    )


def _padding(record: LayerRecord, config: ResolvedConfig, device: torch.device | str) -> str:
    """Say what the kernel's layout pads, and what that costs in memory; "" for nothing."""
    (n, k), g, tiles = record.shape[-2:], config.group_size, config.inner_k_tiles
    note = padding_note(n, k, g, device, tiles)
    return note and f"{note} (+{padding_bits(n, k, g, device, tiles):.2f} bits in memory)"


def _short_group(record: LayerRecord, config: ResolvedConfig) -> str:
    """Say that the last group of a row is short, and what that costs in stored bits; "" where K divides."""
    k = record.shape[-1]
    if k % config.group_size == 0:
        return ""
    whole = replace(record, shape=(1, config.group_size), size_bytes=0)
    extra = 8 * planned_bytes(record, config) / record.parameters - 8 * planned_bytes(whole, config) / config.group_size
    return f", last group of {k % config.group_size} (+{extra:.2f} bits)"


def _adapted(record: LayerRecord) -> str:
    return "; its module's own forward multiplies with a stand-in for the parameter" if record.kind == STACK else ""


def _refuse_useless_rules(recipe: Recipe, records: list[LayerRecord]) -> None:
    """A rule that asks for int4 but catches no linear layer at all is a mistake, not a wish."""
    kinds: list[set[str]] = [set() for _ in recipe.rules]
    for record in records:
        for place in recipe.matching(record.name):
            kinds[place].add(record.kind)
    for rule, caught in zip(recipe.rules, kinds, strict=True):
        if rule.choice is not None and caught and not caught & {*QUANTIZABLE_KINDS, "int4_linear"}:
            raise PatternError(
                f"The pattern {rule.pattern!r} matches no linear layer, only: {', '.join(sorted(caught))}.",
                mend="name linear layers, for instance 'q_proj' or 'mlp'",
            )


def _hold_minimum(coverage: Coverage, least: float) -> None:
    if not 0 <= least <= 1:
        raise ConfigError(f"min_coverage={least!r}.", allowed="0 to 1")
    if coverage.linear_share >= least:
        return
    dense = [row for row in coverage.rows if row.decision == "dense" and _counts_as_linear(row)]
    largest = sorted(dense, key=lambda row: -row.before_bytes)[:3]
    named = "; ".join(f"{row.name} ({size(row.before_bytes)}: {row.reason})" for row in largest)
    raise ConfigError(
        f"Only {coverage.linear_share:.1%} of the linear layers' bytes would become int4, less than {least:.1%}. "
        f"Largest left out: {named}.",
        mend="widen the recipe, or lower min_coverage",
    )
