"""What the commands around export targets do: `workbench export|targets|import`."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.cli.progress import ProgressLine, stopping
from workbench.cli.quantize_commands import mean_error
from workbench.cli.settings import asked, calibration_of, recipe_of

if TYPE_CHECKING:
    from workbench.checkpoint.contents import Contents
    from workbench.checkpoint.solved_contents import SolvedContents
    from workbench.hf.reverse_names import NamedContents
    from workbench.targets.run import ExportReport


def export(arguments: argparse.Namespace) -> None:
    """Write a model in a format that another engine loads; a dense one is quantized on the way, layer by layer."""
    from workbench.checkpoint.atomic import check_target
    from workbench.checkpoint.solved_contents import SolvedContents
    from workbench.conversion import destination
    from workbench.quantization_report import layer_notes
    from workbench.targets import NATIVE, get_target
    from workbench.targets.companions import Companions
    from workbench.targets.run import fits_of

    if arguments.format != NATIVE:
        get_target(arguments.format)
    check_target(arguments.out.expanduser(), overwrite=arguments.overwrite)
    place = destination(arguments.model, arguments.out, overwrite=arguments.overwrite)
    contents = _contents(arguments)
    origin = contents.origin
    fit = fits_of(contents.outline(), Companions(contents.write_files)).fit(arguments.format)
    fit.check()  # before a calibration text is run through the model
    said = _calibrated(origin, arguments) if isinstance(origin, SolvedContents) else ()
    print(f"{arguments.format}: {fit}", flush=True)
    report, results = _written(arguments.format, contents, place, arguments)
    for note in layer_notes(results):
        print(f"note: {note}")
    if results and isinstance(origin, SolvedContents):
        print(mean_error(origin.coverage, results))
    print(_without(report, said))


def _calibrated(origin: SolvedContents, arguments: argparse.Namespace) -> tuple[str, ...]:
    """Say what becomes int4 and calibrate where that is asked for; returns the notes on the text, which stand above."""
    for line in (origin.coverage.verdict(), *(f"note: {note}" for note in origin.coverage.notes)):
        print(line, flush=True)
    calibration, model = calibration_of(arguments, origin.coverage)
    origin.calibrate(calibration, model)
    return () if calibration is None else calibration.notes


def _without(report: ExportReport, said: tuple[str, ...]) -> ExportReport:
    """Leave out the notes that stand above already."""
    notes = tuple(note for note in report.fit.notes if note not in said)
    return replace(report, fit=replace(report.fit, notes=notes))


def targets(arguments: argparse.Namespace) -> None:
    """Say which formats can hold a model exactly, which would round, and what to change for the others."""
    from workbench.targets.companions import Companions
    from workbench.targets.run import fits_of

    contents = _contents(arguments)
    table = fits_of(contents.outline(), Companions(contents.write_files))
    if arguments.json:
        keys = ("format", "engines", "fit", "size", "remark")
        print(json.dumps([dict(zip(keys, row, strict=True)) for row in table.rows()], indent=2))
    else:
        print(table)


def import_(arguments: argparse.Namespace) -> None:
    """Convert an int4 checkpoint of another library to the native format; codes stay as they are, bit for bit."""
    from workbench.conversion import opened_int4
    from workbench.export_checks import writable_place

    place = writable_place(arguments.out, Path(arguments.checkpoint).expanduser(), overwrite=arguments.overwrite)
    report, _ = _written("native", opened_int4(arguments.checkpoint), place, arguments)
    print(report)


def _contents(arguments: argparse.Namespace) -> NamedContents:
    from workbench.conversion import contents_of, int4_path

    if int4_path(arguments.model) is None:
        return contents_of(arguments.model, recipe_of(arguments))
    return contents_of(arguments.model, recipe_of(arguments) if asked(arguments) else None)


def _written(
    target: str, contents: Contents, place: Path, arguments: argparse.Namespace
) -> tuple[ExportReport, list[Any]]:
    from workbench.jobs import progress_since
    from workbench.targets.run import ExportReport, iter_export_to, steps_of

    results: list[Any] = []
    start, count = time.monotonic(), steps_of(target, contents.outline())
    with ProgressLine() as shown, stopping() as cancel:
        steps = iter_export_to(target, contents, place, overwrite=arguments.overwrite, cancel=cancel)
        for done, step in enumerate(steps, start=1):
            if isinstance(step, ExportReport):
                return step, results
            shown.show(progress_since(start, done, count, step.name))
            results += [] if step.solved is None else [step.solved.result]
    raise AssertionError("the report comes last")
