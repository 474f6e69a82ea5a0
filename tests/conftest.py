"""Tests compile kernels and keep tables in a cache of their own: what a person tuned changes no result."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

_FOLDER = tempfile.mkdtemp(prefix="int4-workbench-tests-")
os.environ["WORKBENCH_CACHE"] = _FOLDER
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)
