"""Hash pieces of files on several threads, each read in small blocks; hashing leaves the interpreter to others."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import Cancelled
from workbench.safetensors_header import StoredTensor
from workbench.workers import own_thread_count

_BLOCK_BYTES = 2**19  # stays in a core's cache between reading and hashing


@dataclass(frozen=True)
class Piece:
    """Bytes of a file.

    Attributes:
        what: What they are: the name of a tensor, or of the file.
        path: The file.
        start: The first byte.
        stop: The byte after the last.
        tensor: The header's entry of a tensor, None for a file.
        look: Called with all of them, for what is wrong with their values; they are then held in memory.
    """

    what: str
    path: Path
    start: int
    stop: int
    tensor: StoredTensor | None = None
    look: Callable[[bytearray], str] | None = None


@dataclass(frozen=True)
class Hashed:
    """A piece with its hash.

    Attributes:
        piece: The piece.
        sha256: Hash of its bytes.
        problem: Why they could not be read, or what `look` found; "" for nothing.
    """

    piece: Piece
    sha256: str
    problem: str


def iter_hashes(pieces: Iterable[Piece], cancel: threading.Event | None = None) -> Iterator[Hashed]:
    """Yield each piece with its hash as it is done, begun in the given order by as many threads as PyTorch would use.

    Pieces of one file that follow each other here are read at about the same time: the disk gives them once.

    Raises:
        Cancelled: when `cancel` was set.
    """
    ended = threading.Event()
    pool = ThreadPoolExecutor(own_thread_count(), "workbench-hash")
    try:
        running = [pool.submit(_hashed, piece, (ended,) if cancel is None else (ended, cancel)) for piece in pieces]
        for done in as_completed(running):
            found = done.result()
            if cancel is not None and cancel.is_set():
                raise Cancelled("Verifying was cancelled.", mend="start it again; nothing was changed")
            yield found
    finally:
        ended.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _hashed(piece: Piece, stops: tuple[threading.Event, ...]) -> Hashed:
    total, kept = hashlib.sha256(), bytearray()
    try:
        with piece.path.open("rb", buffering=0) as file:
            file.seek(piece.start)
            for block in _blocks(file, piece.stop - piece.start):
                total.update(block)
                if piece.look is not None:
                    kept += block
                if any(stop.is_set() for stop in stops):
                    break
    except (OSError, EOFError) as error:
        return Hashed(piece, "", f"cannot be read ({error})")
    return Hashed(piece, total.hexdigest(), "" if piece.look is None else piece.look(kept))


def _blocks(file: Any, size_bytes: int) -> Iterator[memoryview]:
    """Yield the next bytes of a file, each block valid until the next.

    Raises:
        EOFError: when the file ends before.
    """
    buffer = memoryview(bytearray(min(_BLOCK_BYTES, size_bytes)))
    left = size_bytes
    while left:
        got = file.readinto(buffer[:left])
        if not got:
            raise EOFError("the file ends early")
        yield buffer[:got]
        left -= got
