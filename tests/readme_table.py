"""A table of the README between its two marks: shown, printed, or written anew."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def shown(start: str, end: str) -> str:
    """Return what stands between two marks."""
    return README.read_text(encoding="utf-8").split(start)[1].split(end)[0]


def print_or_write(table: Callable[[], str], start: str, end: str, description: str) -> None:
    """Print a table, or with --write put it into the README.

    Args:
        table: Makes the table as Markdown.
        start: The mark above it.
        end: The mark below it.
        description: What the script is for, in its first line.
    """
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="replace the table in README.md")
    if not parser.parse_args().write:
        print(table(), end="")
        return
    before, rest = README.read_text(encoding="utf-8").split(start)
    README.write_text(f"{before}{start}{table()}{end}{rest.split(end)[1]}", encoding="utf-8")
