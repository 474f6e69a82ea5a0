"""Tests compile kernels and keep tables in a cache of their own: what a person tuned changes no result."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes import group_of, place_of, scheduler

WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
_polite = False  # whether this process has stepped behind the others

if WORKER:
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that wait leave the core to the other processes
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


# --- the tests in several processes, as `make test` runs them -------------------------------------------------------


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the groups that take long first."""
    items.sort(key=lambda item: place_of(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Divide the tests by group."""
    return scheduler(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let the process that works a browser go before the others, which only calculate."""
    global _polite
    if WORKER and not _polite and group_of(item.nodeid) != "browser":
        _polite = True
        os.nice(10)
