"""Write an export: check that it fits, write it whole or not at all, record what it is, and check it again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path

from workbench.checkpoint.atomic import new_directory
from workbench.checkpoint.card import Wrote, native_lines, write_card
from workbench.checkpoint.contents import Contents, Outline, has_tokenizer, tokenizer_notes
from workbench.checkpoint.findings import Findings, with_layers
from workbench.checkpoint.save import iter_write_native
from workbench.export_formats import EXPORT_FORMATS
from workbench.printed import Printed
from workbench.records.errors import LayerResult
from workbench.sizes import size
from workbench.targets import NATIVE, TARGETS, get_target
from workbench.targets.companions import Companions
from workbench.targets.int_target import IntTarget
from workbench.targets.record import RECORD_FILE as RECORD_FILE
from workbench.targets.record import accept_export_changes as accept_export_changes
from workbench.targets.record import verify_export as verify_export
from workbench.targets.record import write_record
from workbench.targets.target import Fit, LoadLines, Target, Written

_HEADERS = ("Format", "Loaded by", "Fit", "Size", "What rounds, or what to change")
_CELL = "text-align:left;vertical-align:top"


@dataclass(frozen=True)
class ExportReport(Printed):
    """What was written.

    Attributes:
        target: Name of the format.
        directory: Where it is.
        files: Number of files.
        size_bytes: Bytes of all files.
        fit: What was known before.
        max_error: Largest absolute difference between what the format's loader dequantizes and our weights, in weight
            units; it comes from rounding scales and zero points alone.
        worst: The layer that has it, "" where there is none.
        load: Lines that load it.
    """

    target: str
    directory: Path
    files: int
    size_bytes: int
    fit: Fit
    max_error: float
    worst: str
    load: LoadLines

    def __str__(self) -> str:
        """The report as text."""
        lines = [f"wrote {self.directory} ({self.target}): {size(self.size_bytes)} in {self.files} files"]
        lines.append(error_said(self.max_error, self.worst))
        lines += [f"note: {note}" for note in self.fit.notes]
        for what, said in (("Python", self.load.python), ("shell", self.load.shell)):
            if said:
                lines.append(f"load it ({what}):")
                lines += [f"    {line}" for line in said.splitlines()]
        return "\n".join(lines)


@dataclass(frozen=True)
class TargetTable(Printed):
    """Which formats can hold a model under its recipe, in the order in which they are offered.

    Attributes:
        model: What the model is called.
        fits: Name of the format → verdict; "native" first, which holds everything.
    """

    model: str
    fits: dict[str, Fit]

    def fit(self, name: str) -> Fit:
        """Return the verdict of one format.

        Raises:
            ConfigError: when there is no such format.
        """
        if name not in self.fits:
            get_target(name)
        return self.fits[name]

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """Return (name, engines, "exact", "rounded" or "refused", size, what rounds or what to change) of each."""
        return [
            (name, engines_of(name), fit.state, size(fit.size_bytes) if fit.size_bytes else "", _remark(fit))
            for name, fit in self.fits.items()
        ]

    def __str__(self) -> str:
        """The table as text."""
        head = ("format", "loaded by", "", "size", "")
        rows = [head, *self.rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = ["  ".join([*(row[i].ljust(widths[i]) for i in range(4)), row[4]]).rstrip() for row in rows]
        lines += [f"{name}: {fit.mend}" for name, fit in self.fits.items() if fit.mend]
        lines += [f"note on {name}: {note}" for name, fit in self.fits.items() for note in fit.notes]
        return "\n".join([f"export targets of {self.model}", *lines])

    def _repr_html_(self) -> str:
        """The table for a notebook: HTML that runs no script, in the page's own colours."""
        said = [f"{name}: {fit.mend}" for name, fit in self.fits.items() if fit.mend]
        said += [f"{name}: {note}" for name, fit in self.fits.items() for note in fit.notes]
        below = "".join(f"<li>{escape(line)}</li>" for line in said)
        head = "".join(f'<th scope="col" style="{_CELL}">{name}</th>' for name in _HEADERS)
        body = "".join(
            f'<tr><th scope="row" style="{_CELL}">{escape(name)}</th>'
            + "".join(f'<td style="{_CELL}">{escape(cell)}</td>' for cell in cells)
            + "</tr>"
            for name, *cells in self.rows()
        )
        table = f'<table style="border-collapse:collapse"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        title = f"<div><b>Export targets of {escape(self.model)}</b></div>"
        return f'<div class="wb-targets">{title}{table}{f"<ul>{below}</ul>" if said else ""}</div>'


def fits_of(outline: Outline, companions: Companions | None = None) -> TargetTable:
    """Ask every target whether it can hold a model; no value is read.

    Args:
        outline: What would be written.
        companions: The files beside the weights; None where they are not at hand, and then not asked about.
    """
    fits = {NATIVE: Fit(NATIVE, size_bytes=outline.native_bytes)}
    for name, one in TARGETS.items():
        fit = one.fit(outline, companions)
        asked_later = companions is None and one.asked_later and not fit.misfits
        fits[name] = replace(fit, notes=(*fit.notes, one.asked_later)) if asked_later else fit
    return TargetTable(outline.model, fits)


def steps_of(target: str, outline: Outline) -> int:
    """Count the layers that `iter_export_to` yields: experts one by one where the format has them so."""
    one = TARGETS.get(target)
    return len((one.written(outline) if isinstance(one, IntTarget) else outline).int4)


def iter_export_to(
    target: str,
    contents: Contents,
    directory: Path | str,
    *,
    overwrite: bool = False,
    found: Findings | None = None,
    cancel: threading.Event | None = None,
) -> Iterator[Written | ExportReport]:
    """Write an export, atomically; yields each int4 layer, and the report last.

    Args:
        target: Name of the format, "native" included.
        contents: What is written.
        directory: The folder to make.
        overwrite: Replace a folder that exists; old or new is there at any moment, never a mixture.
        found: What the model card says besides: quality, and the errors of layers that were solved before.
        cancel: Set it to stop; nothing is left behind.

    Raises:
        ConfigError: for an unknown format.
        CheckpointError: when the format cannot hold the model, or the folder exists or cannot be written.
        Cancelled: when `cancel` was set.
    """
    outline = contents.outline()
    path = Path(directory)
    if target == NATIVE:
        errors = dict.fromkeys(outline.int4, 0.0)
        for part in iter_write_native(contents, path, overwrite=overwrite, found=found, cancel=cancel):
            yield Written(part.name, 0.0, part.solved)
        fit = Fit(NATIVE, size_bytes=outline.native_bytes, notes=(*outline.notes, *tokenizer_notes(path)))
        lines = LoadLines(*native_lines(path, outline.config, tokenizer=has_tokenizer(path)))
        yield _report(fit, path, errors, lines)
        return
    one = get_target(target)
    fit = one.fit(outline)
    fit.check()
    fit = replace(fit, notes=(*outline.notes, *fit.notes))
    errors = {}
    solved: list[LayerResult] = []
    with new_directory(path, overwrite=overwrite, need_bytes=fit.size_bytes) as folder:
        for written in one.write(contents, outline, folder, cancel):
            errors[written.name] = written.max_error
            solved += [] if written.solved is None else [written.solved.result]
            yield written
        fit = replace(fit, notes=(*fit.notes, *tokenizer_notes(folder)))
        write_card(folder, outline, _wrote(one, fit, outline, path, errors), with_layers(found, solved))
        write_record(folder, target, outline, errors)
    yield _report(fit, path, errors, one.load_lines(path, outline))


def error_said(max_error: float, worst: str) -> str:
    """Say what rounding did to the weights."""
    if max_error == 0:
        return "weights: exact (max |Δw| 0)"
    return f"weights: max |Δw| {max_error:.3g} from rounding scales and zero points, in {worst}"


def _report(fit: Fit, directory: Path, errors: dict[str, float], load: LoadLines) -> ExportReport:
    files = [path for path in directory.rglob("*") if path.is_file()]
    total = sum(path.stat().st_size for path in files)
    return ExportReport(fit.target, directory, len(files), total, fit, *_largest(errors), load)


def _largest(errors: dict[str, float]) -> tuple[float, str]:
    worst = max(errors, key=lambda name: errors[name], default="")
    largest = errors.get(worst, 0.0)
    return largest, worst if largest else ""


def _wrote(one: Target, fit: Fit, outline: Outline, directory: Path, errors: dict[str, float]) -> Wrote:
    """Say what the model card says of an export; it names the folder alone, not where it is."""
    lines = one.load_lines(Path(directory.name), outline)
    said = error_said(*_largest(errors))
    return Wrote(one.name, one.title, one.engines, lines.python, lines.shell, said, fit.notes)


def engines_of(name: str) -> str:
    """Say what loads a format."""
    return EXPORT_FORMATS[NATIVE] if name == NATIVE else TARGETS[name].engines


def _remark(fit: Fit) -> str:
    if fit.misfits:
        return "; ".join(misfit.brief for misfit in fit.misfits)
    return fit.rounds
