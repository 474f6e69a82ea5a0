"""Command lines as this system's shell takes them: a POSIX shell, or PowerShell on Windows (cmd, where it can)."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable

_PLAIN = re.compile(r"[\w@+=:,./\\-]+")  # what neither PowerShell nor cmd reads as anything else


def quoted(word: str) -> str:
    """Return a word so that the shell hands it on as it is."""
    if sys.platform != "win32":
        return shlex.quote(word)
    return word if _PLAIN.fullmatch(word) else f'"{word}"'  # a file's name has no quotation mark there


def joined(words: Iterable[str]) -> str:
    """Return a command line of words."""
    return " ".join(quoted(word) for word in words)


def with_document(words: list[str], text: str, file: str) -> str:
    """Return the lines of a command that reads a text, whose place in `words` is named `file`.

    A POSIX shell gives it as the command's input; PowerShell writes the file first.

    Args:
        words: The command; one of them is `file`.
        text: ASCII, whole lines.
        file: Name of the file, where one is written.
    """
    if sys.platform == "win32":
        return f"@'\n{text}'@ | Set-Content {file}\n{joined(words)}\n"
    piped = ["/dev/stdin" if word == file else word for word in words]
    return f"{joined(piped)} <<'RECIPE'\n{text}RECIPE\n"
