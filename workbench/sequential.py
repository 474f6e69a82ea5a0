"""Layers solved in the order in which a model runs them, each on inputs that are quantized upstream already.

A model's repeated blocks are run one at a time on stored hidden states, so that a layer costs a pass through its block,
not through the model. Where blocks do not hand their output straight to the next, and for layers outside of blocks, the
whole model is run. Layers that get the same input, or stand side by side like experts, are one stage: their moments are
collected in one pass, at most as many at a time as memory allows, and each stage's codes are in place before the next.
The model itself is not changed: on this thread alone, solved layers compute with their new weights until the end.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from workbench.affine import QuantizedWeight
from workbench.block_chains import Block, argument_at, find_chains, hidden_state, is_linked, watching, with_argument
from workbench.calibration import Calibration
from workbench.forward import Reached, evaluating, hooked, look, looking, run_model
from workbench.input_tap import InputTap, in_features
from workbench.layers import get_layer, model_device
from workbench.offload import offloaded_values
from workbench.solvers import InputMoments
from workbench.solving_order import segments_of, stages_of

Solve = Callable[[str, InputMoments | None], QuantizedWeight]


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
        chains = find_chains(self.model, self.layers)
        with tap.probing(), watching(chains) as seen:
            run_model(self.model, self.batches[0][:1])
        chains = [chain for chain in chains if is_linked(chain, seen)]
        with self.stand_ins:
            for segment in segments_of(tap.calls, self.layers, chains):
                if segment.chain is None:
                    yield from self._stages(segment.names, tap, self._run_model, inside_block=False)
                else:
                    yield from self._chain(segment.chain, tap)

    def _chain(self, chain: list[Block], tap: InputTap) -> Iterator[str]:
        """Solve the blocks of a chain one after the other on the hidden states of each batch."""
        hidden = self._capture(chain)
        for block in chain:

            def forward(batch: int, block: Block = block) -> Any:
                args, kwargs = block.calls[batch]
                return block.module(
                    *with_argument(args, block.place, hidden[batch]),
                    **with_argument(kwargs, block.place, hidden[batch]),
                )

            yield from self._stages(block.names, tap, forward, inside_block=True)
            if block is not chain[-1]:
                for batch in range(len(self.batches)):
                    look(self.cancel)
                    hidden[batch] = hidden_state(forward(batch))
            block.calls = []
            self.stand_ins.forget_dense(block.names)

    def _capture(self, chain: list[Block]) -> list[Tensor]:
        """Run the model over the text up to the last block, note the arguments of each; return what the first gets."""
        hidden: list[Tensor] = []

        def note(block: Block, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if block is chain[0]:
                hidden.append(argument_at(args, kwargs, block.place))
            block.calls.append((with_argument(args, block.place, None), with_argument(kwargs, block.place, None)))
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
        for stage in stages_of(names, tap, inside_block):
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
