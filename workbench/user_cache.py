"""Where the workbench keeps what it can make again: compiled kernels and measured tables of speed.

The folder is the system's own for such files; the environment variable WORKBENCH_CACHE names another.
"""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "WORKBENCH_CACHE"


def cache_folder() -> Path:
    """Return the folder for files of this user that can be made again; it may not exist yet."""
    if given := os.environ.get(VARIABLE):
        return Path(given)
    import platformdirs

    return platformdirs.user_cache_path("int4-workbench", appauthor=False)
