"""Write a folder whole or not at all: work in a temporary one beside it, then put that in place in one step."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from workbench.disk import why_unwritten
from workbench.errors import CheckpointError
from workbench.sizes import size

_LINUX_EXCHANGE, _MACOS_SWAP = 2, 2
_AT_FDCWD = -100
_A_DAY_S = 86_400
_IN_USE: set[Path] = set()  # temporary folders that saves of this process are filling now


@contextlib.contextmanager
def new_directory(target: Path | str, *, overwrite: bool = False, need_bytes: int = 0) -> Iterator[Path]:
    """Yield a temporary folder that becomes `target` at the end; on any error the target stays as it was.

    Args:
        target: The folder to make.
        overwrite: Whether a folder that exists may be replaced.
        need_bytes: Bytes that will be written at least; less free space is refused before any work.

    Raises:
        CheckpointError: when the target exists (and `overwrite` is not set), is not a folder, cannot be written, or
            the disk is too full.
    """
    with _told_as_checkpoint_errors(Path(target)):
        target = Path(target).absolute()
        if not target.name:
            raise CheckpointError(f"{str(target)!r} cannot hold a checkpoint.", mend="name a new folder")
        _clean_leftovers(target)
        check_target(target, overwrite=overwrite)
        _check_space(target, need_bytes)
    temporary = target.parent / f".{target.name}.{_host()}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp"
    made: list[Path] = []
    _IN_USE.add(temporary)
    try:
        with _told_as_checkpoint_errors(target):
            made = _make_parents(target)
            temporary.mkdir()
            yield temporary
            for path in (*temporary.rglob("*"), temporary):
                _sync(path)
            _put_in_place(temporary, target)
            _sync(target.parent)
        made = []
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        _IN_USE.discard(temporary)
        with contextlib.suppress(OSError):
            for parent in reversed(made):
                parent.rmdir()


@contextlib.contextmanager
def _told_as_checkpoint_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise _cannot_write(target, error) from error
    except ValueError as error:
        if "null" not in str(error):
            raise
        raise _cannot_write(target, error) from error


def check_target(target: Path, *, overwrite: bool) -> None:
    """Refuse a folder that may not be made or replaced; commands ask before they read a model.

    Raises:
        CheckpointError: when it is a link or a file, or holds something and `overwrite` is not set.
        OSError: when it cannot be looked into.
    """
    if target.is_symlink():
        raise CheckpointError(f"{str(target)!r} is a symbolic link.", mend="name the folder itself")
    if target.exists() and not target.is_dir():
        raise CheckpointError(f"{str(target)!r} is a file.", mend="name a folder that does not exist yet")
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise CheckpointError(
            f"The folder {str(target)!r} exists and is not empty.",
            mend="choose another folder, or replace what is there (overwrite=True, --overwrite)",
        )


def _check_space(target: Path, need_bytes: int) -> None:
    place = next(parent for parent in target.parents if parent.is_dir())
    free = shutil.disk_usage(place).free
    if free < need_bytes:
        raise CheckpointError(
            f"{str(target)!r} needs {size(need_bytes)}, but its disk has {size(free)} free.",
            mend="free some disk space, or choose another disk",
        )


def _make_parents(target: Path) -> list[Path]:
    """Make the folders above the target; return those that were not there, the outermost first."""
    missing = [parent for parent in target.parents if not parent.exists()][::-1]
    target.parent.mkdir(parents=True, exist_ok=True)
    return missing


def _clean_leftovers(target: Path) -> None:
    """Undo what saves to this target left whose process was killed: half-written folders, and an old one set aside."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.{re.escape(_host())}\.(\d+)\.[0-9a-f]{{8}}\.(tmp|old)")
    with contextlib.suppress(OSError):
        for path in list(target.parent.iterdir()):
            found = pattern.fullmatch(path.name)
            if not found or _in_use(path, int(found[1])):
                continue
            if found[2] == "old" and not target.exists():
                path.rename(target)
            else:
                shutil.rmtree(path, ignore_errors=True)


def _in_use(path: Path, pid: int) -> bool:
    """Say whether the process that made a temporary folder may still be filling it."""
    if pid == os.getpid():
        return path.with_suffix(".tmp") in _IN_USE
    if sys.platform == "win32":  # there is no harmless way to ask for a process: wait a day
        return time.time() - path.stat().st_mtime < _A_DAY_S
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _host() -> str:
    """Name of this machine, as it may stand in a file name: others may share the disk, but not the process ids."""
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:64]


def _put_in_place(temporary: Path, target: Path) -> None:
    """Make `temporary` the target in one step; where the system cannot exchange folders, in two.

    Between the two, the old folder has the name of the temporary one, ending in ".old"; the next save puts it back.
    """
    if not target.exists():
        temporary.rename(target)
    elif not _exchange(temporary, target):
        old = temporary.with_suffix(".old")
        target.rename(old)
        try:
            temporary.rename(target)
        except BaseException:
            old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders atomically (Linux's renameat2, macOS' renamex_np); False where that is not possible."""
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if sys.platform.startswith("linux"):
            done = library.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _LINUX_EXCHANGE)
        elif sys.platform == "darwin":
            done = library.renamex_np(os.fsencode(one), os.fsencode(other), _MACOS_SWAP)
        else:
            return False
    except (OSError, AttributeError, TypeError):
        return False
    return bool(done == 0)


def _sync(path: Path) -> None:
    """Have the disk hold a file or a folder's names; Windows syncs neither through a handle for reading."""
    if sys.platform == "win32":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _cannot_write(target: Path, error: Exception) -> CheckpointError:
    """Say why nothing was written; safetensors tells the system's error number in its message only."""
    told = re.search(r"os error (\d+)", str(error))
    number = int(told[1]) if told else getattr(error, "errno", None)
    reason, mend = why_unwritten(str(error), number)
    return CheckpointError(f"The checkpoint {str(target)!r} was not written: {reason}.", mend=mend)
