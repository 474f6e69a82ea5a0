"""What stands for all that decides the inputs of a layer while layers are solved one after the other.

These are the model, the text, and what is stored for the layers before. The model is told by all its tensors, and by
what one run of it gives: its code, its settings and hooks, and the number of threads leave their marks there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import workbench
from workbench.affine import QuantizedWeight
from workbench.digests import add_values, digest_of
from workbench.offload import offloaded_values
from workbench.solvers.panels import Look, go_on


class Upstream:
    """A key that changes with each layer that is solved; equal keys mean equal inputs of what comes next, to the bit.

    Args:
        model: The dense model.
        batches: Token ids of the text as they are run, int64 [B, T] each.
        witness: The input that a run of the model gave its last layer, or None.
        look: Called before each 16 MiB of the model; raises to stop.
    """

    def __init__(self, model: nn.Module, batches: Sequence[Tensor], witness: Tensor | None, look: Look = go_on) -> None:
        versions = (workbench.__version__, torch.__version__, torch.get_num_threads())
        self._found = hashlib.sha256(repr(versions).encode())
        for name, tensor in _tensors_of(model):
            self._found.update(f"{name} ".encode())
            add_values(self._found, tensor, look)
        for tensor in (*batches, *([] if witness is None else [witness])):
            add_values(self._found, tensor, look)

    def add(self, name: str, weight: QuantizedWeight) -> None:
        """Say that a layer computes with a solved weight from now on."""
        self._found.update(f"{name} {digest_of(weight)} ".encode())

    def key(self, place: str) -> str:
        """Return what stands for the inputs of layers at a place of the model as it is quantized so far."""
        found: Any = self._found.copy()
        found.update(place.encode())
        return str(found.hexdigest())


def _tensors_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield all parameters and buffers by name, one that is shared once; those that are offloaded are read."""
    seen: set[int] = set()
    for path, module in model.named_modules():
        for name in (*module._parameters, *module._buffers):
            own = getattr(module, name, None)
            tensor = None if own is None or id(own) in seen else offloaded_values(module, name)
            seen.add(id(own))
            if tensor is not None and not tensor.is_meta:
                yield f"{path}.{name}", tensor
