"""What stands for the values of tensors and of quantized weights, to the bit."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from workbench.affine import QuantizedWeight
from workbench.solvers.panels import Look, go_on

_PIECE_BYTES = 1 << 24


def add_values(found: Any, values: Tensor, look: Look = go_on) -> None:
    """Add dtype, shape and values of a tensor to a hash.

    Args:
        found: An object of hashlib.
        values: Any dtype and shape, on any device.
        look: Called before each piece of 16 MiB; raises to stop.
    """
    found.update(f"{values.dtype} {list(values.shape)} ".encode())
    flat = values.detach().reshape(-1)
    for piece in flat.split(max(1, _PIECE_BYTES // flat.element_size())):
        look()
        found.update(piece.cpu().contiguous().view(torch.uint8).numpy())


def digest_of(weight: QuantizedWeight) -> str:
    """Return what stands for all that decides the values of a quantized weight."""
    found = hashlib.sha256(f"{weight.domain} {weight.group_size} ".encode())
    for part in (weight.codes, weight.scale, weight.zero):
        if part is not None:
            add_values(found, part)
    return found.hexdigest()
