"""The Triton kernels over the CUDA tile layout; only `workbench.triton_kernels` imports them, where Triton is.

The tile layout is that of `workbench.packing`: int32 [N/8, K/(16 I), 32 lanes, I/2 words], I = inner_k_tiles, where
nibble 4p + r of a word holds the code of n = 8 tile + lane//4, k = 16 I ktile + 32 word + 8 r + 2 (lane%4) + p.
Scales and zeros come as int32 [K/group, N]: a bfloat16 pair in one word, the scale in its low half.

A weight is (q - 8) * scale + zero in float32, rounded once; q - 8 and its product with a bfloat16 scale are exact.
Triton reads the annotations of parameters, so that only constants have one.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _minus_8(words, SHIFT: tl.constexpr):
    """Return q - 8 of the nibble at bit SHIFT (16 or less), float32, without a conversion from integers.

    The nibble goes into the mantissa of 2^(23-SHIFT), where its lowest bit counts 1.
    """
    bits = (words & (15 << SHIFT)) | ((150 - SHIFT) << 23)
    return bits.to(tl.float32, bitcast=True) - (2.0 ** (23 - SHIFT) + 8.0)


@triton.jit
def _codes(words, REPEATS: tl.constexpr, PAIR: tl.constexpr, WARPS: tl.constexpr, SLABS: tl.constexpr):
    """Return q - 8 in rows and columns, float32 [N, K], of words [REPEATS * PAIR * WARPS tiles, SLABS, 32, I/2].

    The tiles of a repeat come in the order (PAIR, WARPS) and their rows leave it in the order (WARPS, PAIR).
    """
    high = words >> 16
    r0 = tl.join(_minus_8(words, 0), _minus_8(high, 0))
    r1 = tl.join(_minus_8(words, 4), _minus_8(high, 4))
    r2 = tl.join(_minus_8(words, 8), _minus_8(high, 8))
    r3 = tl.join(_minus_8(words, 12), _minus_8(high, 12))
    nibbles = tl.join(tl.join(r0, r2), tl.join(r1, r3))  # the last three dimensions: p, r//2, r%2
    IN_WORDS: tl.constexpr = words.shape[3]
    split = tl.reshape(nibbles, (REPEATS, PAIR, WARPS, SLABS, 8, 4, IN_WORDS, 2, 2, 2))
    # repeat, warp, pair, lane//4 | slab, word, r//2, r%2, lane%4, p
    ordered = tl.permute(split, (0, 2, 1, 4, 3, 6, 8, 9, 5, 7))
    return tl.reshape(ordered, (REPEATS * PAIR * WARPS * 8, SLABS * 32 * IN_WORDS))


@triton.jit
def _scaled(codes, scales, rows, first_k, N, K, GROUP: tl.constexpr):
    """Return (q - 8) * scale + zero, float32, of codes [len(rows), columns] whose columns start at `first_k`."""
    ROWS: tl.constexpr = codes.shape[0]
    COLUMNS: tl.constexpr = codes.shape[1]
    GROUPS: tl.constexpr = max(1, COLUMNS // GROUP)
    first_group = first_k // GROUP
    groups = tl.arange(0, GROUPS)[None, :]
    inside = (rows[:, None] < N) & (groups < K // GROUP - first_group)
    pairs = tl.load(scales + first_group.to(tl.int64) * N + (groups * N + rows[:, None]), mask=inside, other=0)
    scale = (pairs << 16).to(tl.float32, bitcast=True)
    zero = (pairs & -65536).to(tl.float32, bitcast=True)
    grouped = tl.reshape(codes, (ROWS, GROUPS, COLUMNS // GROUPS))
    return tl.reshape(tl.fma(grouped, scale[:, :, None], zero[:, :, None]), (ROWS, COLUMNS))


@triton.jit
def _word_offsets(tiles, slabs, K, INNER_K_TILES: tl.constexpr):
    """Return the place of each word, int32 [tiles, slabs, 32, I/2]; a slab is the 16 I columns of a tile."""
    lanes = tl.arange(0, 32)[None, None, :, None]
    words = tl.arange(0, INNER_K_TILES // 2)[None, None, None, :]
    in_tile = (slabs[None, :, None, None] * 32 + lanes) * (INNER_K_TILES // 2) + words
    return tiles[:, None, None, None] * K + in_tile  # K codes of 8 rows fill K words


@triton.jit(do_not_specialize=["first_row", "row_count"])
def dequantize_kernel(
    packed,
    scales,
    out,
    first_row,
    row_count,
    N,
    K,
    GROUP: tl.constexpr,
    INNER_K_TILES: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Write weights [row_count, K] of the rows from `first_row` (a multiple of 8) to `out`, in its dtype."""
    SLABS: tl.constexpr = BLOCK_K // (16 * INNER_K_TILES)
    TILES: tl.constexpr = BLOCK_N // 8
    block_k, block_n = tl.program_id(0), tl.program_id(1)
    tiles, slabs = tl.arange(0, TILES), block_k * SLABS + tl.arange(0, SLABS)
    in_n = tiles[:, None, None, None] < row_count // 8 - block_n * TILES
    in_k = slabs[None, :, None, None] < K // (16 * INNER_K_TILES)
    first = packed + (first_row // 8 + block_n * TILES).to(tl.int64) * K
    words = tl.load(first + _word_offsets(tiles, slabs, K, INNER_K_TILES), mask=in_n & in_k, other=0)
    rows = block_n * BLOCK_N + tl.arange(0, BLOCK_N)
    columns = block_k * BLOCK_K + tl.arange(0, BLOCK_K)
    codes = _codes(words, TILES, 1, 1, SLABS)
    weights = _scaled(codes, scales, first_row + rows, block_k * BLOCK_K, N, K, GROUP)
    to = out + rows[:, None].to(tl.int64) * K + columns[None, :]
    tl.store(to, weights.to(out.dtype.element_ty), mask=(rows[:, None] < row_count) & (columns[None, :] < K))


@triton.jit
def _block_of(program, M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, TOGETHER: tl.constexpr):
    """Return (block of M, block of N): neighbours share a block of N, so that its codes are read once into the L2.

    At most TOGETHER blocks of M go round before N advances, so that their activations stay in the L2 as well.
    """
    blocks_m, blocks_n = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    first_m = program // (TOGETHER * blocks_n) * TOGETHER
    height = min(blocks_m - first_m, TOGETHER)
    within = program % (TOGETHER * blocks_n)
    return first_m + within % height, within // height


@triton.jit(do_not_specialize=["M", "STEPS"])
def fused_kernel(
    x,
    packed,
    scales,
    out,
    M,
    N,
    K,
    STEPS,
    GROUP: tl.constexpr,
    INNER_K_TILES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    WARPS: tl.constexpr,
    TOGETHER: tl.constexpr,
):
    """Write x [M, K] @ W^T to `out` [splits, M, N]; split s sums the STEPS blocks of K that start at s * STEPS.

    The product is taken as W @ x^T: the weights are made in registers, where Hopper's matrix unit takes them from. The
    tiles are loaded in such an order that each of the WARPS warps finds in its registers the rows that it multiplies.
    """
    SLABS: tl.constexpr = BLOCK_K // (16 * INNER_K_TILES)
    TILES: tl.constexpr = BLOCK_N // 8
    block_m, block_n = _block_of(tl.program_id(0), M, N, BLOCK_M, BLOCK_N, TOGETHER)
    split = tl.program_id(1)
    tile = tl.arange(0, TILES)
    tiles = tile // (2 * WARPS) * (2 * WARPS) + tile % WARPS * 2 + tile // WARPS % 2
    in_n = tiles[:, None, None, None] < N // 8 - block_n * TILES
    words_at = _word_offsets(tiles, tl.arange(0, SLABS), K, INNER_K_TILES)
    token = tl.arange(0, BLOCK_M)
    in_m = token[:, None] < M - block_m * BLOCK_M
    x_at = token[:, None] * K + tl.arange(0, BLOCK_K)[None, :]
    packed += (block_n * TILES).to(tl.int64) * K
    x += (block_m * BLOCK_M).to(tl.int64) * K
    rows = block_n * BLOCK_N + tl.arange(0, BLOCK_N)
    total = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for turn in range(0, STEPS):
        first_k = (split * STEPS + turn) * BLOCK_K
        words = tl.load(packed + first_k + words_at, mask=in_n, other=0)
        activations = tl.load(x + first_k + x_at, mask=in_m, other=0.0)
        codes = _codes(words, BLOCK_N // (16 * WARPS), 2, WARPS, SLABS)
        weights = _scaled(codes, scales, rows, first_k, N, K, GROUP).to(activations.dtype)
        total = tl.dot(weights, tl.trans(activations), total)
    tokens = block_m * BLOCK_M + token
    to = out + (split.to(tl.int64) * M + tokens[:, None]) * N + rows[None, :]
    tl.store(to, tl.trans(total).to(out.dtype.element_ty), mask=in_m & (rows[None, :] < N))


@triton.jit(do_not_specialize=["count"])
def sum_splits_kernel(partial, out, count, SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    """Write the sums over the first dimension of `partial` float32 [SPLITS, count] to `out`, always in that order."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    total = tl.zeros((BLOCK,), tl.float32)
    for split in range(0, SPLITS):
        total += tl.load(partial + split * count.to(tl.int64) + at, mask=inside, other=0.0)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=inside)
