"""A model that came with int4 layers: it is taken as it is, to be looked at, timed and converted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from workbench.affine import QuantizedWeight
from workbench.checkpoint.contents import Contents
from workbench.checkpoint.model_contents import ModelContents
from workbench.checkpoint.native import ModuleFormat, int4_layers
from workbench.coverage.coverage import Coverage
from workbench.errors import ConfigError
from workbench.int4_source import ORIGINAL, Int4Source
from workbench.kinds import HEAD, INT4, QUANTIZABLE_KINDS
from workbench.quantize import RECIPE_ATTRIBUTE, choice_of
from workbench.recipe.recipe import Choice, Recipe
from workbench.records.layers import CoverageRow
from workbench.sizes import size
from workbench.sources import ModelSource, Source
from workbench.targets import NATIVE
from workbench.targets.run import TargetTable
from workbench.targets.target import Misfit

_FORMS = 3  # that are named in a line


@dataclass(frozen=True)
class Given:
    """What a model that is int4 already came with.

    Attributes:
        method: Its format: "native", "gptq", …; "in memory" for a live model.
        forms: Module path → form of each int4 weight.
        path: Where it is read from, or None for a live model.
        contents: Makes what a checkpoint of it is written from; codes stay as they are.
        read: Reads the int4 weight of a module path.
        recipe: The recipe that it was made with, where it says so.
        stored_bytes: Bytes of the files of weights of another library's format; None for native ones and live models.
        notes: What a person must know of how it is read.
    """

    method: str
    forms: Mapping[str, ModuleFormat]
    path: Path | None
    contents: Callable[[], Contents] = field(repr=False)
    read: Callable[[str], QuantizedWeight] = field(repr=False)
    recipe: Recipe | None = None
    stored_bytes: int | None = None
    notes: tuple[str, ...] = ()

    def said(self) -> str:
        """Say its format, group sizes and domains: "native, g64 float"."""
        counts = Counter(f"g{form.group_size} {form.domain}" for form in self.forms.values()).most_common()
        shown = [form if len(counts) == 1 else f"{form} ({count})" for form, count in counts[:_FORMS]]
        return ", ".join([self.method, *shown, *(["…"] if len(counts) > _FORMS else [])])

    def size_said(self, native_bytes: int) -> str:
        """Say how large it is: what is counted is the native format, beside which another library's own bytes stand."""
        own = size(native_bytes)
        return own if self.stored_bytes is None else f"{size(self.stored_bytes)} as {self.method}, {own} as native"

    def choice(self, name: str) -> Choice | None:
        """Return the settings that an int4 layer has, as far as a recipe could ask for them; None for another."""
        form = self.forms.get(name)
        return None if form is None else choice_of(form)

    def how_more(self, *, head: bool = False) -> str:
        """Say how what is dense in it becomes int4 too, the output head or the other linear layers."""
        call = "wb.quantize_(model, config) makes the rest int4 too"
        if head:
            call = "wb.quantize_(model, config, output_head=True) makes it int4 too"
        if self.path is None:
            return f"{call}; then open the app again"
        if self.method == NATIVE:
            return f"model, tokenizer = wb.load_checkpoint({str(self.path)!r}), and {call}"
        return f"export it as native, wb.load_checkpoint loads that, and {call}"

    def as_it_is(self, coverage: Coverage) -> Coverage:
        """Return a coverage that says of dense layers that they are what they are, not what a recipe left out."""
        kept = replace(coverage, rows=tuple(map(_kept, coverage.rows)))
        dense = dense_rows(kept)
        part = [f"{_dense_said(dense, len(self.forms))}: {self.how_more()}"] if dense else []
        return replace(kept, notes=(*self.notes, *part, *coverage.notes))

    @staticmethod
    def unchanged(table: TargetTable) -> TargetTable:
        """Return a table in which no misfit offers other settings: what is int4 already is not solved anew."""
        fits = {
            name: replace(fit, misfits=tuple(replace(misfit, change={}, mend=_mend(misfit)) for misfit in fit.misfits))
            for name, fit in table.fits.items()
        }
        return replace(table, fits=fits)

    def refusal(self, what: str) -> ConfigError:
        """Return why something cannot be done that takes the original weights, and the mend."""
        return ConfigError(f"The model is int4 already: {what}.", mend=ORIGINAL)


def given_of(source: Source, tokenizer: Any = None) -> Given | None:
    """Return what a source came with that is int4 already; None for a dense model."""
    if isinstance(source, Int4Source):
        outline = source.outline
        stored = None if source.method == NATIVE else source.stored_bytes
        return Given(
            source.method,
            dict(outline.int4),
            source.path,
            lambda: source.contents,
            source.quantized,
            recipe=outline.recipe,
            stored_bytes=stored,
            notes=(*_stored_note(source), *outline.notes),
        )
    if not isinstance(source, ModelSource):
        return None
    model = source.model
    forms = {name: ModuleFormat.of(layer) for name, layer in int4_layers(model).items()}
    recipe = getattr(model, RECIPE_ATTRIBUTE, None)

    def read(name: str) -> QuantizedWeight:
        return int4_layers(model)[name].quantized_weight()

    return Given("in memory", forms, None, lambda: ModelContents(model, tokenizer), read, recipe) if forms else None


def int4_rows(coverage: Coverage) -> list[CoverageRow]:
    """Return the rows of the layers that are int4 already."""
    return [row for row in coverage.rows if row.kind == INT4]


def dense_rows(coverage: Coverage) -> list[CoverageRow]:
    """Return the rows of the linear layers that are dense still, but for the output head, which usually is."""
    return [row for row in coverage.rows if row.kind in QUANTIZABLE_KINDS and row.kind != HEAD]


def _dense_said(rows: list[CoverageRow], int4: int) -> str:
    bytes_said = size(sum(row.before_bytes for row in rows))
    are = "layers are" if len(rows) > 1 else "layer is"
    return f"only part is int4: {len(rows)} linear {are} dense, {bytes_said}, beside {int4} in int4"


def _stored_note(source: Int4Source) -> tuple[str, ...]:
    """Say of another library's format that what is counted is not its own bytes."""
    if source.method == NATIVE:
        return ()
    scales = " and ".join(sorted({form.scale_dtype for form in source.outline.int4.values()}))
    own = f"{source.method} stores {size(source.stored_bytes)}"
    return (f"{own}; sizes here are those of the native format, with {scales} scales",)


def _mend(misfit: Misfit) -> str:
    return f"{ORIGINAL}, and choose what it holds" if misfit.change else misfit.mend


def _kept(row: CoverageRow) -> CoverageRow:
    return replace(row, reason="dense in this model") if row.kind in QUANTIZABLE_KINDS else row
