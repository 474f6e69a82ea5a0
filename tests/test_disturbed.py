"""The tests of sessions and widgets pass whichever thread is first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.soak
@pytest.mark.parametrize("how", ["workers-first", "people-first"])
def test_sessions_and_widgets_hold_whoever_is_first(how: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.disturbed", "tests/session", "tests/widgets"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"DISTURBED": how}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:]
