"""Whose turn it is: a timing runs while nothing else computes, and what runs behind the views holds none of them up."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TypeVar

from workbench.errors import Cancelled

T = TypeVar("T")


class Turns:
    """Lets the steps of a session's work take turns; a step that is "in turn" and one "behind" may run together."""

    def __init__(self) -> None:
        self._quiet = threading.Lock()  # held while a timing runs, so that previews do not disturb it
        self._loud = threading.Lock()  # held while a timing runs, or a step of what runs behind the previews

    def in_turn(self, steps: Iterator[T], cancel: threading.Event) -> Iterator[T]:
        """Take each step of what a person waits for while nothing is timed.

        Raises:
            Cancelled: when `cancel` was set before a step's turn came.
        """
        return _taken(steps, cancel, self._quiet)

    def behind(self, steps: Iterator[T], cancel: threading.Event) -> Iterator[T]:
        """Take each step of what nobody waits for while nothing is timed and nothing else of its kind runs.

        Raises:
            Cancelled: when `cancel` was set before a step's turn came.
        """
        return _taken(steps, cancel, self._loud)

    def alone(self, steps: Iterator[T], cancel: threading.Event) -> Iterator[T]:
        """Take each step while nothing else computes: it is a timing.

        Raises:
            Cancelled: when `cancel` was set before a step's turn came.
        """
        return self.in_turn(self.behind(steps, cancel), cancel)


def _taken(steps: Iterator[T], cancel: threading.Event, lock: threading.Lock) -> Iterator[T]:
    while True:
        while not lock.acquire(timeout=0.05):
            if cancel.is_set():
                raise Cancelled("Cancelled before its turn came.")
        try:
            step = next(steps, None)
        finally:
            lock.release()
        if step is None:
            return
        yield step
