"""Blocks of a packed weight as dense ones, in a scratch that all layers share; and the products that use them.

A block is transposed, [K, rows], which is how the CPU layouts lie: no byte is moved twice. All forms give the same
bits: w = (code - 8) * scale + zero, in float32, rounded once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

from workbench.cuda_paths import dequantize_tiles
from workbench.native import native_kernels
from workbench.packed import PackedWeight

# A block's bytes: with 8 MB (1024 rows of 4096) the dense kernels of a CPU are as fast as with the whole weight, with 4
# they are half as fast at some batches; on a GPU a launch must be worth it.
SCRATCH_BYTES = {"cpu": 8 * 2**20, "cuda": 64 * 2**20}
_ROWS = 64  # blocks are of whole kernel blocks, of every layout

_shared = threading.local()  # each thread that multiplies has one scratch, whatever the number of layers


def dequantized(weight: PackedWeight, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Return the weights that the kernels multiply with, `dtype` [N, K], rounded once; a CPU's is a transposed view."""
    plain = weight.layout is None or dtype not in (torch.bfloat16, torch.float32)
    if plain or weight.packed.is_meta or torch.compiler.is_compiling():
        return weight.quantized().dequantize(dtype)
    if weight.layout is not None and weight.layout.kind == "cpu":
        n, k = weight.padded
        transposed, step = torch.empty(k, n, dtype=dtype), block_rows(weight.packed.device, k, dtype)
        for first in range(0, n, step):
            _fill(transposed[:, first : first + step], weight, first)
        return transposed[: weight.in_features, : weight.out_features].t()
    whole = torch.empty(weight.out_features, weight.in_features, dtype=dtype, device=weight.packed.device)
    for rows, block in iter_blocks(weight, dtype):
        whole[rows] = block[: weight.in_features].t()
    return whole


def blockwise_linear(rows: Tensor, weight: PackedWeight, dtype: torch.dtype) -> Tensor:
    """Multiply rows [M, K] with the transposed weight [N, K], a dequantized block at a time: [M, N] in rows' dtype.

    Args:
        rows: float [M, K], M >= 1.
        weight: The packed weight, checked by the caller.
        dtype: What the products are computed in; both factors are rounded to it, sums are float32 inside.
    """
    inside = rows.to(dtype)
    if missing := _block_width(weight) - weight.in_features:
        inside = functional.pad(inside, (0, missing))
    result = torch.empty(rows.shape[0], weight.out_features, dtype=dtype, device=rows.device)
    for part, block in iter_blocks(weight, dtype):
        torch.mm(inside, block, out=result[:, part])
    return result.to(rows.dtype)


def blockwise_gradient(grad: Tensor, weight: PackedWeight, dtype: torch.dtype) -> Tensor:
    """Multiply grad [M, N] with the weight [N, K], a dequantized block at a time: [M, K] in grad's dtype.

    Args:
        grad: float [M, N].
        weight: The packed weight.
        dtype: What the products are computed in; the sum over the blocks is at least float32.
    """
    total = torch.promote_types(dtype, torch.float32)
    result = torch.zeros(grad.shape[0], _block_width(weight), dtype=total, device=grad.device)
    inside = grad.to(dtype)
    for part, block in iter_blocks(weight, dtype):
        result += inside[:, part] @ block.t()
    return result[:, : weight.in_features].to(grad.dtype).contiguous()


def iter_blocks(weight: PackedWeight, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """Yield (rows, block) over the weight: slices of 0..N, and `dtype` [K, rows], good until the next is asked for.

    K is the padded one where the device has a layout.
    """
    n, (n_padded, k) = weight.out_features, weight.padded
    count = -(-n // block_rows(weight.packed.device, k, dtype))
    step = -(-n // (count * _ROWS)) * _ROWS  # blocks of one size: a small last one would leave a GPU half idle
    fill = _filler(weight, k, min(step, n_padded), dtype)
    for first in range(0, n, step):
        rows = min(step, n - first)
        yield slice(first, first + rows), fill(first, min(step, n_padded - first))[:, :rows]


def _filler(weight: PackedWeight, k: int, rows: int, dtype: torch.dtype) -> Callable[[int, int], Tensor]:
    """Return what dequantizes (first row, number of rows) to [K, rows], always in the same scratch of `rows` rows."""
    layout = weight.layout
    if layout is None:
        return lambda first, count: _rows_of(weight, first, count, dtype).t()
    if layout.kind == "cpu":
        scratch = _scratch(weight.packed.device, k, rows, dtype)

        def fill_cpu(first: int, count: int) -> Tensor:
            _fill(scratch[:, :count], weight, first)
            return scratch[:, :count]

        return fill_cpu
    tiles = torch.empty(rows, k, dtype=dtype, device=weight.packed.device)

    def fill_tiles(first: int, count: int) -> Tensor:
        parts = (weight.packed, weight.scales_and_zeros, weight.group_size, layout)
        return dequantize_tiles(*parts, first, tiles[:count]).t()

    return fill_tiles


def block_rows(device: torch.device, k: int, dtype: torch.dtype) -> int:
    """Return how many rows of a weight with K = `k` are dequantized at a time, a multiple of 64."""
    held = SCRATCH_BYTES.get(device.type, SCRATCH_BYTES["cuda"])
    return max(1, held // (k * dtype.itemsize) // _ROWS) * _ROWS


def _block_width(weight: PackedWeight) -> int:
    return weight.in_features if weight.layout is None else weight.padded[1]


def _scratch(device: torch.device, k: int, rows: int, dtype: torch.dtype) -> Tensor:
    """Return [k, rows] of this thread's scratch; its rows end on odd cache lines, which spreads them over the cache."""
    stride = rows + 32
    held: Tensor | None = getattr(_shared, "held", None)
    needed = k * stride * dtype.itemsize
    if held is None or held.numel() < needed:
        held = _shared.held = torch.empty(needed, dtype=torch.uint8, device=device)
    return held[:needed].view(dtype).view(k, stride)[:, :rows]


def _fill(block: Tensor, weight: PackedWeight, first: int) -> None:
    """Dequantize rows of a CPU layout into `block` [K, rows]."""
    assert weight.layout is not None
    native = native_kernels() if block.dtype in (torch.bfloat16, torch.float32) else None
    if native is not None:
        native.dequantize(weight.packed, weight.scales_and_zeros, weight.group_size, weight.layout, first, block)
        return
    k, rows = block.shape
    size, halves = weight.layout.cpu_block
    whole = rows // size * size
    for start, stop, width, pairing in ((0, whole, size, halves), (whole, rows, rows - whole, False)):
        if start < stop:
            place = first + start
            bytes_ = weight.packed.view(-1)[place * k // 2 : (first + stop) * k // 2].view(-1, k, width // 2)
            _spread(bytes_, weight.scales_and_zeros[:, place : first + stop], pairing, block[:, start:stop])


def _spread(bytes_: Tensor, scales_and_zeros: Tensor, halves: bool, out: Tensor) -> None:
    """Dequantize whole blocks by plain operations: uint8 [blocks, K, half] into out [K, blocks * 2 half].

    High nibbles stay where they are, which makes them 16 times too large, and their scales are divided by 16: both
    exact. A shift of bytes would cost as much as all the rest.
    """
    blocks, k, half = bytes_.shape
    groups = scales_and_zeros.shape[0]
    steps = torch.empty(blocks, k, 2 * half, dtype=torch.uint8, device=out.device)
    low, high = (steps[..., :half], steps[..., half:]) if halves else (steps[..., 0::2], steps[..., 1::2])
    if halves:  # eight bytes at a time
        eight = bytes_.view(torch.int64)
        torch.bitwise_and(eight, 0x0F0F0F0F0F0F0F0F, out=low.view(torch.int64))
        torch.bitwise_and(eight, ~0x0F0F0F0F0F0F0F0F, out=high.view(torch.int64))
    else:
        torch.bitwise_and(bytes_, 0x0F, out=low)
        torch.bitwise_and(bytes_, 0xF0, out=high)
    middle, factor = torch.full((2 * half,), 8, dtype=torch.int8), torch.ones(2 * half)
    upper = slice(half, None) if halves else slice(1, None, 2)
    middle[upper], factor[upper] = -128, 1 / 16  # 16 * 8, as the byte wraps
    signed = steps.view(torch.int8).sub_(middle.to(out.device)).view(blocks, groups, k // groups, 2 * half)
    target = out.view(groups, k // groups, blocks, 2 * half)
    scale, zero = (
        scales_and_zeros[..., i].contiguous().view(groups, 1, blocks, 2 * half).to(out.dtype) for i in (0, 1)
    )
    target.copy_(signed.permute(1, 2, 0, 3))
    torch.addcmul(zero, target, scale * factor.to(scale), out=target)


def _rows_of(weight: PackedWeight, first: int, rows: int, dtype: torch.dtype) -> Tensor:
    """Return rows of a weight in no layout, [rows, K]."""
    part = slice(first, first + rows)
    parts = (weight.packed[part], weight.scales_and_zeros[:, part])
    return PackedWeight(*parts, None, rows, weight.in_features, weight.group_size).quantized().dequantize(dtype)
