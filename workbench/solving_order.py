"""The order in which layers are solved: segments that one module runs, and in them stages that one pass serves."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from workbench.block_chains import Block
from workbench.input_tap import InputTap


@dataclass(frozen=True, eq=False)
class Segment:
    """Layers that are solved by running one module after the other of a chain, or the whole model.

    Attributes:
        names: Module paths of the layers, where the whole model is run; those of a chain are with its blocks.
        chain: The blocks; None for the whole model.
    """

    names: list[str]
    chain: list[Block] | None = None


def segments_of(calls: list[str], names: Iterable[str], chains: list[list[Block]]) -> list[Segment]:
    """Group layers in the order of their first calls: those of a chain together, those outside by themselves.

    Args:
        calls: Names of layers in the order of their first calls.
        names: All layers to solve; those that are never called come last.
        chains: The chains of the model.
    """
    chain_of = {name: number for number, chain in enumerate(chains) for block in chain for name in block.names}
    segments: list[Segment] = []
    taken: set[int] = set()
    for name in calls:
        number = chain_of.get(name)
        if number is None:
            if not segments or segments[-1].chain is not None:
                segments.append(Segment([]))
            segments[-1].names.append(name)
        elif number not in taken:
            taken.add(number)
            segments.append(Segment([], chains[number]))
    reached = set(calls) | {name for name in chain_of if chain_of[name] in taken}
    never = [name for name in names if name not in reached]
    return [*segments, Segment(never)] if never else segments


def stages_of(names: list[str], tap: InputTap, inside_block: bool) -> list[list[str]]:
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
