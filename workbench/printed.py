"""Reports that are read as text: where an object is shown without a page, its text takes the place of its fields."""

from __future__ import annotations


class Printed:
    """What `print` shows of it is what Python's prompt, IPython and a debugger show."""

    def __init_subclass__(cls) -> None:
        """Give each class the repr itself, not by inheritance: a dataclass would make one of its fields."""
        super().__init_subclass__()
        if "__repr__" not in vars(cls):
            cls.__repr__ = _text  # type: ignore[assignment, method-assign]


def _text(self: Printed) -> str:
    return str(self)
