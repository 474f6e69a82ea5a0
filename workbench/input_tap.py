"""Hooks that see the inputs of some layers while a model runs, and add up their second moments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn

from workbench.errors import ModelError
from workbench.forward import Reached, hooked
from workbench.layers import model_device
from workbench.solvers import InputMoments
from workbench.solvers.panels import Look, go_on


@dataclass(eq=False)
class BegunMoments:
    """Moments that are being collected, whole or as far as a run came.

    Attributes:
        leaders: Name of each layer that wants moments → the layer whose moments it shares.
        totals: Moments by leader.
        added: Calls of the pass under way whose inputs are added already, by leader.
        passes: Passes that are added whole.
    """

    leaders: dict[str, str]
    totals: dict[str, InputMoments]
    added: Counter[str] = field(default_factory=Counter)
    passes: int = 0

    def of(self, names: Iterable[str]) -> dict[str, InputMoments]:
        """Return the moments of some layers; the same object for layers that share an input."""
        return {name: self.totals[self.leaders[name]] for name in names}


class InputTap:
    """Hooks that see the inputs of some layers: first which of them share one, then the moments.

    Attributes:
        calls: Names of the layers in the order of their first calls, after `probing`.
        leader: Name → the layer whose moments it shares (itself when it does not), after `probing`.
        witness: The input of the layer that was called last, after `probing`; None where none was called.
        begun: The moments that are being collected.
    """

    def __init__(self, layers: dict[str, nn.Module]) -> None:
        """Watch `layers`, by name."""
        self.layers = layers
        self.calls: list[str] = []
        self.leader = {name: name for name in layers}
        self.witness: Tensor | None = None
        self.begun = BegunMoments({}, {})
        self._seen: dict[str, list[Tensor]] = {}
        self._wanted: frozenset[str] = frozenset(layers)
        self._repeated: frozenset[str] = frozenset()
        self._last = ""

    @contextmanager
    def probing(self) -> Iterator[None]:
        """Within, note the order of the calls and which layers get the very same tensor."""
        self.calls, self.leader = [], {name: name for name in self.layers}
        self._seen = {name: [] for name in self.layers}
        with self._hooks(self._note):
            yield
        self.calls = [name for name in self.calls if self._seen[name]]
        self._repeated = frozenset(name for name in self.calls if len(self._seen[name]) > 1)
        self.witness = self._seen[self.calls[-1]][-1] if self.calls else None
        for place, name in enumerate(self.calls):
            for other in self.calls[:place]:
                if self.leader[other] == other and _same(self._seen[other], self._seen[name]):
                    self.leader[name] = other
                    break
        self._seen = {}

    def begin(self, names: Iterable[str] | None = None, before: BegunMoments | None = None) -> None:
        """Begin the moments of some layers (all of them by default), or go on with what was begun of the same layers.

        Args:
            names: The layers.
            before: What was begun before; where it is of other layers, it is let go of.
        """
        wanted = list(self.layers if names is None else names)
        self._wanted = frozenset(wanted)
        called = [name for name in self.calls if name in self._wanted]
        never = [name for name in wanted if name not in set(called)]  # in the probe: an expert may be reached later
        to_the_end = never or not called or self._repeated & self._wanted
        self._last = "" if to_the_end else called[-1]
        first: dict[str, str] = {}  # of those that share an input and are wanted, where the one they shared is not
        for name in called:
            if self.leader[name] not in self._wanted:
                self.leader[name] = first.setdefault(self.leader[name], name)
        leaders = {name: self.leader[name] for name in wanted}
        if before is not None and before.leaders == leaders:
            self.begun = before
            return
        layers = {name: self.layers[name] for name in wanted if leaders[name] == name}
        totals = {name: InputMoments.empty(in_features(one), model_device(one)) for name, one in layers.items()}
        self.begun = BegunMoments(leaders, totals)

    @contextmanager
    def collecting(self, look: Look = go_on) -> Iterator[None]:
        """Within, add up the moments that were begun; `look` is called before each tile of them, and raises to stop."""
        with self._hooks(partial(self._add, look)):
            yield

    def run(self, forward: Callable[[], Any]) -> None:
        """Run a forward pass as far as the last layer that is wanted.

        One that was stopped has to be run again from its beginning; what it added before is not added twice.
        """
        self._seen = {name: [] for name in self._wanted}
        try:
            forward()
        except Reached:
            pass
        finally:
            self._seen = {}
        self.begun.added.clear()
        self.begun.passes += 1

    def moments(self) -> dict[str, InputMoments]:
        """Return the moments that were collected, by layer; the same object for layers that share an input."""
        return self.begun.of(self._wanted)

    def _note(self, name: str, inputs: Tensor) -> None:
        if not self._seen[name]:
            self.calls.append(name)
        self._seen[name].append(inputs)

    def _add(self, look: Look, name: str, inputs: Tensor) -> None:
        if name not in self._wanted:
            return
        leader = self.leader[name]
        self._seen[name].append(inputs)
        if leader == name:
            if len(self._seen[name]) > self.begun.added[name]:
                self.begun.totals[name].add(inputs, look)
                self.begun.added[name] += 1
        elif not _same(self._seen[leader][: len(self._seen[name])], self._seen[name]):
            raise ModelError(
                f"{name} shared its input with {leader} on the first sequence, and does not on another.",
                mend="solve one of the two with 'refined' by a rule of the recipe",
            )
        if name == self._last:
            raise Reached

    def _hooks(self, see: Callable[[str, Tensor], None]) -> AbstractContextManager[None]:
        def first(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            see(name, args[0] if args else kwargs["input"])

        return hooked(self.layers.items(), first)


def in_features(layer: nn.Module) -> int:
    """Return K of a linear layer."""
    return int(layer.in_features)  # type: ignore[arg-type]


def _same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))
