"""Let go of the pages of mapped files that have been read: a checkpoint then is never in memory twice.

Tensors of safetensors files are views of mapped files, whose pages count as a process's memory once they are read. On
Linux their mapping can forget them (`madvise`), and would read them anew from the file; elsewhere nothing is done.
"""

from __future__ import annotations

import bisect
import ctypes
import mmap
import sys
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

_MAPS = Path("/proc/self/maps")
_DONT_NEED = 4  # MADV_DONTNEED on Linux


class MappedFiles:
    """The places in memory where files are mapped now.

    Args:
        paths: The files.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._madvise = None
        if not sys.platform.startswith("linux"):
            return
        wanted = {str(path.resolve()) for path in paths}
        try:
            lines = _MAPS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
            self._madvise = ctypes.CDLL(None).madvise
        except (OSError, AttributeError):
            return
        self._madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        for line in lines:  # start-end permissions offset device inode path
            fields = line.split(maxsplit=5)
            if len(fields) == 6 and fields[5] in wanted:
                start, _, end = fields[0].partition("-")
                self._starts.append(int(start, 16))
                self._ends.append(int(end, 16))

    def forget(self, tensor: Tensor) -> int:
        """Let go of the whole pages of a tensor that lies in one of the files; return their bytes, else 0.

        A tensor that is somewhere else is left alone, and so are pages that it shares with its neighbours.
        """
        if self._madvise is None or tensor.device.type != "cpu" or not tensor.is_contiguous():
            return 0
        first, size = tensor.data_ptr(), tensor.numel() * tensor.element_size()
        at = bisect.bisect_right(self._starts, first) - 1
        if at < 0 or first + size > self._ends[at]:
            return 0
        start = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE
        length = (first + size) // mmap.PAGESIZE * mmap.PAGESIZE - start
        if length <= 0 or self._madvise(start, length, _DONT_NEED) != 0:
            return 0
        return length
