"""Layers solved in the order in which a model runs them, each on inputs that are quantized upstream already.

A model's repeated blocks are run one at a time on stored hidden states, so that a layer costs a pass through its block,
not through the model. Where blocks do not hand their output straight to the next, and for layers outside of blocks, the
whole model is run. Layers that get the same input, or stand side by side like experts, are one stage: their moments are
collected in one pass, at most as many at a time as memory allows, and each stage's codes are in place before the next.
A stage that is known from before needs no pass: the text is run as far only as something has to be seen of it.
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

from workbench.affine import QuantizedWeight
from workbench.block_chains import Block, argument_at, find_chains, is_linked, watching, with_argument
from workbench.calibration import Calibration
from workbench.chain_passes import ChainPasses, Passes, WholeModel
from workbench.errors import Cancelled
from workbench.forward import Reached, evaluating, hooked, look, looking, run_model
from workbench.input_tap import InputTap, in_features
from workbench.layers import get_layer, model_device
from workbench.solved_in_place import SolvedInPlace
from workbench.solvers import InputMoments
from workbench.solving_order import segments_of, stages_of
from workbench.stopped_run import Kept, StoppedRun, bytes_of
from workbench.upstream import Upstream

Known = Callable[[str, str], bool]
Solve = Callable[[str, InputMoments | None], QuantizedWeight]


def iter_sequential(
    model: nn.Module,
    names: Sequence[str],
    needs_moments: Mapping[str, bool],
    calibration: Calibration,
    solve: Solve,
    *,
    known: Known | None = None,
    stopped: StoppedRun | None = None,
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
        known: Called with a name and what stands for the inputs of the layer; says whether `solve` can do without
            their moments, because it was solved on these very inputs before. None where nothing is known.
        stopped: What a run before held when it was stopped; this one goes on with it, and leaves its own there.
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
    work = _Work(model, layers, wanted, calibration, batches, solve, known, stopped, cancel)
    with evaluating(model), looking(model, partial(look, cancel)), torch.no_grad():
        try:
            yield from work.run()
        except (Cancelled, GeneratorExit):
            work.leave()
            raise


class _Work:
    def __init__(
        self,
        model: nn.Module,
        layers: dict[str, nn.Module],
        wanted: set[str],
        calibration: Calibration,
        batches: list[Tensor],
        solve: Solve,
        known: Known | None,
        stopped: StoppedRun | None,
        cancel: threading.Event | None,
    ) -> None:
        self.model, self.layers, self.wanted, self.calibration = model, layers, wanted, calibration
        self.batches, self.solve, self.cancel = batches, solve, cancel
        self.known, self.stopped = known, stopped
        self.drops = 0 if stopped is None else stopped.drops
        self.look = partial(look, cancel)
        self.stand_ins = SolvedInPlace(layers)
        self.tap = InputTap(layers)
        self.upstream: Upstream | None = None
        self.passes: ChainPasses | None = None
        self.begun = ""  # stands for the moments that the tap is collecting

    def run(self) -> Iterator[str]:
        chains = find_chains(self.model, self.layers)
        with self.tap.probing(), watching(chains) as seen:
            run_model(self.model, self.batches[0][:1])
        chains = [chain for chain in chains if is_linked(chain, seen)]
        if self.known is not None:
            self.upstream = Upstream(self.model, self.batches, self.tap.witness, self.look)
        with self.stand_ins:
            for segment in segments_of(self.tap.calls, self.layers, chains):
                if segment.chain is None:
                    yield from self._stages(segment.names, WholeModel(self.model, self.batches), inside_block=False)
                else:
                    yield from self._chain(segment.chain)
        if self.stopped is not None:
            self.stopped.drop()

    def leave(self) -> None:
        """Leave what is in memory to the next run, as far as there is room for it."""
        if self.stopped is None or self.upstream is None:
            return
        parts = [] if self.passes is None else self.passes.kept()
        if self.begun:
            parts.append(Kept(self.begun, self.tap.begun, bytes_of([m.total for m in self.tap.begun.totals.values()])))
        self.stopped.hold(parts, self.drops, self.calibration.limit_bytes())

    def _key(self, place: str) -> str:
        return "" if self.upstream is None else self.upstream.key(place)

    def _chain(self, chain: list[Block]) -> Iterator[str]:
        """Solve the blocks of a chain one after the other on the hidden states of each batch."""
        capture = partial(self._capture, chain)
        place = next(name for name, module in self.model.named_modules() if module is chain[0].module)
        passes = ChainPasses(chain, capture, self.look, self.stand_ins.forget_dense, self.stopped, place)
        self.passes = passes
        for number, block in enumerate(chain):
            passes.enter(self._key(f"hidden states {number} from {place}"))
            yield from self._stages(block.names, passes, inside_block=True)
        self.passes = None
        self.stand_ins.forget_dense([name for block in chain for name in block.names])
        for block in chain:
            block.calls = []

    def _capture(self, chain: list[Block]) -> list[Tensor]:
        """Run the model over the text up to the last block, note the arguments of each; return what the first gets.

        The blocks are dense, whatever is solved of them already: the arguments are those of a run from the beginning.
        """
        hidden: list[Tensor] = []

        def note(block: Block, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if block is chain[0]:
                hidden.append(argument_at(args, kwargs, block.place))
            block.calls.append((with_argument(args, block.place, None), with_argument(kwargs, block.place, None)))
            if block is chain[-1]:
                raise Reached

        names = [name for block in chain for name in block.names]
        with self.stand_ins.away(names), hooked(((block, block.module) for block in chain), note):
            for batch in self.batches:
                look(self.cancel)
                with contextlib.suppress(Reached):
                    run_model(self.model, batch)
        return hidden

    def _stages(self, names: list[str], passes: Passes, *, inside_block: bool) -> Iterator[str]:
        for stage in stages_of(names, self.tap, inside_block):
            for part in self._parts(stage):
                key = self._key(passes.place)
                moments = self._moments(part, key, passes)
                solved: dict[str, QuantizedWeight] = {}
                for name in part:
                    solved[name] = self.solve(name, moments.get(name))
                    self.stand_ins.put(name, solved[name])
                    yield name
                self.begun = ""
                for name, weight in solved.items():
                    if self.upstream is not None:
                        self.upstream.add(name, weight)

    def _parts(self, stage: list[str]) -> Iterator[list[str]]:
        """Split a stage so that the moments of a part fit the memory; layers that share theirs stay together."""
        tap, limit = self.tap, self.calibration.limit_bytes()
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

    def _moments(self, part: list[str], key: str, passes: Passes) -> dict[str, InputMoments]:
        """Return moments of the layers of a part that want them and are not known; `key` stands for their inputs."""
        known = self.known or (lambda *_: False)
        wanted = [name for name in part if name in self.wanted and not known(name, key)]
        if not wanted:
            return {}
        begun = f"{key} {' '.join(part)}"
        before = None if self.stopped is None else self.stopped.take([begun])
        if before is not None and before.passes == len(self.batches):
            self.tap.begun, self.begun = before, begun
            return before.of(wanted)  # type: ignore[no-any-return]
        passes.ready()
        self.tap.begin(wanted, before)
        self.begun = begun
        with self.tap.collecting(self.look):
            for batch in range(self.tap.begun.passes, len(self.batches)):
                self.look()
                self.tap.run(partial(passes, batch))
        return self.tap.moments()
