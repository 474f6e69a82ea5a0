"""Why a file could not be written, in words."""

from __future__ import annotations

import errno

_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
_CHOOSE = "choose a folder that you may write to"


def why_unwritten(reason: str, number: int | None) -> tuple[str, str]:
    """Return why a file was not written, and the mend.

    Args:
        reason: What the system said.
        number: The system's error number, or None where it is not known.
    """
    if number in _FULL:
        return "the disk is full", "free some disk space, or choose another disk"
    if number == errno.EFBIG:
        return "a file would be larger than this process may write", "raise the limit (ulimit -f)"
    return reason, _CHOOSE
