"""Reports that are read as text: where an object is shown without a page, its text takes the place of its fields."""

from __future__ import annotations

from typing import Any


class Printed:
    """What `print` shows of it is what IPython shows."""

    def __init_subclass__(cls) -> None:
        """IPython looks through a class's own methods first, where a dataclass has the repr that it would take."""
        super().__init_subclass__()
        cls._repr_pretty_ = _show_text  # type: ignore[attr-defined]


def _show_text(self: Printed, printer: Any, cycle: bool) -> None:
    """Hand IPython's printer the text."""
    printer.text(str(self))
