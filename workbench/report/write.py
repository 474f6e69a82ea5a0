"""One file, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path

from workbench.disk import why_unwritten
from workbench.errors import ConfigError


def check_target(path: Path | str) -> Path:
    """Return the file that a report goes to, before any work.

    Raises:
        ConfigError: when it is a folder, or its folder does not exist or may not be written to.
    """
    target = Path(path).expanduser().absolute()
    mend = ""
    if not str(path).strip():
        mend = "name a file, for instance report.html"
    elif target.is_dir():
        mend = f"it is a folder: name a file in it, for instance {str(Path(path) / 'report.html')!r}"
    elif not target.parent.is_dir():
        mend = f"make the folder {str(target.parent)!r} first, or choose one that exists"
    elif not os.access(target.parent, os.W_OK):
        mend = f"choose a folder that you may write to: {str(target.parent)!r} is none"
    if mend:
        allowed = "a file in a folder that exists"
        raise ConfigError(f"The report {str(path)!r} cannot be written.", allowed=allowed, mend=mend)
    return target


def write_whole(path: Path, text: str) -> None:
    """Write a text in UTF-8 beside its place and put it there in one step; what was there stays if that fails.

    Raises:
        ConfigError: when the file cannot be written, with the system's reason.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        need = len(text.encode("utf-8"))
        reason, mend = why_unwritten(str(error.strerror), error.errno, need_bytes=need)
        raise ConfigError(f"The report {str(path)!r} was not written: {reason}.", mend=mend) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
