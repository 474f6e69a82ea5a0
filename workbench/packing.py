"""The tile layouts of the int4 kernels, packed and unpacked in plain torch on any machine.

Codes are uint8 [N, K], 0..15. The formulas are those of PyTorch's own packing ops, which exist on the device only:

CUDA, I = inner_k_tiles: int32 [N/8, K/(16 I), 32 lanes, I/2 words] with
    n = 8 tile + lane//4,  k = 16 I ktile + 32 word + 8 r + 2 (lane%4) + p   in nibble 4p + r    (r 0..3, p 0..1)
ROCm: the same shape over flat [N/16, K/(16 I), 64 lanes, I/2 words] with
    n = 16 tile + lane%16, k = 16 I ktile + 32 word + 16 a + 4 (lane//16) + 2 b + p   in nibble 4p + 2a + b
CPU: blocks of rows, then k, then bytes; a byte pairs two rows of the block (see `Layout.cpu_block`).

Source of the formulas: aten/src/ATen/native/cuda/int4mm.cu and native/cpu/int4mm_kernel.cpp of PyTorch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor

from workbench.errors import KernelError
from workbench.layout import Layout
from workbench.workers import in_order

_THREAD_CODES = 1 << 19  # codes that a thread takes at a time


def pack(codes: Tensor, layout: Layout) -> Tensor:
    """Pack codes into a device layout, on the device where they are.

    Args:
        codes: uint8 [N, K], 0..15; N and K multiples of what the layout asks (see `padded_shape`).
        layout: Which layout to make; any layout can be made on any device.

    Returns:
        uint8 [N, K/2] for a CPU layout (the shape is nominal), int32 [N/8, K/(16 I), 32, I/2] for a GPU layout.

    Raises:
        KernelError: when dtype, shape or a code does not fit.
    """
    if codes.dtype != torch.uint8 or codes.ndim != 2:
        raise KernelError(f"The codes are {codes.dtype} {list(codes.shape)}.", allowed="uint8 [N, K]")
    _check_multiples(codes.shape[0], codes.shape[1], layout)
    if layout.kind == "cpu":
        return _pack_cpu(codes, layout)
    _check_range(codes)
    return _pack_cuda(codes, layout) if layout.kind == "cuda" else _pack_rocm(codes, layout)


def pack_nibbles(nibbles: Tensor, layout: Layout) -> Tensor:
    """Pack codes that lie two to a byte into a CPU layout: the bytes that `pack` makes, without a byte for each code.

    Args:
        nibbles: uint8 [N, K/2], even k in the low nibble.
        layout: A CPU layout; N a multiple of what it asks.

    Returns:
        uint8 [N, K/2], whose shape is nominal.

    Raises:
        KernelError: when dtype, shape or layout does not fit.
    """
    if nibbles.dtype != torch.uint8 or nibbles.ndim != 2 or layout.kind != "cpu":
        raise KernelError(
            f"The codes are {nibbles.dtype} {list(nibbles.shape)}, the layout {layout}.",
            allowed="uint8 [N, K/2] and a CPU layout",
        )
    nibbles = nibbles.contiguous()
    n, half = nibbles.shape
    _check_multiples(n, 2 * half, layout)
    packed = torch.empty(n * half, dtype=torch.uint8, device=nibbles.device)

    size, halves = layout.cpu_block
    whole = n // size * size
    for start, stop, rows, in_halves in ((0, whole, size, halves), (whole, n, n - whole, False)):
        if start == stop:
            continue
        # All blocks at once: few large operations, each divided among the threads.
        shape = (-1, 2, rows // 2, half) if in_halves else (-1, rows // 2, 2, half)
        low, high = nibbles[start:stop].view(shape).unbind(1 if in_halves else 2)
        block = packed[start * half : stop * half].view(-1, half, 2, rows // 2)
        block[:, :, 0].copy_((high << 4).bitwise_or_(low & 15).transpose(1, 2))
        block[:, :, 1].copy_((high & 0xF0).bitwise_or_(low >> 4).transpose(1, 2))
    return packed.view(n, half)


def unpack(packed: Tensor, layout: Layout, n: int, k: int) -> Tensor:
    """Return the exact codes, uint8 [n, k], of a packed tensor: the inverse of `pack`, by formula.

    Raises:
        KernelError: when dtype or shape does not fit.
    """
    _check_multiples(n, k, layout)
    shape = layout.packed_shape(n, k)
    if packed.dtype != layout.packed_dtype or tuple(packed.shape) != shape:
        raise KernelError(
            f"The packed weight is {packed.dtype} {list(packed.shape)}.",
            allowed=f"{layout.packed_dtype} {list(shape)} for codes {[n, k]} in {layout}",
        )
    packed = packed.contiguous()
    if layout.kind == "cuda":
        return _unpack_cuda(packed, layout, n, k)
    return _unpack_rocm(packed, layout, n, k) if layout.kind == "rocm" else _unpack_cpu(packed, layout, n, k)


# --- CUDA and ROCm --------------------------------------------------------------------------------------------------


def _pack_cuda(codes: Tensor, layout: Layout) -> Tensor:
    n, k = codes.shape
    words = (layout.inner_k_tiles or 0) // 2
    # n: tile, lane//4.   k: ktile, word, r//2, r%2, lane%4, p.
    split = codes.reshape(n // 8, 8, k // (32 * words), words, 2, 2, 4, 2)
    pairs = split[:, :, :, :, :, 0] | (split[:, :, :, :, :, 1] << 4)  # byte 2p + r//2 holds r even low, r odd high
    # tile, lane//4, ktile, word, r//2, lane%4, p  ->  tile, ktile, lane//4, lane%4, word, p, r//2
    return _as_words(pairs.permute(0, 2, 1, 5, 3, 6, 4), layout, n, k)


def _unpack_cuda(packed: Tensor, layout: Layout, n: int, k: int) -> Tensor:
    words = (layout.inner_k_tiles or 0) // 2
    split = packed.view(torch.uint8).view(n // 8, k // (32 * words), 8, 4, words, 2, 2)
    pairs = split.permute(0, 2, 1, 4, 6, 3, 5)  # tile, lane//4, ktile, word, r//2, lane%4, p
    return torch.stack((pairs & 15, pairs >> 4), dim=5).view(n, k)


def _pack_rocm(codes: Tensor, layout: Layout) -> Tensor:
    n, k = codes.shape
    words = (layout.inner_k_tiles or 0) // 2
    # n: tile, lane%16.   k: ktile, word, a, lane//16, b, p.
    split = codes.reshape(n // 16, 16, k // (32 * words), words, 2, 4, 2, 2)
    pairs = split[:, :, :, :, :, :, 0] | (split[:, :, :, :, :, :, 1] << 4)  # byte 2p + a holds b = 0 low, 1 high
    # tile, lane%16, ktile, word, a, lane//16, p  ->  tile, ktile, lane//16, lane%16, word, p, a
    return _as_words(pairs.permute(0, 2, 5, 1, 3, 6, 4), layout, n, k)


def _unpack_rocm(packed: Tensor, layout: Layout, n: int, k: int) -> Tensor:
    words = (layout.inner_k_tiles or 0) // 2
    split = packed.view(torch.uint8).view(n // 16, k // (32 * words), 4, 16, words, 2, 2)
    pairs = split.permute(0, 3, 1, 4, 6, 2, 5)  # tile, lane%16, ktile, word, a, lane//16, p
    return torch.stack((pairs & 15, pairs >> 4), dim=6).view(n, k)


def _as_words(pairs: Tensor, layout: Layout, n: int, k: int) -> Tensor:
    """View bytes in order as little-endian words of the packed shape."""
    assert sys.byteorder == "little", "torch's int4 kernels run on little-endian machines only"
    return pairs.contiguous().view(-1).view(torch.int32).view(layout.packed_shape(n, k))


# --- CPU ------------------------------------------------------------------------------------------------------------


def _pack_cpu(codes: Tensor, layout: Layout) -> Tensor:
    n, k = codes.shape
    packed = torch.empty(n * k // 2, dtype=torch.uint8, device=codes.device)

    def pack_block(start: int, rows: int, halves: bool) -> None:
        _check_range(codes[start : start + rows], start)
        low, high = _paired(codes[start : start + rows], halves)
        block = packed[start * k // 2 : (start + rows) * k // 2].view(k, rows // 2)
        block.copy_((high << 4).bitwise_or_(low).t())

    _for_each_block(pack_block, n, k, codes.device, layout)
    return packed.view(n, k // 2)


def _unpack_cpu(packed: Tensor, layout: Layout, n: int, k: int) -> Tensor:
    codes = torch.empty(n, k, dtype=torch.uint8, device=packed.device)
    flat = packed.view(-1)

    def unpack_block(start: int, rows: int, halves: bool) -> None:
        pairs = flat[start * k // 2 : (start + rows) * k // 2].view(k, rows // 2).t().contiguous()
        low, high = _paired(codes[start : start + rows], halves)
        low.copy_(pairs & 15)
        high.copy_(pairs >> 4)

    _for_each_block(unpack_block, n, k, packed.device, layout)
    return codes


def _for_each_block(
    work: Callable[[int, int, bool], None], n: int, k: int, device: torch.device, layout: Layout
) -> None:
    """Call `work` with each block of rows of codes [n, k]; on the CPU every thread takes whole runs of blocks."""
    blocks = _cpu_blocks(layout, n)
    together = max(1, _THREAD_CODES // (blocks[0][1] * k))

    def work_through(first: int) -> None:
        for block in blocks[first : first + together]:
            work(*block)

    starts = range(0, len(blocks), together)
    if device.type == "cpu" and not torch.compiler.is_compiling():
        for _ in in_order(work_through, starts):
            pass
    else:  # a device has its own parallelism; a compiler traces what one thread does
        for first in starts:
            work_through(first)


def _cpu_blocks(layout: Layout, n: int) -> list[tuple[int, int, bool]]:
    """List (first row, rows, pairing) of each block of rows; the last can be a tail."""
    size, halves = layout.cpu_block
    full = [(start, size, halves) for start in range(0, n - size + 1, size)]
    tail = n % size
    return [*full, (n - tail, tail, False)] if tail else full  # a tail always pairs neighbours


def _paired(rows: Tensor, halves: bool) -> tuple[Tensor, Tensor]:
    """Return views of the rows in the low and in the high nibbles."""
    if halves:
        middle = rows.shape[0] // 2
        return rows[:middle], rows[middle:]
    return rows[0::2], rows[1::2]


# --- checks ---------------------------------------------------------------------------------------------------------


def _check_range(codes: Tensor, first_row: int = 0) -> None:
    if not codes.is_meta and (highest := int(codes.max())) > 15:
        row, column = (codes == highest).nonzero()[0].tolist()
        raise KernelError(
            f"The code at [{first_row + row}, {column}] is {highest}.",
            allowed="0 to 15",
            mend="clamp the codes to 4 bits",
        )


def _check_multiples(n: int, k: int, layout: Layout) -> None:
    if n < 1 or k < 1 or n % layout.n_multiple or k % layout.k_multiple:
        raise KernelError(
            f"Codes of shape {[n, k]} do not fill whole tiles of {layout}.",
            allowed=f"N a multiple of {layout.n_multiple}, K of {layout.k_multiple}",
            mend="pad with code 8 to padded_shape(n, k, group_size, layout)",
        )
