"""Where long work stands."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.records.record import Record


@dataclass(frozen=True)
class Progress(Record):
    """Where long work stands.

    Attributes:
        done: Units finished.
        total: Units in all.
        label: What is being worked on.
        elapsed_s: Seconds since the start.
        remaining_s: Seconds expected until the end, or None when not known yet.
    """

    done: int
    total: int
    label: str
    elapsed_s: float
    remaining_s: float | None = None
