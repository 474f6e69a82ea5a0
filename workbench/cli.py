"""The command line: `workbench lab|quantize|inspect|verify|bench`.

Every `WorkbenchError` is one clear line on stderr and exit code 2; Ctrl-C is 130, with nothing half-written.
Heavy imports wait until a command needs them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import __version__
from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from workbench.records import Progress

USAGE_ERROR, INTERRUPTED = 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        return command(arguments)
    except WorkbenchError as error:
        print(f"workbench: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print("workbench: stopped; nothing was half-written", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        return 0


def quantize(arguments: argparse.Namespace) -> int:
    """Quantize a model folder into a checkpoint, layer by layer."""
    from workbench.checkpoint.save import iter_write_quantized
    from workbench.coverage import preflight_source, size
    from workbench.hf import open_source

    recipe = _recipe(arguments)
    source = open_source(arguments.model)
    coverage = preflight_source(source, recipe, min_coverage=arguments.min_coverage)
    if arguments.dry_run:
        print(coverage)
        return 0
    print(coverage.verdict())
    for note in coverage.notes:
        print(f"note: {note}")
    line = _ProgressLine()
    error = nearest = 0.0
    for step in iter_write_quantized(source, coverage, recipe, arguments.out, overwrite=arguments.overwrite):
        line.show(step.progress)
        share = coverage_share(coverage, step.result.name)
        error += share * step.result.mean_abs_error
        nearest += share * step.result.rtn_mean_abs_error
    line.end()
    written = sum(path.stat().st_size for path in Path(arguments.out).iterdir())
    against = f" ({error / nearest:.3f} of round-to-nearest's)" if nearest else ""
    print(f"mean |error| {error:.4g}{against}")
    print(f"wrote {arguments.out}: {size(written)}")
    print(f"load it: import workbench as wb; model, tokenizer = wb.load_checkpoint({str(arguments.out)!r})")
    return 0


def coverage_share(coverage: Any, name: str) -> float:
    """Return a layer's share of the int4 weights, 0 to 1."""
    parameters = {row.name: row.parameters for row in coverage.int4_rows}
    return float(parameters[name] / max(1, sum(parameters.values())))


def inspect(arguments: argparse.Namespace) -> int:
    """Say what a checkpoint or a model folder holds."""
    from workbench.checkpoint.integrity import check_headers, read_quantization
    from workbench.checkpoint.native import QUANT_METHOD, parse
    from workbench.coverage import preflight_source, size
    from workbench.hf import local_folder, open_source, read_config

    folder = local_folder(arguments.directory)
    config = read_config(folder)
    quantization = read_quantization(folder)
    if quantization.get("quant_method") not in (None, QUANT_METHOD):
        print(f"{folder}: quantized with {quantization['quant_method']!r}, which the workbench does not read")
        return 0
    if not quantization:
        print(preflight_source(open_source(arguments.directory), _recipe(arguments)))
        return 0
    modules = parse(quantization)
    stored = check_headers(folder, modules)
    if arguments.json:
        print(json.dumps(quantization, indent=2))
        return 0
    width = max((len(name) for name in modules), default=6)
    print(f"{'module':<{width}}  {'shape':<14} {'group':>5} {'domain':<10} scales")
    for name, form in modules.items():
        shape = f"{form.out_features}x{form.in_features}"
        print(f"{name:<{width}}  {shape:<14} {form.group_size:>5} {form.domain:<10} {form.scale_dtype}")
    total = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    producer = quantization.get("producer", "unknown")
    print(
        f"{config.get('architectures', ['?'])[0]}, format {quantization['format_version']}, "
        f"{len(modules)} int4 modules, {len(stored.names())} tensors, {size(total)}; made by {producer}"
    )
    return 0


def verify(arguments: argparse.Namespace) -> int:
    """Check every hash, shape and range of a checkpoint."""
    from workbench.checkpoint.integrity import iter_verify
    from workbench.errors import CheckpointError

    checked, bad = 0, []
    for found in iter_verify(arguments.directory):
        checked += 1
        if found.problem:
            bad.append(found)
            print(f"damaged: {found.what}: {found.problem}", file=sys.stderr)
    if bad:
        raise CheckpointError(
            f"{str(arguments.directory)!r} is damaged in {len(bad)} of {checked} places.",
            mend="fetch or save it again",
        )
    print(f"{arguments.directory}: whole ({checked} things checked)")
    return 0


def generate(arguments: argparse.Namespace) -> int:
    """Load a checkpoint and print greedy text after a prompt."""
    from workbench.exporting import sample_text

    text = sample_text(Path(arguments.directory), arguments.prompt, arguments.tokens)
    print(text or "this model does not generate text")
    return 0


def bench(arguments: argparse.Namespace) -> int:
    """Measure a linear layer, int4 and dense, by batch size."""
    from workbench.config import Int4WeightOnlyConfig
    from workbench.measure.speed import bench_linear
    from workbench.records import write_json

    report = bench_linear(
        arguments.n,
        arguments.k,
        Int4WeightOnlyConfig(group_size=arguments.group_size),
        arguments.batch_sizes,
        device=arguments.device,
        dtypes=arguments.dtypes,
    )
    print(report)
    for dtype in arguments.dtypes:
        pairs = ", ".join(f"{batch}: {ratio:.2f}x" for batch, ratio in report.speedups(dtype).items())
        print(f"speedup over dense {dtype} by batch: {pairs}")
    if arguments.json:
        write_json(arguments.json, report.to_json())
    if arguments.csv:
        Path(arguments.csv).write_text(report.to_csv(), encoding="utf-8")
    return 0


def lab(arguments: argparse.Namespace) -> int:
    """Open the workbench in JupyterLab."""
    from workbench.launch import launch_lab

    return launch_lab(
        arguments.model, port=arguments.port, browser=not arguments.no_browser, folder=arguments.notebook_dir
    )


def _recipe(arguments: argparse.Namespace) -> Any:
    from workbench.config import Int4WeightOnlyConfig, TensorCoreTiledLayout
    from workbench.recipe import Recipe, as_recipe

    if getattr(arguments, "recipe", None):
        return Recipe.load(arguments.recipe)
    config = Int4WeightOnlyConfig(
        group_size=arguments.group_size,
        layout=TensorCoreTiledLayout(arguments.inner_k_tiles),
        use_hqq=arguments.hqq,
        preserve_zero={None: None, "yes": True, "no": False}[arguments.preserve_zero],
    )
    return as_recipe(
        config,
        include=arguments.include,
        exclude=arguments.exclude,
        domain=arguments.domain,
        solver=arguments.solver,
    )


class _ProgressLine:
    """One line that is written over on a terminal, and a line in ten elsewhere."""

    def __init__(self) -> None:
        self._count = 0
        self._live = sys.stderr.isatty()

    def show(self, progress: Progress) -> None:
        """Show where the work stands."""
        self._count += 1
        left = "" if progress.remaining_s is None else f", about {progress.remaining_s:.0f} s left"
        text = f"{progress.done / max(1, progress.total):>4.0%}  {progress.label}  {progress.elapsed_s:.1f} s{left}"
        if self._live:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
        elif self._count % 10 == 0 or progress.done == progress.total:
            print(text, file=sys.stderr)

    def end(self) -> None:
        """Finish the line."""
        if self._live:
            print(file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="workbench", description="Int4 weight-only quantization: choose, see, measure, export."
    )
    parser.add_argument("--version", action="version", version=f"int4-workbench {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    one = commands.add_parser("lab", help="open the workbench in JupyterLab")
    one.add_argument("model", nargs="?", help="a model folder or hub name (default: the embedded demo model)")
    one.add_argument("--port", type=int, default=8888, help="port of the server (the next free one is taken)")
    one.add_argument("--no-browser", action="store_true", help="do not open a browser")
    one.add_argument("--notebook-dir", type=Path, help="where the notebooks are copied to")
    one.set_defaults(command=lab)

    one = commands.add_parser("quantize", help="quantize a model folder into a checkpoint")
    one.add_argument("model", help="a model folder, a hub name, or demo")
    one.add_argument("--out", required=True, type=Path, help="the folder to make")
    one.add_argument("--overwrite", action="store_true", help="replace the folder when it exists")
    one.add_argument("--dry-run", action="store_true", help="print the coverage and stop")
    one.add_argument("--min-coverage", type=float, default=0.0, help="least share of linear bytes in int4, 0 to 1")
    one.add_argument("--recipe", type=Path, help="a recipe file instead of the settings below")
    _add_settings(one)
    one.set_defaults(command=quantize)

    one = commands.add_parser("inspect", help="say what a checkpoint or a model folder holds")
    one.add_argument("directory", help="a checkpoint, a model folder, or demo")
    one.add_argument("--json", action="store_true", help="print the quantization_config of a checkpoint")
    _add_settings(one)
    one.set_defaults(command=inspect)

    one = commands.add_parser("verify", help="check every hash, shape and range of a checkpoint")
    one.add_argument("directory", type=Path)
    one.set_defaults(command=verify)

    one = commands.add_parser("generate", help="load a checkpoint and print greedy text")
    one.add_argument("directory", type=Path)
    one.add_argument("prompt")
    one.add_argument("--tokens", type=int, default=40, help="most new tokens")
    one.set_defaults(command=generate)

    one = commands.add_parser("bench", help="measure a linear layer, int4 and dense, by batch size")
    one.add_argument("-n", type=int, default=4096, help="out_features")
    one.add_argument("-k", type=int, default=4096, help="in_features")
    one.add_argument("--group-size", type=int, default=64)
    one.add_argument("--batch-sizes", type=_whole_numbers, default=[1, 4, 16, 64, 256], help="for instance 1,4,16")
    one.add_argument("--dtypes", type=lambda text: text.split(","), default=["bfloat16"])
    one.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    one.add_argument("--json", type=Path, help="write the points here")
    one.add_argument("--csv", type=Path, help="write the points here")
    one.set_defaults(command=bench)
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--group-size", type=int, default=64, help="256, 128, 64 or 32 (default 64)")
    parser.add_argument("--hqq", action="store_true", help="solve for the zero points with HQQ")
    parser.add_argument("--domain", help="float, int or symmetric (default: what the kernel takes first)")
    parser.add_argument("--solver", help="rtn or hqq (default: follows --hqq)")
    parser.add_argument("--preserve-zero", choices=["yes", "no"], help="keep 0 exact (default: the domain's own)")
    parser.add_argument("--inner-k-tiles", type=int, default=8, help="2, 4 or 8: tiles of the CUDA layout")
    parser.add_argument("--include", action="append", help="pattern of layers to quantize; may be given again")
    parser.add_argument("--exclude", action="append", help="pattern of layers to leave dense; may be given again")


def _whole_numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers such as 1,4,16") from None


if __name__ == "__main__":
    sys.exit(main())
