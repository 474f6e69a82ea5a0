"""Calibration texts as a person gives them: what is said of one, and the files that they come from and go to."""

from __future__ import annotations

import codecs
import shlex
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import ConfigError, WorkbenchError

MAX_FILE_BYTES = 64 * 2**20  # far more than is used: 128 sequences of 512 tokens are some 300 kB


@dataclass(frozen=True)
class CalibrationState:
    """What a view shows of the calibration text.

    Attributes:
        origin: Where the text comes from, or "" when there is none.
        characters: Its length.
        path: The file that it was read from, or None.
        sequences: Sequences that are used, or None until it is known.
        sequence_length: Tokens of each, or None until it is known.
        notes: What a person must know of it.
        problem: Why it cannot be used, or None.
        loads_bytes: Bytes of the model that is loaded to run the text; 0 for one in memory from the start.
    """

    origin: str
    characters: int
    path: Path | None = None
    sequences: int | None = None
    sequence_length: int | None = None
    notes: tuple[str, ...] = ()
    problem: WorkbenchError | None = None
    loads_bytes: int = 0

    @property
    def tokens(self) -> int | None:
        """Tokens that are used, or None until it is known."""
        if self.sequences is None or self.sequence_length is None:
            return None
        return self.sequences * self.sequence_length


def read_text(path: Path | str) -> str:
    """Read a text file in UTF-8, exactly as it stands, but for a byte order mark.

    Raises:
        ConfigError: when there is no such file, it is too large, or it is not in UTF-8.
    """
    file = Path(path).expanduser()
    try:
        if file.exists() and not file.is_file():
            raise ConfigError(f"{str(path)!r} is no file.", mend="name a text file")
        size = file.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ConfigError(
                f"{str(path)!r} has {size:,} bytes.",
                allowed=f"up to {MAX_FILE_BYTES:,} bytes, of which less than a megabyte is used",
                mend=f"keep its first 4 MB; on Linux and macOS: head -c 4000000 {shlex.quote(str(path))} > part.txt",
            )
        return file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be read: {error.strerror}.", mend="check the path") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{str(path)!r} is no text in UTF-8: byte {error.start} is {error.object[error.start]:#04x}.",
            mend="save it as UTF-8",
        ) from None


def text_file(text: str, path: Path | None, folder: Path, name: str) -> Path:
    """Return a file that holds a text; one that its own file does not hold is written to another first.

    Args:
        text: The text.
        path: The file that it was read from, or None.
        folder: Where to write it otherwise.
        name: Part of the name of that file; the same for the same text.

    Raises:
        ConfigError: when the file cannot be written.
    """
    if path is None or not _holds(path, text):
        path = folder / f"calibration-{name}.txt"
        _write(path, text)
    return path


def text_as_python(path: Path) -> str:
    """Return a Python expression that reads a text as `read_text` does."""
    return f'Path({str(path)!r}).expanduser().read_bytes().decode("utf-8-sig")'


def no_text() -> ConfigError:
    """Return the error that there is no text."""
    return ConfigError(
        "There is no calibration text.", mend="paste some pages like what the model will read, or name a file"
    )


def check_text(text: str) -> None:
    """Refuse a text that no file can hold.

    Raises:
        ConfigError: when a character of it is half a surrogate pair, with its place.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"Character {error.start} of the text is half of a pair ({text[error.start]!r}).",
            allowed="text that can be written as UTF-8",
            mend="remove it, or name a file in UTF-8",
        ) from None


def _holds(path: Path, text: str) -> bool:
    try:
        return read_text(path) == text
    except ConfigError:
        return False


def _write(path: Path, text: str) -> None:
    """Write a text so that `read_text` gives it back, to the character."""
    if _holds(path, text):
        return
    mark = codecs.BOM_UTF8 if text.startswith("\ufeff") else b""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(mark + text.encode("utf-8"))
    except OSError as error:
        what = f"The calibration text cannot be written to {str(path)!r}: {error.strerror}."
        raise ConfigError(what, mend="name another export directory") from None
