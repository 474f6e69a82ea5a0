"""Every error that a user can meet: it says the value, what is allowed, and the mend."""

from __future__ import annotations


class WorkbenchError(Exception):
    """Base of all errors meant for users.

    Args:
        what: What is wrong, quoting the offending value and where it stands.
        allowed: The values that would have been accepted.
        mend: The next step that makes it work.
    """

    def __init__(self, what: str, *, allowed: str | None = None, mend: str | None = None) -> None:
        self.what = what
        self.allowed = allowed
        self.mend = mend
        parts = [what]
        if allowed:
            parts.append(f"Allowed: {_ended(allowed)}")
        if mend:
            parts.append(f"To mend it: {_ended(mend)}")
        super().__init__(" ".join(parts))

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the message says it all, a traceback through our code would bury it."""
        return [f"{type(self).__name__}: {self}"]


def _ended(sentence: str) -> str:
    """Return a sentence with its full stop, unless it ends in a mark of its own."""
    return sentence if sentence.endswith(("?", "!", ".")) else f"{sentence}."


class ConfigError(WorkbenchError, ValueError):
    """A configuration, a solver choice or an argument that cannot work."""


class WeightError(WorkbenchError, ValueError):
    """A weight with a wrong shape or dtype, or with NaN or infinity in it."""


class KernelError(WorkbenchError, ValueError):
    """Input that an int4 kernel would refuse, misread or crash on."""


class PatternError(WorkbenchError, ValueError):
    """A layer pattern that is malformed or matches nothing."""


class ModelError(WorkbenchError):
    """A model that cannot be found, read or built."""


class CheckpointError(WorkbenchError):
    """A checkpoint that is damaged, unknown, or cannot be written."""


class EnvironmentProblem(WorkbenchError):
    """Something that this Python, machine or installation lacks."""


class Cancelled(WorkbenchError):
    """Work that the user stopped; nothing was changed or half-written."""
