"""The shipped notebooks, copied to where a person works on them."""

from __future__ import annotations

import shutil
from pathlib import Path

from workbench.demo import notebooks_path
from workbench.errors import EnvironmentProblem


def prepare_notebooks(folder: Path) -> Path:
    """Copy the shipped notebooks into `folder`; a notebook that a person changed is kept, and said.

    Returns:
        The folder.

    Raises:
        EnvironmentProblem: when the folder cannot be written.
    """
    shipped = notebooks_path()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for notebook in sorted(shipped.glob("*.ipynb")):
            copy = folder / notebook.name
            if not copy.exists():
                _copy(notebook, copy)
            elif copy.read_bytes() != notebook.read_bytes():
                print(f"kept your {copy} (delete it to get the shipped one)", flush=True)
    except OSError as error:
        raise EnvironmentProblem(
            f"The notebooks cannot be copied to {str(folder)!r}: {error.strerror}.",
            mend="name a folder with --notebook-dir",
        ) from None
    return folder


def _copy(notebook: Path, copy: Path) -> None:
    """Copy whole or not at all: half a notebook would be kept as the person's own at the next start."""
    half = copy.with_suffix(".part")
    try:
        shutil.copyfile(notebook, half)
        half.replace(copy)
    finally:
        half.unlink(missing_ok=True)
