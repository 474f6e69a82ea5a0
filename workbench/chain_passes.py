"""Runs of a text through what holds the layers that are solved next: a block of a chain, or the whole model.

The hidden states of a chain are made when they are first asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from workbench.block_chains import Block, hidden_state, with_argument
from workbench.forward import run_model
from workbench.solvers.panels import Look
from workbench.stopped_run import Kept, StoppedRun, bytes_of


class Passes(Protocol):
    """Runs batches of a text through what holds the layers that are solved next.

    Attributes:
        place: Says where in the model that is.
    """

    place: str

    def ready(self) -> None:
        """Bring the hidden states there."""
        ...

    def __call__(self, batch: int) -> Any:
        """Run a batch."""
        ...


class WholeModel:
    """Runs batches through the whole model."""

    place = "the model"

    def __init__(self, model: nn.Module, batches: Sequence[Tensor]) -> None:
        self._model, self._batches = model, batches

    def ready(self) -> None:
        """There is nothing to bring anywhere."""

    def __call__(self, batch: int) -> None:
        """Run a batch, int64 [B, T]."""
        run_model(self._model, self._batches[batch])


@dataclass(eq=False)
class _Place:
    """Where the hidden states stand.

    Attributes:
        block: Number of the block that runs next.
        batches: How many batches are through that block already.
        hidden: A hidden state for each batch.
    """

    block: int
    batches: int
    hidden: list[Tensor]


class ChainPasses:
    """Runs a text through the newest block of a chain; a run of which nothing has to be seen is not made.

    Args:
        chain: The blocks.
        capture: Notes the arguments of all blocks; returns the hidden states that the first gets.
        look: Called before each batch on its way to the next block; raises to stop.
        passed: Called with the layers of a block that will not be run again.
        stopped: What a run before held when it was stopped, or None.
        place: Module path of the first block.
    """

    def __init__(
        self,
        chain: list[Block],
        capture: Callable[[], list[Tensor]],
        look: Look,
        passed: Callable[[list[str]], None],
        stopped: StoppedRun | None = None,
        place: str = "",
    ) -> None:
        self._chain, self._capture, self._look, self._passed = chain, capture, look, passed
        self._stopped, self.place = stopped, place
        self._keys: list[str] = []
        self._at: _Place | None = None

    def enter(self, key: str) -> None:
        """Begin the next block of the chain; `key` stands for what decides its hidden states."""
        self._keys.append(key)

    def ready(self) -> None:
        """Bring the hidden states to the newest block: from where a run was stopped, else from the beginning."""
        if self._at is None:
            self._at = self._taken() or _Place(0, 0, self._capture())
        at, newest = self._at, len(self._keys) - 1
        while at.block < newest:
            while at.batches < len(at.hidden):
                self._look()
                at.hidden[at.batches] = hidden_state(self._run(at, at.batches))
                at.batches += 1
            self._chain[at.block].calls = []
            self._passed(self._chain[at.block].names)
            at.block, at.batches = at.block + 1, 0

    def __call__(self, batch: int) -> Any:
        """Run a batch through the newest block; `ready` comes first."""
        assert self._at is not None and self._at.block == len(self._keys) - 1, "ready comes first"
        return self._run(self._at, batch)

    def kept(self) -> list[Kept]:
        """Return what another run can go on with: nothing where no hidden state was made."""
        if self._at is None:
            return []
        calls = [block.calls for block in self._chain[self._at.block :]]
        return [Kept(self._keys[-1], (self._at, calls), bytes_of([self._at.hidden, calls]))]

    def _run(self, at: _Place, batch: int) -> Any:
        block = self._chain[at.block]
        args, kwargs = block.calls[batch]
        hidden = at.hidden[batch]
        return block.module(*with_argument(args, block.place, hidden), **with_argument(kwargs, block.place, hidden))

    def _taken(self) -> _Place | None:
        found = None if self._stopped is None else self._stopped.take(reversed(self._keys))
        if found is None:
            return None
        at: _Place = found[0]
        for block, calls in zip(self._chain[at.block :], found[1], strict=True):
            block.calls = calls
        return at
