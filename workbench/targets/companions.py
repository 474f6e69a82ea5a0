"""The files beside the weights, the tokenizer above all, as an export would write them: looked at before it begins."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from workbench.errors import CheckpointError

Found = TypeVar("Found")


class Companions:
    """What `Contents.write_files` writes, looked at in a folder that goes away.

    Args:
        write_files: Writes configuration and tokenizer into a folder.
    """

    def __init__(self, write_files: Callable[[Path], None]) -> None:
        self._write_files = write_files
        self._known: dict[str, CheckpointError | None] = {}

    def read(self, look: Callable[[Path], Found]) -> Found:
        """Return what `look` makes of a folder with these files."""
        with tempfile.TemporaryDirectory(prefix="int4-companions-") as folder:
            self._write_files(Path(folder))
            return look(Path(folder))

    def problem(self, asked: str, look: Callable[[Path], object]) -> CheckpointError | None:
        """Return the CheckpointError that `look` raises, None for none.

        Args:
            asked: What is looked for; the same is looked for once, since no recipe changes these files.
            look: Reads a folder.
        """
        if asked not in self._known:
            try:
                self.read(look)
            except CheckpointError as error:
                self._known[asked] = error
            else:
                self._known[asked] = None
        return self._known[asked]
