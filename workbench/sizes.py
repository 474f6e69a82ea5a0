"""Numbers of bytes, written as a person would."""

from __future__ import annotations


def size(count: float) -> str:
    """Write a number of bytes as a person would (decimal units)."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")
