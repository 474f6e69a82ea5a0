"""What a run of layers in their order held in memory when it was stopped, so that it goes on where it was."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

KEPT_BYTES = 512 * 2**20


@dataclass(frozen=True, eq=False)
class Kept:
    """A part of a run.

    Attributes:
        key: Stands for all that decides its values.
        what: The part itself.
        size_bytes: Memory that it takes.
    """

    key: str
    what: Any
    size_bytes: int


class StoppedRun:
    """Holds parts of the run that was stopped last, within a bound; each is given out once, to who asks for its key.

    Args:
        max_bytes: Most bytes that are held.

    Attributes:
        drops: How often everything was let go of.
    """

    def __init__(self, max_bytes: int = KEPT_BYTES) -> None:
        self.max_bytes = max_bytes
        self._held: dict[str, Kept] = {}
        self.drops = 0
        self._lock = threading.Lock()

    @property
    def held_bytes(self) -> int:
        """Bytes that are held."""
        with self._lock:
            return sum(one.size_bytes for one in self._held.values())

    def hold(self, parts: Sequence[Kept], drops: int, room_bytes: int | None = None) -> None:
        """Hold parts, the first of them first, as far as they fit; those of before where there is room left.

        Args:
            parts: Of one run.
            drops: What `drops` was when that began: what was superseded since is not held.
            room_bytes: What memory has to spare; None where that is not known.
        """
        room = self.max_bytes if room_bytes is None else min(self.max_bytes, room_bytes)
        held: dict[str, Kept] = {}
        with self._lock:
            if drops != self.drops:
                return
            for part in (*parts, *self._held.values()):
                if part.key not in held and part.size_bytes <= room:
                    held[part.key] = part
                    room -= part.size_bytes
            self._held = held

    def take(self, keys: Iterable[str]) -> Any | None:
        """Return and let go of the part with the first of these keys that is known; None when there is none."""
        with self._lock:
            found = next((key for key in keys if key in self._held), None)
            return None if found is None else self._held.pop(found).what

    def drop(self) -> None:
        """Let go of everything: it is superseded."""
        with self._lock:
            self._held, self.drops = {}, self.drops + 1


def bytes_of(values: Any) -> int:
    """Return the bytes of the tensors in nested lists, tuples and dicts; each counts once."""
    found = {(tensor.device, tensor.data_ptr()): tensor for tensor in _tensors(values)}
    return sum(tensor.numel() * tensor.element_size() for tensor in found.values())


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)
