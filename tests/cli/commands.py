"""The command line in a process of its own, for tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SAFETENSORS = "model.safetensors"


def run(*arguments, **settings):
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "workbench", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, **settings)
