"""JSON that comes from elsewhere: a plain file, not too large, not too many values, no key twice; or an error."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

MAX_BYTES = 64 * 2**20
MAX_VALUES = 2_000_000  # a value takes up to some 200 bytes of memory, and as few as three of a file


def read_object(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        OSError: when it cannot be read.
        ValueError: when it is no plain file, too large, not JSON, no object, or names a key twice.
    """
    require_plain_file(path)
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    return parse_object(data)


def parse_object(data: bytes) -> dict[str, Any]:
    """Parse one JSON object; what it takes in memory stays in proportion to its bytes.

    Raises:
        ValueError: when it is too large, not JSON, no object, or names a key twice.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES} bytes of JSON")
    values = data.count(b",") + data.count(b"[") + data.count(b"{")
    if values > MAX_VALUES:
        raise ValueError(f"some {values} values of JSON, more than {MAX_VALUES}")
    try:
        found = json.loads(data.decode("utf-8"), object_pairs_hook=unique_keys)
    except RecursionError:
        raise ValueError("JSON nested too deep") from None
    if not isinstance(found, dict):
        raise ValueError(f"{type(found).__name__} instead of a JSON object")
    return found


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object whose keys are all different: of two, a reader would silently take the second.

    Raises:
        ValueError: naming the key that stands twice.
    """
    data = dict(pairs)
    if len(data) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object names the key {twice!r} twice")
    return data


def require_plain_file(path: Path) -> int:
    """Return the size in bytes of a plain file, or of one that a link leads to; a device or a pipe is never opened.

    Raises:
        FileNotFoundError: when there is none.
        OSError: when the system does not tell.
        ValueError: when it is a folder, a device, a pipe or a socket.
    """
    facts = path.stat()
    if not stat.S_ISREG(facts.st_mode):
        raise ValueError("it is no plain file")
    return facts.st_size
