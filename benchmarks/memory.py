"""How much memory a call takes at its peak, as the operating system counts it."""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_bytes(call: Callable[[], Any]) -> int | None:
    """Return how far the resident memory rises above its level before a call; None where Linux does not tell.

    What the call returns is part of it: take its bytes off to get what was needed beside the result.
    """
    try:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what was freed before must not be taken again unseen
        _RESET.write_text("5", encoding="ascii")
        before = _resident("VmRSS")
        call()
        return _resident("VmHWM") - before
    except (OSError, AttributeError):
        return None


def _resident(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
    if found is None:
        raise OSError(f"{name} is not in {_STATUS}")
    return 1024 * int(found[1])
