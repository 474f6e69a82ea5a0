"""The README's table: which export target holds which zero-point domain and group size, each cell written for real.

python -m scripts.target_table --write
"""

from __future__ import annotations

from tests.readme_table import print_or_write
from tests.targets.cells import merged
from workbench.config import DOMAINS
from workbench.targets import TARGETS

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
    print_or_write(table, START, END, __doc__ or "")


if __name__ == "__main__":
    main()
