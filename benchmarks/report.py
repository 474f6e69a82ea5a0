"""What every benchmark shares: its options, the machine it ran on, the table, the goals and the JSON file."""

from __future__ import annotations

import argparse
import os
import platform
import re
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import workbench
from workbench.measure.timing import environment
from workbench.records.record import write_json

RESULTS = Path(__file__).parent / "results"
_AUTOMATIC = "automatic"

Row = dict[str, Any]


@dataclass(frozen=True)
class Goal:
    """One figure that the project promises.

    Attributes:
        what: What is compared.
        value: What was measured.
        limit: What is promised.
        sense: "at least" or "at most".
    """

    what: str
    value: float
    limit: float
    sense: str

    @property
    def met(self) -> bool:
        """Whether the promise was kept in this run."""
        return self.value >= self.limit if self.sense == "at least" else self.value <= self.limit

    def __str__(self) -> str:
        return f"{'met   ' if self.met else 'MISSED'} {self.what}: {self.value:.3g} ({self.sense} {self.limit:g})"


@dataclass(frozen=True)
class Report:
    """One run of one benchmark.

    Attributes:
        name: Name of the module in `benchmarks`.
        settings: What was asked for.
        rows: The table; all rows have the same keys.
        goals: The promises, with what this run made of them.
        device: "cpu", or "cuda" where a GPU did the work.
    """

    name: str
    settings: dict[str, Any]
    rows: list[Row]
    goals: list[Goal]
    device: str = "cpu"

    def to_json(self) -> dict[str, Any]:
        """Return everything, and the machine, as JSON types."""
        goals = [{**asdict(goal), "met": goal.met} for goal in self.goals]
        return {
            "benchmark": self.name,
            "machine": machine(self.device),
            "settings": self.settings,
            "rows": self.rows,
            "goals": goals,
        }

    def __str__(self) -> str:
        about = ", ".join(f"{key} {value}" for key, value in machine(self.device).items())
        asked = ", ".join(f"{key}={value}" for key, value in self.settings.items())
        return "\n".join((about, f"{self.name}: {asked}", "", table(self.rows), "", *map(str, self.goals)))


def options(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--json",
        nargs="?",
        const=_AUTOMATIC,
        metavar="PATH",
        help="write the results as JSON; without PATH to benchmarks/results/<name>-<machine>.json",
    )
    return parser


def finish(report: Report, json_path: str | None) -> None:
    """Print the report and write it where it was asked for."""
    sys.stdout.write(f"{report}\n")
    if json_path is None:
        return
    path = (
        RESULTS / f"{report.name}-{machine_label(report.device)}.json" if json_path == _AUTOMATIC else Path(json_path)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, report.to_json())


def machine(device: str = "cpu") -> dict[str, Any]:
    """Return processor, instruction set, cores, threads, system and versions; and the GPU, for work done there."""
    found = environment()
    about = {
        "processor": found.device_name,
        "capability": found.capability,
        "cores": os.cpu_count(),
        "threads": found.threads,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": found.torch_version,
        "workbench": workbench.__version__,
    }
    if device != "cuda":
        return about
    gpu = environment("cuda")
    return {**about, "gpu": gpu.device_name, "gpu_capability": gpu.capability, "cuda": torch.version.cuda}


def machine_label(device: str = "cpu") -> str:
    """Name the kind of machine in a few letters, for instance "cpu-avx512-2c" or "cuda-nvidia-h100-80gb-hbm3"."""
    if device == "cuda":
        return "cuda-" + re.sub(r"[^a-z0-9]+", "-", environment("cuda").device_name.lower()).strip("-")
    return f"cpu-{environment().capability.lower()}-{os.cpu_count()}c"


def time_row(seconds: Sequence[float]) -> Row:
    """Return median, 10th and 90th percentile of timed calls, in milliseconds, and their number."""
    ordered = sorted(seconds)
    return {
        "time_ms": _rounded(statistics.median(ordered) * 1e3),
        "p10_ms": _rounded(ordered[len(ordered) // 10] * 1e3),
        "p90_ms": _rounded(ordered[9 * len(ordered) // 10] * 1e3),
        "runs": len(ordered),
    }


def ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """Return how many times longer `slow` takes, median over median."""
    return _rounded(statistics.median(slow) / statistics.median(fast))


def table(rows: Sequence[Row]) -> str:
    """Format rows with the same keys as columns."""
    if not rows:
        return "(no rows)"
    lines = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    numeric = [isinstance(value, int | float) for value in rows[0].values()]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    )


def _cell(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else ("-" if value is None else str(value))


def _rounded(value: float) -> float:
    """Five significant digits: more would be noise in the recorded files."""
    return float(f"{value:.5g}")


def llm_like_weight(n: int, k: int, seed: int = 0) -> torch.Tensor:
    """Return a float32 weight [n, k] with heavier tails than normal, from a fixed seed.

    Its deviation is 0.02, and 2 % of it are up to seven times as large.
    """
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(n, k, generator=generator).mul_(0.02)
    tail = torch.rand(n, k, generator=generator) < 0.02
    return torch.where(tail, weight * (1 + 6 * torch.rand(n, k, generator=generator)), weight)
