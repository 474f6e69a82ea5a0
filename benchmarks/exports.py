"""Exports of a quantized Llama shape of 477 M parameters: seconds for each target, and the speed of verifying.

Each target writes a native checkpoint on disk in its own format, from a domain that it holds; files are in the page
cache. What the disk itself takes is shown beside it: the same bytes copied with an fsync.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.llama import VOCABULARY, llama
from benchmarks.report import Goal, Report, Row, finish, options, time_row

GROUP_SIZE = 128
FLOAT, INT = "float", "int"


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = options("Time the exports of a quantized Llama shape to each target.")
    parser.add_argument("--hidden", type=int, default=2048, help="hidden size (default 2048)")
    parser.add_argument("--layers", type=int, default=8, help="layers (default 8)")
    parser.add_argument("--rounds", type=int, default=3, help="exports to each target (default 3)")
    parser.add_argument("--directory", type=Path, help="where they are written (default: a temporary folder)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=args.directory) as place:
        rows, goals = measure(Path(place), args.hidden, args.layers, args.rounds)
    settings = {"hidden": args.hidden, "layers": args.layers, "group_size": GROUP_SIZE}
    finish(Report("exports", settings, rows, goals), args.json)
    return 0


def measure(place: Path, hidden: int, layers: int, rounds: int) -> tuple[list[Row], list[Goal]]:
    """Write the checkpoints, then export them in turns."""
    import workbench as wb
    from workbench.targets import TARGETS

    sources = {domain: _checkpoint(place / domain, hidden, layers, domain) for domain in (FLOAT, INT)}
    domains = {}
    for name in TARGETS:
        fits = {domain: wb.export_targets(folder).fits[name] for domain, folder in sources.items()}
        domains[name] = FLOAT if fits[FLOAT].state != "refused" else INT
        fits[domains[name]].check()
    times: dict[str, list[float]] = {}
    sizes: dict[str, int] = {}
    errors: dict[str, float] = {}
    for number in range(rounds + 1):  # the first warms imports and the disk
        for name, domain in domains.items():
            report, seconds = _timed(partial(wb.export, sources[domain], place / name, name, overwrite=True))
            sizes[name], errors[name] = report.size_bytes, report.max_error
            if number:
                times.setdefault(name, []).append(seconds)
                times.setdefault(f"{name}, copied", []).append(_timed(partial(_copy, place / name, place / "copy"))[1])
    rows = [
        {
            "target": name,
            "domain": domains[name],
            **time_row(times[name]),
            "copy_ms": round(1000 * statistics.median(times[f"{name}, copied"])),
            "size_mb": round(sizes[name] / 1e6),
            "max_error": float(f"{errors[name]:.3g}"),
        }
        for name in domains
    ]
    goals = [
        Goal(f"{name}: seconds", float(f"{statistics.median(times[name]):.3g}"), 10, "at most") for name in domains
    ]
    return rows, goals


def _checkpoint(folder: Path, hidden: int, layers: int, domain: Any) -> Path:
    import workbench as wb

    model, tokenizer = llama(hidden, layers), wb.demo_model()[1]
    tokenizer.add_tokens([f"<unused{i}>" for i in range(VOCABULARY - len(tokenizer))])
    wb.quantize_(model, wb.Int4WeightOnlyConfig(group_size=GROUP_SIZE), domain=domain)
    return wb.save_checkpoint(model, folder, tokenizer=tokenizer)


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    found = call()
    return found, time.perf_counter() - start


def _copy(origin: Path, target: Path) -> None:
    import os

    for path in origin.iterdir():
        with path.open("rb") as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, 2**22)
            file.flush()
            os.fsync(file.fileno())


if __name__ == "__main__":
    raise SystemExit(main())
