"""What `make lab` and `make test` run first: checks the Python, then sets up the project's .venv.

    python3 scripts/bootstrap.py lab|test

Only this file must be readable by a Python that is too old, so it holds nothing but that check.
"""

import os
import shutil
import subprocess
import sys

OLDEST = (3, 11)
NEWER = ("python3.13", "python3.12", "python3.11")


def refusal(version: "tuple[int, ...]", executable: str, newer: "list[str]", goal: str) -> str:
    """Why this Python cannot be used, and the mend; empty if it can.

    Args:
        version: Its version, as sys.version_info starts.
        executable: Its path.
        newer: Paths of interpreters on this machine that are new enough.
        goal: The make target that was asked for.
    """
    if tuple(version[:2]) >= OLDEST:
        return ""
    have = ".".join(str(part) for part in version[:3])
    what = "Python " + have + " (" + executable + ") is too old: int4-workbench needs Python 3.11 or newer."
    if newer:
        return what + " To mend it: make " + goal + " PYTHON=" + newer[0]
    return what + (
        " To mend it: install one (Debian 12, Ubuntu 24.04 or newer: apt-get install python3;"
        " elsewhere: pyenv, uv or conda), then: make " + goal + " PYTHON=/path/to/python3"
    )


def runs(path: str) -> bool:
    """Whether an interpreter starts: one that a version manager only names does not."""
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        return subprocess.call([path, "-c", ""], stdout=nowhere, stderr=nowhere) == 0


def main() -> int:
    """Checks the Python and hands over to `bootstrap_steps`."""
    goal = sys.argv[1] if len(sys.argv) > 1 else "lab"
    version = tuple(sys.version_info[:3])
    newer = []
    if version < OLDEST:
        newer = [path for path in map(shutil.which, NEWER) if path and runs(path)]
    problem = refusal(version, sys.executable, newer, goal)
    if problem:
        sys.stderr.write(problem + "\n")
        return 2
    from bootstrap_steps import set_up

    return set_up(goal)


if __name__ == "__main__":
    sys.exit(main())
