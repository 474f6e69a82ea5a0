"""Why a file could not be written, in words."""

from __future__ import annotations

import errno
import sys

from workbench.sizes import size

_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
_CHOOSE = "choose a folder that you may write to"


def why_unwritten(reason: str, number: int | None, *, need_bytes: int = 0) -> tuple[str, str]:
    """Return why a file was not written, and the mend.

    Args:
        reason: What the system said.
        number: The system's error number, or None where it is not known.
        need_bytes: Bytes of the file, which are said where the disk is full; 0 where they are not known.
    """
    if number in _FULL:
        needs = f" ({size(need_bytes)} are needed)" if need_bytes else ""
        return f"the disk is full{needs}", "free some disk space, or choose another disk"
    if number == errno.EFBIG:
        return "a file would be larger than this process may write", "raise the limit (ulimit -f)"
    if number == errno.EACCES and sys.platform == "win32":
        return reason, f"let go of the model that was loaded from there, or {_CHOOSE}"  # whose files are mapped
    return reason, _CHOOSE
