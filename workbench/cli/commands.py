"""What each command of the command line does; heavy imports wait until a command needs them."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from workbench.errors import Cancelled, ConfigError, EnvironmentProblem

if TYPE_CHECKING:
    from workbench.calibration import Calibration
    from workbench.coverage.coverage import Coverage
    from workbench.jobs import Job
    from workbench.paths import MeasuredPath
    from workbench.recipe.recipe import Recipe
    from workbench.records.errors import LayerResult
    from workbench.records.progress import Progress
    from workbench.records.speed import SpeedPoint

DEFAULT_GROUP_SIZE = 64
_Point = TypeVar("_Point", "SpeedPoint", "MeasuredPath")


def quantize(arguments: argparse.Namespace) -> None:
    """Quantize a model folder into a checkpoint, layer by layer."""
    from workbench.checkpoint.save import iter_write_quantized
    from workbench.checkpoint.writer import size_on_disk
    from workbench.coverage.preflight import preflight_source
    from workbench.export_checks import check_exportable, export_target
    from workbench.hf.skeleton import open_source
    from workbench.quantize import layer_notes
    from workbench.sizes import size

    if arguments.out is None and not arguments.dry_run:
        raise ConfigError("No folder to write.", mend="name one with --out DIR, or look first with --dry-run")
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
    print(f"load it: import workbench as wb; model, tokenizer = wb.load_checkpoint({str(target)!r})")


def calibration_of(arguments: argparse.Namespace, coverage: Coverage) -> tuple[Calibration | None, Any]:
    """Return the calibration and the model to run it through, where a layer is to be calibrated."""
    from workbench.calibration import Calibration
    from workbench.calibration_text import read_text
    from workbench.demo import demo_calibration_text
    from workbench.hf.folders import DEMO
    from workbench.hf.loading import load_model
    from workbench.quantize import needs_calibration

    if not needs_calibration(coverage):
        if arguments.calibration is not None:
            raise ConfigError("--calibration, and no layer is to be calibrated.", mend="add --solver calibrated")
        return None, None
    if arguments.calibration is not None:
        text = read_text(arguments.calibration)
    elif arguments.model == DEMO:
        text = demo_calibration_text()
        print("note: calibrated with the text that comes with the demo model")
    else:
        raise ConfigError(
            f"{needs_calibration(coverage)[0]} is to be calibrated, and there is no calibration text.",
            mend="name a UTF-8 text file with --calibration FILE, or use --solver refined",
        )
    print("note: the whole model is loaded, to run the calibration text through it", flush=True)
    model, tokenizer = load_model(arguments.model)
    calibration = Calibration.from_text(text, tokenizer)
    for note in calibration.notes:
        print(f"note: {note}", flush=True)
    return calibration, model


@contextlib.contextmanager
def stopping() -> Iterator[threading.Event]:
    """Turn a Ctrl-C into an event that long work looks at between its blocks; a second one stops wherever it is.

    Raised in the middle of an operation, a KeyboardInterrupt can come out of it as another error, or not at all.
    """
    cancel = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield cancel
        return
    before = signal.getsignal(signal.SIGINT) or signal.default_int_handler

    def stop(_signal: int, _frame: object) -> None:
        cancel.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, stop)
    try:
        yield cancel
    finally:
        signal.signal(signal.SIGINT, before)


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
    print(text or "this model does not generate text, or has no tokenizer")


def bench(arguments: argparse.Namespace) -> None:
    """Measure a linear layer by batch size: int4, each of its paths, and dense, against the machine's roofline."""
    from workbench.config import Int4WeightOnlyConfig
    from workbench.measure.speed import ALL_BATCH_SIZES, LinearBench, SpeedReport, environment
    from workbench.records.record import write_json

    _check_writable(arguments.json, arguments.csv)
    made = LinearBench(
        *(arguments.n, arguments.k, Int4WeightOnlyConfig(group_size=_group_size(arguments))),
        arguments.batch_sizes or ALL_BATCH_SIZES,
        device=arguments.device,
        dtypes=arguments.dtypes,
        paths=arguments.paths,
        compiled=arguments.compiled,
    )
    points = _measured(made.run, made.steps, lambda point: f"{point.dtype}, batch {point.batch}")
    report = SpeedReport(tuple(points), environment(made.device), made.roofline, tuple(made.notes))
    print(report)
    if arguments.json:
        write_json(arguments.json, report.to_json())
    if arguments.csv:
        arguments.csv.write_text(report.to_csv(), encoding="utf-8")


def _measured(
    points: Callable[[threading.Event], Iterator[_Point]], steps: int, label: Callable[[_Point], str]
) -> list[_Point]:
    """Take all points of a measurement, with a line of progress: a step is one shape, dtype and batch size."""
    from workbench.jobs import progress_since

    start, found, seen = time.monotonic(), list[_Point](), set[tuple[Any, ...]]()
    with ProgressLine() as shown, stopping() as cancel:
        for point in points(cancel):
            found.append(point)
            step = (point.dtype, point.n, point.k, point.group_size, point.batch)
            if step not in seen:
                seen.add(step)
                shown.show(progress_since(start, len(seen), steps, label(point)))
    return found


def throughput(arguments: argparse.Namespace) -> None:
    """Measure how many tokens a second models read and write, taking turns."""
    from workbench.hf.loading import load_model
    from workbench.hf.quiet import quiet
    from workbench.measure.throughput import iter_throughput
    from workbench.records.record import write_json

    _check_writable(arguments.json)
    twice = [name for name in arguments.models if arguments.models.count(name) > 1]
    if twice:
        raise ConfigError(f"The model {twice[0]!r} is named twice.", mend="name each model once")
    with quiet():
        models = {name: load_model(name, device=arguments.device)[0] for name in arguments.models}
    with ProgressLine() as shown, stopping() as cancel:
        for step in iter_throughput(
            models,
            prompt_tokens=arguments.prompt_tokens,
            new_tokens=arguments.new_tokens,
            rounds=arguments.rounds,
            cancel=cancel,
        ):
            shown.show(step.progress)
    assert step.report is not None, "every model had all its turns"
    print(step.report)
    if arguments.json:
        write_json(arguments.json, step.report.to_json())


def report(arguments: argparse.Namespace) -> None:
    """Write one HTML file: coverage, errors of every layer, recipe and code, and the speed of this machine."""
    from workbench.report.write import check_target
    from workbench.session import open_session
    from workbench.sizes import size

    recipe = recipe_of(arguments)
    check_target(arguments.out)
    session = open_session(arguments.model)
    if arguments.calibration is not None:
        session.load_calibration_file(arguments.calibration)
    session.set_recipe(recipe)
    session.refresh()
    session.wait()  # for the first view, and the speed that is measured behind it
    with ProgressLine() as shown, stopping() as cancel:
        if arguments.speed:
            finish(session.measure_speed(), shown, cancel)
        finish(session.report(arguments.out), shown, cancel)
    written = session.reporting.latest
    assert written is not None, "a report that was not written is an error"
    for name in written.missing:
        print(f"note: {name} could not be solved and has no error in the report")
    print(session.verdict.line())
    print(f"wrote {written.path}: {size(written.size_bytes)}")


def finish(job: Job, shown: ProgressLine, cancel: threading.Event) -> None:
    """Wait for a job of a session with a line of progress; a Ctrl-C cancels it.

    Raises:
        Cancelled: when it was cancelled.
        WorkbenchError: whatever else ended it.
    """
    seen: object = None
    while not job.wait(0.05):
        if job.progress is not None and job.progress is not seen:
            seen = job.progress
            shown.show(job.progress)
        if cancel.is_set():
            job.cancel()
    if job.state == "cancelled":
        raise Cancelled(f"{job.label} was cancelled.")
    if job.error is not None:
        raise job.error


def _check_writable(*paths: Path | None) -> None:
    for path in paths:
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise ConfigError(f"{str(path)!r} cannot be written.", allowed="a file in a folder that exists")


def tune(arguments: argparse.Namespace) -> None:
    """Measure the paths of int4 products and keep the table for this machine."""
    from workbench.paths import table_file
    from workbench.tuning import iter_tune, keep, tuning_batches, wanted_shapes

    shapes: Any = [(arguments.n, arguments.k)]
    if arguments.model is not None:
        from workbench.hf.loading import load_checkpoint

        shapes = load_checkpoint(arguments.model)[0]
    wanted = wanted_shapes(shapes, arguments.device, [_group_size(arguments)], arguments.dtypes)
    points = _measured(
        lambda cancel: iter_tune(wanted, device=arguments.device, cancel=cancel),
        len(wanted) * len(tuning_batches(arguments.device)),
        lambda point: f"{point.n}x{point.k}, {point.dtype}, batch {point.batch}",
    )
    print(keep(points, arguments.device))
    print(f"kept in {table_file(arguments.device)}")


def lab(arguments: argparse.Namespace) -> None:
    """Open the workbench in JupyterLab."""
    from workbench.cli.launch import launch_lab

    if not 1 <= arguments.port <= 65535:
        raise ConfigError(f"--port {arguments.port}.", allowed="1 to 65535")
    code = launch_lab(
        arguments.model, port=arguments.port, browser=not arguments.no_browser, folder=arguments.notebook_dir
    )
    if code:
        raise EnvironmentProblem(f"JupyterLab ended with code {code}.", mend="its own messages above say why")


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    """Make a recipe of a file, a preset, or the settings on the command line."""
    from workbench.config import Int4WeightOnlyConfig, TensorCoreTiledLayout
    from workbench.recipe.recipe import as_recipe

    if arguments.recipe is not None:
        given = [
            name for name in SETTINGS if getattr(arguments, name) is not None and getattr(arguments, name) is not False
        ]
        if given:
            named = ", ".join("--" + name.replace("_", "-") for name in given)
            raise ConfigError(f"--recipe was given together with {named}.", mend="put them into a recipe file")
        return _named_recipe(arguments.recipe)
    config = Int4WeightOnlyConfig(
        group_size=_group_size(arguments),
        layout=TensorCoreTiledLayout(8 if arguments.inner_k_tiles is None else arguments.inner_k_tiles),
        use_hqq=arguments.hqq,
        preserve_zero={None: None, "yes": True, "no": False}[arguments.preserve_zero],
    )
    return as_recipe(
        config,
        include=arguments.include,
        exclude=arguments.exclude,
        output_head=arguments.output_head,
        domain=arguments.domain,
        solver=arguments.solver,
    )


def _named_recipe(name: str) -> Recipe:
    """Return the preset of that name, else read the file: a file called like a preset is ./NAME."""
    from workbench.recipe.recipe import Recipe

    if name not in Recipe.presets() and (Path(name).exists() or Path(name).suffix or Path(name).name != name):
        return Recipe.load(name)
    try:
        return Recipe.preset(name)
    except ConfigError as error:
        said = f"--recipe {name!r} is neither a file nor a preset."
        raise ConfigError(said, allowed=f"a file, or {error.allowed}", mend=error.mend) from None


def _group_size(arguments: argparse.Namespace) -> int:
    return DEFAULT_GROUP_SIZE if arguments.group_size is None else int(arguments.group_size)


SETTINGS = (
    *("group_size", "hqq", "domain", "solver", "preserve_zero", "inner_k_tiles"),
    *("include", "exclude", "output_head"),
)


class ProgressLine:
    """One line that is written over on a terminal; elsewhere, every tenth step."""

    def __init__(self) -> None:
        self._count = 0
        self._live = sys.stderr.isatty()

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live and self._count:
            print(file=sys.stderr)

    def show(self, progress: Progress) -> None:
        """Show where the work stands."""
        self._count += 1
        left = "" if progress.remaining_s is None else f", about {progress.remaining_s:.0f} s left"
        text = f"{progress.done / max(1, progress.total):>4.0%}  {progress.label}  {progress.elapsed_s:.1f} s{left}"
        if self._live:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
        elif self._count % 10 == 0 or progress.done == progress.total:
            print(text, file=sys.stderr, flush=True)
