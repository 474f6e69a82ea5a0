"""How the tests are divided among the processes of `make test`."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

# Longest first, so that no process is left with a long group at the end.
LONGEST = (
    *("browser", "session/test_calibration.py", "test_notebooks.py", "test_compiled_model.py"),
    *("cli/test_quantize_commands.py", "test_benchmarks.py", "test_demo.py"),
    *("checkpoint/test_save.py", "checkpoint/test_atomic.py"),
)
TOGETHER = ("browser", "cuda")  # directories whose tests share a server or a device


def group_of(nodeid: str) -> str:
    """Return what stays in one process, and in its order: a directory of `TOGETHER`, or a file."""
    path = PurePosixPath(*PurePosixPath(nodeid.partition("::")[0]).parts[1:])
    return path.parts[0] if path.parts and path.parts[0] in TOGETHER else str(path)


def place_of(nodeid: str) -> int:
    """Return where a test's group comes among those of `LONGEST`, or after them."""
    group = group_of(nodeid)
    return LONGEST.index(group) if group in LONGEST else len(LONGEST)


def scheduler(config: Any, log: Any) -> Any:
    """Return what gives the processes of pytest-xdist one group after another, in the order of the collection.

    Its own option for groups, `--dist loadgroup`, does nothing under pytest 9.2, whose ids no longer change.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    config.option.loadscopereorder = False  # not those of the most tests first
    return ByGroup(config, log)
