"""Layers solved in the order in which a model runs them, each on inputs that are quantized upstream already.

A model's repeated blocks are run one at a time on stored hidden states, so that a layer costs a pass through its block,
not through the model. Where blocks do not hand their output straight to the next, and for layers outside of blocks, the
whole model is run. Layers that get the same input, or stand side by side like experts, are one stage: their moments are
collected in one pass, at most as many at a time as memory allows, and each stage's codes are in place before the next.
The model itself is not changed: on this thread alone, solved layers compute with their new weights until the end.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from workbench.affine import QuantizedWeight
from workbench.calibration import Calibration
from workbench.forward import Reached, evaluating, hooked, look, looking, run_model
from workbench.input_tap import InputTap, in_features
from workbench.layers import get_layer, model_device
from workbench.offload import offloaded_values
from workbench.solvers import InputMoments

Solve = Callable[[str, InputMoments | None], QuantizedWeight]


@dataclass(eq=False)
class _Block:
    """A block of a chain: its module, where its hidden state stands among its arguments, and its calls by batch."""

    module: nn.Module
    names: list[str]
    place: int | str = 0
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class _Segment:
    """Layers that are solved by running one module: a block of a chain, or (None) the whole model."""

    names: list[str]
    chain: list[_Block] | None = None


def iter_sequential(
    model: nn.Module,
    names: Sequence[str],
    needs_moments: Mapping[str, bool],
    calibration: Calibration,
    solve: Solve,
    *,
    cancel: threading.Event | None = None,
) -> Iterator[str]:
    """Solve layers in the order of the model, yielding the name of each.

    Args:
        model: A model that takes token ids; it is as before when this ends.
        names: Module paths of the layers to solve.
        needs_moments: Whether a layer's solver wants moments of its input.
        calibration: The text.
        solve: Called with a name and the moments of its input (None where they are not wanted); returns the weight
            that the layers after it are to see.
        cancel: Set it to stop before the next layer, or panel of a layer's moments.

    Raises:
        ConfigError: when memory cannot hold the moments.
        ModelError: when the model cannot be run on token ids.
        Cancelled: when `cancel` was set.
    """
    layers = {name: get_layer(model, name) for name in names}
    wanted = {name for name in names if needs_moments[name]}
    calibration.hold_limit(max((in_features(layers[name]) for name in wanted), default=1))
    batches = list(calibration.batches(model_device(model)))
    work = _Work(model, layers, wanted, calibration, batches, solve, cancel)
    with evaluating(model), looking(model, partial(look, cancel)), torch.no_grad():
        yield from work.run()


class _Work:
    def __init__(
        self,
        model: nn.Module,
        layers: dict[str, nn.Module],
        wanted: set[str],
        calibration: Calibration,
        batches: list[Tensor],
        solve: Solve,
        cancel: threading.Event | None,
    ) -> None:
        self.model, self.layers, self.wanted, self.calibration = model, layers, wanted, calibration
        self.batches, self.solve, self.cancel = batches, solve, cancel
        self.stand_ins = _StandIns(layers)

    def run(self) -> Iterator[str]:
        tap = InputTap(self.layers)
        chains = _find_chains(self.model, self.layers)
        with tap.probing(), _watching(chains) as seen:
            run_model(self.model, self.batches[0][:1])
        chains = [chain for chain in chains if _is_linked(chain, seen)]
        with self.stand_ins:
            for segment in _segments(tap.calls, self.layers, chains):
                if segment.chain is None:
                    yield from self._stages(segment.names, tap, self._run_model, inside_block=False)
                else:
                    yield from self._chain(segment.chain, tap)

    def _chain(self, chain: list[_Block], tap: InputTap) -> Iterator[str]:
        """Solve the blocks of a chain one after the other on the hidden states of each batch."""
        hidden = self._capture(chain)
        for block in chain:

            def forward(batch: int, block: _Block = block) -> Any:
                args, kwargs = block.calls[batch]
                return block.module(
                    *_with(args, block.place, hidden[batch]), **_with(kwargs, block.place, hidden[batch])
                )

            yield from self._stages(block.names, tap, forward, inside_block=True)
            if block is not chain[-1]:
                for batch in range(len(self.batches)):
                    look(self.cancel)
                    hidden[batch] = _hidden(forward(batch))
            block.calls = []
            self.stand_ins.forget_dense(block.names)

    def _capture(self, chain: list[_Block]) -> list[Tensor]:
        """Run the model over the text up to the last block, note the arguments of each; return what the first gets."""
        hidden: list[Tensor] = []

        def note(block: _Block, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if block is chain[0]:
                hidden.append(_at(args, kwargs, block.place))
            block.calls.append((_with(args, block.place, None), _with(kwargs, block.place, None)))
            if block is chain[-1]:
                raise Reached

        with hooked(((block, block.module) for block in chain), note):
            for batch in self.batches:
                look(self.cancel)
                with contextlib.suppress(Reached):
                    run_model(self.model, batch)
        return hidden

    def _run_model(self, batch: int) -> None:
        run_model(self.model, self.batches[batch])

    def _stages(
        self, names: list[str], tap: InputTap, forward: Callable[[int], Any], *, inside_block: bool
    ) -> Iterator[str]:
        for stage in _stages_of(names, tap, inside_block):
            for part in self._parts(stage, tap):
                moments = self._moments(part, tap, forward)
                for name in part:
                    self.stand_ins.put(name, self.solve(name, moments.get(name)))
                    yield name

    def _parts(self, stage: list[str], tap: InputTap) -> Iterator[list[str]]:
        """Split a stage so that the moments of a part fit the memory; layers that share theirs stay together."""
        limit = self.calibration.limit_bytes()
        room = None if limit is None else limit // 2
        part: list[str] = []
        held: dict[str, int] = {}
        for name in sorted(stage, key=lambda name: stage.index(tap.leader[name]) if tap.leader[name] in stage else -1):
            leader = tap.leader[name]
            size = InputMoments.size_bytes(in_features(self.layers[name])) if name in self.wanted else 0
            if part and leader not in held and room is not None and sum(held.values()) + size > room:
                yield part
                part, held = [], {}
            part.append(name)
            held.setdefault(leader, size)
        if part:
            yield part

    def _moments(self, part: list[str], tap: InputTap, forward: Callable[[int], Any]) -> dict[str, InputMoments]:
        wanted = [name for name in part if name in self.wanted]
        if not wanted:
            return {}
        tap.begin(wanted)
        with tap.collecting(partial(look, self.cancel)):
            for batch in range(len(self.batches)):
                look(self.cancel)
                tap.run(lambda batch=batch: forward(batch))  # type: ignore[misc]
        return tap.moments()


class _StandIns:
    """Solved layers that compute with their new weights, on this thread, until the end."""

    def __init__(self, layers: dict[str, nn.Module]) -> None:
        self._layers = layers
        self._weights: dict[str, QuantizedWeight] = {}
        self._dense: dict[str, Tensor] = {}
        self._before: dict[str, Any] = {}
        self._owner = threading.get_ident()

    def __enter__(self) -> _StandIns:
        return self

    def __exit__(self, *_: object) -> None:
        for name, before in self._before.items():
            own = vars(self._layers[name])
            if before is None:
                own.pop("forward", None)
            else:
                own["forward"] = before

    def put(self, name: str, weight: QuantizedWeight) -> None:
        """Let a layer compute with `weight` from now on."""
        layer = self._layers[name]
        original = layer.forward
        self._weights[name] = weight
        self._before[name] = vars(layer).get("forward")

        def forward(inputs: Tensor) -> Tensor:
            if threading.get_ident() != self._owner:
                return original(inputs)  # type: ignore[no-any-return]
            dense = self._dense.get(name)
            if dense is None:
                dense = self._dense[name] = self._weights[name].dequantize(layer.weight.dtype).to(inputs.device)  # type: ignore[arg-type]
            bias = offloaded_values(layer, "bias")
            return functional.linear(inputs, dense, None if bias is None else bias.to(inputs.device))

        vars(layer)["forward"] = forward

    def forget_dense(self, names: Sequence[str]) -> None:
        """Let go of dequantized weights; they are made anew when they are needed."""
        for name in names:
            self._dense.pop(name, None)


def _find_chains(model: nn.Module, layers: Mapping[str, nn.Module]) -> list[list[_Block]]:
    """Return the outermost lists of modules of which at least two hold layers to solve, as lists of blocks."""
    chains: list[list[_Block]] = []
    inside: list[str] = []
    for path, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or any(f"{path}.".startswith(outer) for outer in inside):
            continue
        blocks = [
            _Block(child, [name for name in layers if name.startswith(f"{path}.{i}.")])
            for i, child in enumerate(module)
        ]
        if sum(1 for block in blocks if block.names) >= 2:
            chains.append(blocks)
            inside.append(f"{path}.")
    return chains


Call = tuple[tuple[Any, ...], dict[str, Any], Any]


@contextlib.contextmanager
def _watching(chains: list[list[_Block]]) -> Iterator[dict[int, list[Call]]]:
    """Note arguments and result of each call of each block on this thread, by the identity of its module."""
    owner = threading.get_ident()
    seen: dict[int, list[Call]] = {id(block.module): [] for chain in chains for block in chain}

    def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        if threading.get_ident() == owner:
            seen[id(module)].append((args, kwargs, result))

    modules = [block.module for chain in chains for block in chain]
    handles = [module.register_forward_hook(after, with_kwargs=True) for module in modules]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _is_linked(chain: list[_Block], seen: dict[int, list[Call]]) -> bool:
    """Say whether each block ran once and got the hidden state of the one before; note where it stands."""
    calls = [seen[id(block.module)] for block in chain]
    if any(len(one) != 1 for one in calls):
        return False
    for place, block in enumerate(chain[1:], start=1):
        args, kwargs, _ = calls[place][0]
        before = _hidden(calls[place - 1][0][2])
        places: list[int | str] = [number for number, value in enumerate(args) if value is before]
        places += [key for key, value in kwargs.items() if value is before]
        if before is None or not places:
            return False
        block.place = places[0]
    first_args, first_kwargs, _ = calls[0][0]
    chain[0].place = chain[1].place
    return isinstance(_at(first_args, first_kwargs, chain[0].place), Tensor)


def _segments(calls: list[str], layers: Mapping[str, nn.Module], chains: list[list[_Block]]) -> list[_Segment]:
    """Group layers in the order of their first calls: those of a chain together, those outside by themselves."""
    chain_of = {name: number for number, chain in enumerate(chains) for block in chain for name in block.names}
    segments: list[_Segment] = []
    taken: set[int] = set()
    for name in calls:
        number = chain_of.get(name)
        if number is None:
            if not segments or segments[-1].chain is not None:
                segments.append(_Segment([]))
            segments[-1].names.append(name)
        elif number not in taken:
            taken.add(number)
            segments.append(_Segment([], chains[number]))
    reached = {name for name in calls} | {name for name in chain_of if chain_of[name] in taken}
    never = [name for name in layers if name not in reached]
    return [*segments, _Segment(never)] if never else segments


def _stages_of(names: list[str], tap: InputTap, inside_block: bool) -> list[list[str]]:
    """Group layers into stages, in the order of their first calls.

    Layers with the same input are one stage; so are, inside a block, those whose names differ in numbers only, such as
    the experts of a mixture. Layers that the first sequence did not reach come last, together.
    """
    own = set(names)
    ordered = [name for name in tap.calls if name in own]
    reached = set(ordered)
    stages: list[list[str]] = []
    for name in (*ordered, *(name for name in names if name not in reached)):
        for stage in stages:
            if any(_belong(name, other, tap, inside_block) for other in stage):
                stage.append(name)
                break
        else:
            stages.append([name])
    return stages


def _belong(one: str, other: str, tap: InputTap, inside_block: bool) -> bool:
    if tap.leader[one] == tap.leader[other]:
        return True
    return inside_block and _pattern(one) == _pattern(other)


def _pattern(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", name)


def _hidden(result: Any) -> Any:
    return result[0] if isinstance(result, tuple | list) and result else result


def _at(args: tuple[Any, ...], kwargs: dict[str, Any], place: int | str) -> Any:
    if isinstance(place, str):
        return kwargs.get(place)
    return args[place] if place < len(args) else None


def _with(arguments: Any, place: int | str, value: Any) -> Any:
    """Return positional or keyword arguments with the one at `place` replaced, where it is one of them."""
    if isinstance(arguments, dict):
        return {**arguments, place: value} if isinstance(place, str) else dict(arguments)
    if isinstance(place, str):
        return arguments
    return (*arguments[:place], value, *arguments[place + 1 :])
