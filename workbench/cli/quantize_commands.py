"""What the commands do that make a checkpoint and run it: `workbench quantize|generate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.cli.progress import ProgressLine, stopping
from workbench.cli.settings import calibration_of, recipe_of
from workbench.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from workbench.coverage.coverage import Coverage
    from workbench.records.errors import LayerResult


def quantize(arguments: argparse.Namespace) -> None:
    """Quantize a model folder into a checkpoint, layer by layer."""
    from workbench.checkpoint.atomic import check_target
    from workbench.checkpoint.contents import tokenizer_notes
    from workbench.checkpoint.save import iter_write_quantized
    from workbench.checkpoint.writer import size_on_disk
    from workbench.coverage.preflight import preflight_source
    from workbench.export_checks import check_exportable, export_target
    from workbench.hf.skeleton import open_source
    from workbench.quantization_report import layer_notes
    from workbench.sizes import size

    if not arguments.dry_run:
        if arguments.out is None:
            raise ConfigError("No folder to write.", mend="name one with --out DIR, or look first with --dry-run")
        check_target(arguments.out.expanduser(), overwrite=arguments.overwrite)
    recipe = recipe_of(arguments)
    source = open_source(arguments.model)
    coverage = preflight_source(source, recipe, min_coverage=arguments.min_coverage)
    if arguments.dry_run:
        print(coverage)
        return
    target = export_target(source, arguments.out, overwrite=arguments.overwrite)
    check_exportable(source, coverage)
    for line in (coverage.verdict(), *(f"note: {note}" for note in coverage.notes)):
        print(line, flush=True)
    calibration, model = calibration_of(arguments, coverage)
    results = []
    with ProgressLine() as shown, stopping() as cancel:
        steps = iter_write_quantized(
            source,
            coverage,
            recipe,
            target,
            overwrite=arguments.overwrite,
            calibration=calibration,
            model=model,
            cancel=cancel,
        )
        for step in steps:
            shown.show(step.progress)
            results.append(step.result)
    for note in layer_notes(results):
        print(f"note: {note}")
    print(mean_error(coverage, results))
    print(f"wrote {target}: {size(size_on_disk(target))}")
    for note in tokenizer_notes(target):
        print(f"note: {note}")
    print(f"load it: import workbench as wb; model, tokenizer = wb.load_checkpoint({str(target)!r})")


def mean_error(coverage: Coverage, results: list[LayerResult]) -> str:
    """Say the error over all int4 weights in each objective that was used, and how it stands against rtn's."""
    parameters = {row.name: row.parameters for row in coverage.int4_rows}
    said = []
    for objective in dict.fromkeys(one.objective for one in results):
        mine = [one for one in results if one.objective == objective]
        total = max(1, sum(parameters[one.name] for one in mine))
        error = sum(parameters[one.name] * one.error for one in mine) / total
        nearest = sum(parameters[one.name] * one.rtn_error for one in mine) / total
        against = f" ({error / nearest:.3f} of round-to-nearest's)" if nearest else ""
        said.append(f"{objective} {error:.4g}{against}")
    return "; ".join(said)


def generate(arguments: argparse.Namespace) -> None:
    """Load a checkpoint and print greedy text after a prompt."""
    from workbench.exporting import sample_text
    from workbench.hf.quiet import quiet

    if arguments.tokens < 1:
        raise ConfigError(f"--tokens {arguments.tokens}.", allowed="1 or more")
    if not arguments.prompt.strip():
        raise ConfigError("The prompt is blank.", mend='give some text, for instance "The module"')
    with quiet():
        text = sample_text(Path(arguments.directory), arguments.prompt, arguments.tokens)
    if not text:
        raise ModelError(
            f"{str(arguments.directory)!r} has no tokenizer, or its model generates no text.",
            mend="put the tokenizer there, tokenizer.save_pretrained(folder), then workbench verify --accept",
        )
    print(text)
