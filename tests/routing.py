"""Picks of experts, recorded in one forward and made again in another: a rounding may turn a close pick around."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_PICKS = (torch.topk, Tensor.topk, torch.max, Tensor.max, torch.argmax, Tensor.argmax)


class _Picks(TorchFunctionMode):
    """Hands out the picks given, in their order; records its own where none are given."""

    def __init__(self, given: list[Tensor] | None) -> None:
        super().__init__()
        self._given, self.made = given, []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func not in _PICKS:
            return result
        picked = result if isinstance(result, Tensor) else result[1]
        if picked.is_floating_point():  # a maximum without its place
            return result
        self.made.append(picked)
        if self._given is None:
            return result
        picked = self._given[len(self.made) - 1]
        if isinstance(result, Tensor):
            return picked
        values, dim = args[0], (kwargs or {}).get("dim", -1)
        places = picked if picked.ndim == values.ndim else picked.unsqueeze(dim)
        return type(result)((values.gather(dim, places).view(picked.shape), picked))


@contextmanager
def picks(given: list[Tensor] | None = None) -> Iterator[list[Tensor]]:
    """Record what topk, max and argmax pick inside the block; with `given`, they pick that instead."""
    with _Picks(given) as mode:
        yield mode.made
    assert given is None or len(given) == len(mode.made)
