"""Eight 4-bit codes to an int32, as compressed-tensors, GPTQ and AWQ store them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

PER_WORD = 8
IN_ORDER = (0, 1, 2, 3, 4, 5, 6, 7)


def pack_int32(values: Tensor, order: Sequence[int] = IN_ORDER) -> Tensor:
    """Pack codes along the last dimension, eight to a word.

    Args:
        values: uint8 [R, C], values 0..15.
        order: Which of eight neighbours stands at bits 4 * i of their word.

    Returns:
        int32 [R, ceil(C / 8)]; a short last word is filled with zeros.
    """
    rows, columns = values.shape
    whole = functional.pad(values, (0, -columns % PER_WORD)).view(rows, -1, PER_WORD)
    if tuple(order) != IN_ORDER:
        whole = whole[..., list(order)]
    return (whole[..., 0::2] | (whole[..., 1::2] << 4)).contiguous().view(torch.int32).squeeze(-1)


def unpack_int32(words: Tensor, columns: int, order: Sequence[int] = IN_ORDER) -> Tensor:
    """Undo `pack_int32`.

    Args:
        words: int32 [R, ceil(columns / 8)].
        columns: C.
        order: As it was packed.

    Returns:
        uint8 [R, C], values 0..15.
    """
    packed = words.contiguous().unsqueeze(-1).view(torch.uint8)
    values = torch.stack((packed & 15, packed >> 4), dim=-1).view(*words.shape, PER_WORD)
    if tuple(order) != IN_ORDER:
        values = values[..., [list(order).index(place) for place in range(PER_WORD)]]
    return values.reshape(words.shape[0], -1)[:, :columns].contiguous()
