"""The README's table: which export target holds which zero-point domain and group size, each cell written for real.

python -m scripts.target_table --write
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.targets.cells import merged
from workbench.config import DOMAINS
from workbench.targets import TARGETS

README = Path(__file__).parent.parent / "README.md"
START, END = "<!-- targets -->\n", "<!-- /targets -->\n"


def table() -> str:
    """Return the table as Markdown."""
    lines = [f"| format | loaded by | {' | '.join(DOMAINS)} |", "|---|---" + "|---" * len(DOMAINS) + "|"]
    for name, target in TARGETS.items():
        cells = " | ".join(merged(name, domain) for domain in DOMAINS)
        lines.append(f"| {name} | {target.engines} | {cells} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the table, or write it into the README."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="replace the table in README.md")
    if not parser.parse_args().write:
        print(table(), end="")
        return
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(START)
    README.write_text(f"{before}{START}{table()}{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
