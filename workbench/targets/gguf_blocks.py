"""GGUF's 4-bit blocks: 32 weights along K share d, and in Q4_1 also a minimum m, both in float16.

    Q4_0:  w = (q - 8) * d        18 bytes: d, then 16 bytes of codes
    Q4_1:  w = q * d + m          20 bytes: d, m, then 16 bytes of codes

Byte j of the codes holds element j in the low nibble and element j + 16 in the high one. Source of the layout:
`block_q4_0` and `block_q4_1` in llama.cpp's ggml-common.h.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.affine import MID_POINT, QuantizedWeight
from workbench.errors import CheckpointError

BLOCK = 32
Q4_0_BYTES, Q4_1_BYTES = 18, 20
_HALF = BLOCK // 2
_LARGEST = torch.finfo(torch.float16).max
_ROWS = 2**22  # weights looked at at once


@dataclass(frozen=True)
class Blocks:
    """A weight in blocks.

    Attributes:
        data: uint8 [N, K / 32 * 18 or 20].
        d: float16 [N, groups], the weight's own groups.
        m: float16 [N, groups], or None for Q4_0.
    """

    data: Tensor
    d: Tensor
    m: Tensor | None


def block_bytes(symmetric: bool) -> int:
    """Bytes of 32 weights: Q4_0 for symmetric ones, else Q4_1."""
    return Q4_0_BYTES if symmetric else Q4_1_BYTES


def encode_blocks(name: str, weight: QuantizedWeight) -> Blocks:
    """Return a weight in blocks: Q4_0 of the symmetric domain, else Q4_1; its groups repeat d and m.

    Args:
        name: The layer, for errors.
        weight: [N, K], K a multiple of 32.

    Raises:
        CheckpointError: when K is no multiple of 32, or a scale or minimum is too large for float16.
    """
    n, k = weight.shape
    if k % BLOCK:
        raise CheckpointError(f"{name} has in_features={k}.", allowed="a multiple of 32", mend="leave it dense")
    d = _half(name, "scale", weight.scale)
    m = None if weight.domain == "symmetric" else _half(name, "minimum", weight.minimum())
    repeat, blocks = weight.group_size // BLOCK, k // BLOCK
    halves = weight.codes.view(n, blocks, 2, _HALF)
    data = torch.empty(n, blocks, block_bytes(m is None), dtype=torch.uint8)
    for place, values in enumerate([d] if m is None else [d, m]):
        spread = values.repeat_interleave(repeat, dim=1)[:, :blocks].contiguous()
        data[:, :, 2 * place : 2 * place + 2] = spread.view(torch.uint8).view(n, blocks, 2)
    data[:, :, -_HALF:] = halves[:, :, 0] | (halves[:, :, 1] << 4)
    return Blocks(data.view(n, -1), d, m)


def decode_blocks(data: Tensor, *, symmetric: bool) -> QuantizedWeight:
    """Return the weight in some blocks, in groups of 32: codes bit for bit, scales in float32.

    Q4_0 is the symmetric domain; Q4_1 the float domain with zero = m + 8 d in float32.

    Args:
        data: uint8 [N, bytes], a whole number of blocks a row.
        symmetric: Whether they are Q4_0.
    """
    blocks = data.view(data.shape[0], -1, block_bytes(symmetric))
    nibbles = blocks[:, :, -_HALF:]
    codes = torch.cat((nibbles & 15, nibbles >> 4), dim=2).view(data.shape[0], -1)
    d = _halves(blocks, 0)
    zero = None if symmetric else _halves(blocks, 1) + MID_POINT * d
    return QuantizedWeight(codes, d, zero, BLOCK, "symmetric" if symmetric else "float")


def rounding_error(weight: QuantizedWeight, blocks: Blocks) -> float:
    """Return the largest absolute difference that float16 makes to a weight, in weight units.

    Within a group the difference is linear in the code, so that its extremes are at the least and the largest code.
    """
    d = blocks.d.double()
    m = -MID_POINT * d if blocks.m is None else blocks.m.double()
    slope = weight.scale.double() - d
    start = weight.zero_in_weight_units().double() - MID_POINT * weight.scale.double() - m
    if not bool(slope.any()) and not bool(start.any()):
        return 0.0
    low, high = _code_ranges(weight)
    ends = [(start + slope * codes.double()).abs() for codes in (low, high)]
    return float(torch.maximum(*ends).max())


def paired_rows(rows: int, heads: int) -> Tensor:
    """Return the order of rows that llama.cpp's rotary positions want in Llama's Q and K, int64 [rows].

    transformers rotates rows i and i + d/2 of a head of d rows together, llama.cpp rows 2i and 2i + 1.
    """
    return torch.arange(rows).view(heads, 2, rows // heads // 2).transpose(1, 2).reshape(-1)


def _half(name: str, what: str, values: Tensor) -> Tensor:
    """Return values in float16; those too small for it lose digits, or become 0, and count in the rounding error."""
    half = values.to(torch.float16)
    if not bool(torch.isfinite(half).all()):
        worst = float(values.float().abs().max())
        raise CheckpointError(
            f"{name} has a {what} of {worst:g}, which float16 cannot hold.",
            allowed=f"up to {_LARGEST:g}",
            mend="leave this layer dense",
        )
    return half


def _halves(blocks: Tensor, place: int) -> Tensor:
    pair = blocks[:, :, 2 * place : 2 * place + 2].contiguous()
    return pair.view(torch.float16).view(blocks.shape[:2]).float()


def _code_ranges(weight: QuantizedWeight) -> tuple[Tensor, Tensor]:
    """Return the least and the largest code of each group, uint8 [N, groups]."""
    (n, k), size = weight.shape, weight.group_size
    whole = k // size
    step = max(1, _ROWS // max(1, k))
    found = []
    for start in range(0, n, step):
        codes = weight.codes[start : start + step]
        groups = codes[:, : whole * size].view(len(codes), whole, size)
        low, high = groups.amin(2), groups.amax(2)
        if k % size:
            last = codes[:, whole * size :]
            low, high = torch.cat((low, last.amin(1)[:, None]), 1), torch.cat((high, last.amax(1)[:, None]), 1)
        found.append((low, high))
    lows, highs = zip(*found, strict=True)
    return torch.cat(lows), torch.cat(highs)
