"""Tests compile kernels and keep tables in a cache of their own: what a person tuned changes no result."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_FOLDER = tempfile.mkdtemp(prefix="int4-workbench-tests-")
os.environ["WORKBENCH_CACHE"] = _FOLDER
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)


@pytest.fixture
def own_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder; what the test stores there is forgotten after it."""
    import workbench.choice as choice  # not before it is asked for: most tests need none of it

    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    choice.forget_tables()
    yield tmp_path / "cache"
    monkeypatch.undo()
    choice.forget_tables()


@pytest.fixture
def quick_roofline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure the roof over small vectors and matrices: in hundredths of a second, and of no use but in tests."""
    monkeypatch.setattr("workbench.measure.roofline.rotation_bytes", lambda device: 2**20)
    monkeypatch.setattr("workbench.measure.roofline._SIZES", (64,))
