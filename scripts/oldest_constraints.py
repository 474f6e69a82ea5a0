"""Print the constraints of `make test-oldest`: constraints.txt with the oldest releases where there are such.

python scripts/oldest_constraints.py [torch==2.11.0]
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def package(line: str) -> str:
    """Return the package that a line pins, in one spelling; "" for a comment."""
    found = re.match(r"([\w.-]+)==", line)
    return re.sub(r"[-_.]+", "-", found[1]).lower() if found else ""


def merged(pins: str, *older: str) -> str:
    """Return the pins, each replaced by the last of those in `older` for the same package."""
    kept = {package(line): line for text in (pins, *older) for line in text.splitlines() if package(line)}
    return "\n".join(kept.values()) + "\n"


def main(extra: list[str]) -> None:
    """Print them."""
    files = [(ROOT / name).read_text(encoding="utf-8") for name in ("constraints.txt", "constraints-oldest.txt")]
    print(merged(*files, "\n".join(extra)), end="")


if __name__ == "__main__":
    main(sys.argv[1:])
