"""Repeated blocks of a model that hand their hidden state straight to the next, so that each can be run by itself.

The outermost module lists are the candidates; one run of the model shows which of them are chains.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

Call = tuple[tuple[Any, ...], dict[str, Any], Any]  # arguments, keyword arguments, result


@dataclass(eq=False)
class Block:
    """A block of a chain.

    Attributes:
        module: What is run.
        names: Module paths of the layers to solve in it.
        place: Where its hidden state stands: the position of an argument, or its keyword.
        calls: Its other arguments, by batch.
    """

    module: nn.Module
    names: list[str]
    place: int | str = 0
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)


def find_chains(model: nn.Module, layers: Mapping[str, nn.Module]) -> list[list[Block]]:
    """Return the outermost lists of modules of which at least two hold layers to solve, as lists of blocks."""
    chains: list[list[Block]] = []
    inside: list[str] = []
    for path, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or any(f"{path}.".startswith(outer) for outer in inside):
            continue
        blocks = [
            Block(child, [name for name in layers if name.startswith(f"{path}.{i}.")]) for i, child in enumerate(module)
        ]
        if sum(1 for block in blocks if block.names) >= 2:
            chains.append(blocks)
            inside.append(f"{path}.")
    return chains


@contextlib.contextmanager
def watching(chains: list[list[Block]]) -> Iterator[dict[int, list[Call]]]:
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


def is_linked(chain: list[Block], seen: dict[int, list[Call]]) -> bool:
    """Say whether each block ran once and got the hidden state of the one before; note where it stands."""
    calls = [seen[id(block.module)] for block in chain]
    if any(len(one) != 1 for one in calls):
        return False
    for place, block in enumerate(chain[1:], start=1):
        args, kwargs, _ = calls[place][0]
        before = hidden_state(calls[place - 1][0][2])
        places: list[int | str] = [number for number, value in enumerate(args) if value is before]
        places += [key for key, value in kwargs.items() if value is before]
        if before is None or not places:
            return False
        block.place = places[0]
    first_args, first_kwargs, _ = calls[0][0]
    chain[0].place = chain[1].place
    return isinstance(argument_at(first_args, first_kwargs, chain[0].place), Tensor)


def hidden_state(result: Any) -> Any:
    """Return the hidden state of what a block returned: all of it, or the first of several."""
    return result[0] if isinstance(result, tuple | list) and result else result


def argument_at(args: tuple[Any, ...], kwargs: dict[str, Any], place: int | str) -> Any:
    """Return the argument at a position or of a keyword, or None where there is none."""
    if isinstance(place, str):
        return kwargs.get(place)
    return args[place] if place < len(args) else None


def with_argument(arguments: Any, place: int | str, value: Any) -> Any:
    """Return positional or keyword arguments with the one at `place` replaced, where it is one of them."""
    if isinstance(arguments, dict):
        return {**arguments, place: value} if isinstance(place, str) else dict(arguments)
    if isinstance(place, str):
        return arguments
    return (*arguments[:place], value, *arguments[place + 1 :])
