"""The notebook's benchmark runs and writes what it says; no test looks at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from notebook_page import PROJECT


def test_the_notebook_benchmark_measures_paint_and_moves(tmp_path: Path) -> None:
    path = tmp_path / "notebook.json"
    command = [sys.executable, "-m", "benchmarks.notebook", "--layers", "1", "--paints", "1", "--json", str(path)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    data = json.loads(path.read_text(encoding="utf-8"))
    runs = {row["what"]: row["runs"] for row in data["rows"]}
    assert runs == {
        "kernel up to first exact heatmap": 1,
        "slider move, rtn": 3,
        "slider move, rtn, cached": 4,
        "slider move, hqq": 3,
        "slider move, hqq, cached": 4,
    }
    assert all(row["time_ms"] > 0 for row in data["rows"])
    assert [goal["limit"] for goal in data["goals"]] == [5, 0.3, 0.3]
