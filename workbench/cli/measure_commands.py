"""What the commands do that measure: `workbench bench|throughput|tune`."""

from __future__ import annotations

import argparse
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from workbench.cli.progress import ProgressLine, stopping
from workbench.cli.settings import group_size_of
from workbench.errors import ConfigError, EnvironmentProblem

if TYPE_CHECKING:
    from workbench.paths import MeasuredPath
    from workbench.records.speed import SpeedPoint

_Point = TypeVar("_Point", "SpeedPoint", "MeasuredPath")


def bench(arguments: argparse.Namespace) -> None:
    """Measure a linear layer by batch size: int4, each of its paths, and dense, against the machine's roofline."""
    from workbench.config import Int4WeightOnlyConfig
    from workbench.measure.speed import ALL_BATCH_SIZES, LinearBench, SpeedReport, environment
    from workbench.records.record import write_json

    _check_writable(arguments.json, arguments.csv)
    made = LinearBench(
        *(arguments.n, arguments.k, Int4WeightOnlyConfig(group_size=group_size_of(arguments))),
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
        with _told(arguments.json):
            write_json(arguments.json, report.to_json())
    if arguments.csv:
        with _told(arguments.csv):
            arguments.csv.write_text(report.to_csv(), encoding="utf-8")


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
        with _told(arguments.json):
            write_json(arguments.json, step.report.to_json())


def tune(arguments: argparse.Namespace) -> None:
    """Measure the paths of int4 products and keep the table for this machine."""
    from workbench.path_store import table_file
    from workbench.tuning import iter_tune, keep, tuning_batches, wanted_shapes

    shapes: Any = [(arguments.n, arguments.k)]
    if arguments.model is not None:
        from workbench.hf.loading import load_checkpoint
        from workbench.hf.quiet import quiet

        with quiet():
            shapes = load_checkpoint(arguments.model)[0]
    wanted = wanted_shapes(shapes, arguments.device, [group_size_of(arguments)], arguments.dtypes)
    points = _measured(
        lambda cancel: iter_tune(wanted, device=arguments.device, cancel=cancel),
        len(wanted) * len(tuning_batches(arguments.device)),
        lambda point: f"{point.n}x{point.k}, {point.dtype}, batch {point.batch}",
    )
    print(keep(points, arguments.device))
    print(f"kept in {table_file(arguments.device)}")


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


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Name the file that could not be written: the system's own error of a full disk does not.

    Raises:
        EnvironmentProblem: with the system's reason.
    """
    try:
        yield
    except OSError as error:
        raise EnvironmentProblem(
            f"{str(path)!r} was not written: {error.strerror}.", mend="free some disk space, or name another folder"
        ) from None


def _check_writable(*paths: Path | None) -> None:
    """Refuse a file that cannot be written before anything is measured."""
    allowed = "a file in a folder that exists and that you may write to"
    for path in filter(None, paths):
        folder = path.absolute().parent
        if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
            raise ConfigError(f"{str(path)!r} cannot be written.", allowed=allowed)
