"""What `import workbench` adds to `import torch`, in fresh processes that take turns.

Measured twice: as the difference of whole processes, neighbours in time, and inside the process, as what the statement
takes once torch is there. Names are imported on first use, so the import of the layer and the solvers is timed as well.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable

from benchmarks.report import Goal, Report, finish, options, time_row
from workbench.measure.timing import time_interleaved

# Name in the table → what is imported after torch.
IMPORTS = {"torch": None, "torch, workbench": "workbench", "torch, workbench.linear": "workbench.linear"}
UNWANTED = ("transformers", "plotly", "ipywidgets", "dask")
LIMIT_S = 0.3


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = options("Time `import workbench` beside `import torch`.")
    parser.add_argument("--rounds", type=int, default=25, help="fresh processes for each import (default 25)")
    args = parser.parse_args(argv)
    inside: dict[str, list[float]] = {name: [] for name in IMPORTS}
    calls = {name: _process(module, inside[name]) for name, module in IMPORTS.items()}
    warm_up = min(1, args.rounds - 1)  # one round alone only tries whether all of it runs
    times = time_interleaved(calls, budget_s=0, min_runs=args.rounds, warm_up=warm_up)
    rows = []
    goals = []
    for name, module in IMPORTS.items():
        added_s = statistics.median(one - torch for one, torch in zip(times[name], times["torch"], strict=True))
        inside_s = statistics.median(inside[name])
        row = {"added_ms": round(added_s * 1e3, 1), "inside_ms": round(inside_s * 1e3, 1)}
        rows.append({"imports": name, **time_row(times[name]), **row})
        if module is not None:
            goals.append(Goal(f"{name}: seconds added, whole processes", round(added_s, 4), LIMIT_S, "at most"))
            goals.append(Goal(f"{name}: seconds added, inside", round(inside_s, 4), LIMIT_S, "at most"))
            unwanted = len(imported(module, UNWANTED))
            goals.append(Goal(f"{name}: of {', '.join(UNWANTED)} imported", unwanted, 0, "at most"))
    finish(Report("import_time", {"rounds": args.rounds}, rows, goals), args.json)
    return 0


def imported(module: str, names: tuple[str, ...]) -> list[str]:
    """Return which of `names` a fresh process holds after `import module`."""
    code = f"import {module}, sys; sys.stdout.write(' '.join(set({names!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return sorted(done.stdout.split())


def _process(module: str | None, inside: list[float]) -> Callable[[], object]:
    statement = "pass" if module is None else f"import {module}"
    code = f"import torch, time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"

    def call() -> None:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        inside.append(float(done.stdout))

    return call


if __name__ == "__main__":
    raise SystemExit(main())
