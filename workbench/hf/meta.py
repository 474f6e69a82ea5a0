"""Build large modules on the meta device in little time: no values, and no search for garbage among them."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_INITS = (nn.init.kaiming_uniform_, nn.init.uniform_, nn.init.normal_, nn.init.xavier_uniform_, nn.init.trunc_normal_)
_FILLS = frozenset((*_INITS, Tensor.uniform_, Tensor.normal_))


class _NoValues(TorchFunctionMode):
    """Skips random values of meta tensors; numbers that a constructor reads back are made on the CPU."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FILLS:
            tensor = args[0] if args else kwargs.get("tensor")
            if isinstance(tensor, Tensor) and tensor.is_meta:
                return tensor
        if func is torch.linspace:  # the drop rates of a stack of layers, which are taken out with .item()
            kwargs.setdefault("device", "cpu")
        return func(*args, **kwargs)


@contextlib.contextmanager
def no_values() -> Iterator[None]:
    """Let the modules that this thread makes lie on the meta device, uninitialized."""
    with torch.device("meta"), _NoValues():
        yield


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Let no garbage be searched for while very many objects are made that all stay: half of the time went there."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
