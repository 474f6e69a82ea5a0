"""A native checkpoint from its files to its first token, against the dense model, each in fresh processes.

A Llama shape of 477 M parameters. Timed is `from_pretrained` and one forward pass; imports are made before. With files
in the page cache, and with the cache told to forget them (Linux; a disk may have a cache of its own). Peak memory is
what the process needs above its level after the imports, mapped files included.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.llama import llama
from benchmarks.memory import peak_bytes
from benchmarks.report import Goal, Report, Row, finish, options, ratio, time_row

NATIVE, DENSE = "int4", "dense"
CACHED, EVICTED = "cached", "evicted"


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = options("Time a native checkpoint from its files to its first token, against the dense model.")
    parser.add_argument("--hidden", type=int, default=2048, help="hidden size (default 2048)")
    parser.add_argument("--layers", type=int, default=8, help="layers (default 8)")
    parser.add_argument("--rounds", type=int, default=5, help="fresh processes of each kind (default 5)")
    parser.add_argument("--directory", type=Path, help="where the models are written (default: a temporary folder)")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        print(json.dumps(load_once(args.child)))
        return 0
    with tempfile.TemporaryDirectory(dir=args.directory) as place:
        folders = write_models(Path(place), args.hidden, args.layers)
        sizes = {kind: sum(file.stat().st_size for file in folder.iterdir()) for kind, folder in folders.items()}
        found = measure(folders, args.rounds)
    rows, goals = summary(found, sizes)
    settings = {"hidden": args.hidden, "layers": args.layers, "rounds": args.rounds, "can_evict": CAN_EVICT}
    finish(Report("loading", settings, rows, goals), args.json)
    return 0


CAN_EVICT = hasattr(os, "posix_fadvise")


def write_models(place: Path, hidden: int, layers: int) -> dict[str, Path]:
    """Write the dense model and its native checkpoint."""
    import workbench as wb

    model, folders = llama(hidden, layers), {kind: place / kind for kind in (DENSE, NATIVE)}
    model.save_pretrained(folders[DENSE])
    wb.quantize_(model, wb.Int4WeightOnlyConfig(group_size=64))
    wb.save_checkpoint(model, folders[NATIVE])
    return folders


def measure(folders: dict[str, Path], rounds: int) -> dict[tuple[str, str], list[dict[str, float]]]:
    """Load each model in fresh processes, taking turns."""
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for number in range(rounds + 1):
        for state in (CACHED, EVICTED) if CAN_EVICT else (CACHED,):
            for kind, folder in folders.items():
                read_all(folder) if state == CACHED else evict(folder)
                command = [sys.executable, "-m", "benchmarks.loading", "--child", str(folder)]
                output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                if number:  # the first round warms bytecode and kernels
                    found.setdefault((kind, state), []).append(json.loads(output.splitlines()[-1]))
    return found


def load_once(folder: Path) -> dict[str, float]:
    """Load a model and compute one token; return seconds and the peak of memory."""
    import transformers
    from transformers import LlamaForCausalLM  # noqa: F401  # its import is not loading

    import workbench.hf

    transformers.utils.logging.disable_progress_bar()
    workbench.hf.quantizer  # noqa: B018
    taken: list[float] = []
    ids = torch.arange(1, 9)[None]

    def run() -> object:
        start = time.perf_counter()
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        loaded = time.perf_counter()
        with torch.inference_mode():
            int(model(input_ids=ids).logits[0, -1].argmax())
        taken.extend((time.perf_counter() - start, loaded - start))
        return model

    peak = peak_bytes(run) or 0
    return {"seconds": taken[0], "load": taken[1], "peak": peak}


def read_all(folder: Path) -> None:
    """Bring the files into the page cache."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            while file.read(2**24):
                pass


def evict(folder: Path) -> None:
    """Have the page cache forget the files."""
    for path in folder.iterdir():
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def summary(
    found: dict[tuple[str, str], list[dict[str, float]]], sizes: dict[str, int]
) -> tuple[list[Row], list[Goal]]:
    """Return the table and the goals."""
    rows: list[Row] = []
    seconds = {key: [run["seconds"] for run in runs] for key, runs in found.items()}
    for (kind, state), runs in found.items():
        peak = statistics.median(run["peak"] for run in runs)
        about = {"model": kind, "files": state, **time_row(seconds[kind, state])}
        loading = 1000 * statistics.median(run["load"] for run in runs)
        row = {"loading_ms": float(f"{loading:.5g}"), "size_mb": round(sizes[kind] / 1e6)}
        rows.append({**about, **row, "peak_mb": round(peak / 1e6), "peak_of_size": float(f"{peak / sizes[kind]:.3g}")})
    first = statistics.median(seconds[NATIVE, CACHED])
    peak = statistics.median(run["peak"] for run in found[NATIVE, CACHED]) / sizes[NATIVE]
    goals = [
        Goal("int4, files cached: seconds to the first token", float(f"{first:.3g}"), 1.2, "at most"),
        Goal("int4: peak memory over the checkpoint's bytes", float(f"{peak:.3g}"), 1.3, "at most"),
    ]
    if CAN_EVICT:
        of_dense = ratio(seconds[NATIVE, EVICTED], seconds[DENSE, EVICTED])
        goals.append(Goal("int4 over dense, files evicted", of_dense, 0.8, "at most"))
    return rows, goals


if __name__ == "__main__":
    raise SystemExit(main())
