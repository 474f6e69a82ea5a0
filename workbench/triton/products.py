"""The Triton kernels that multiply: weights are dequantized in the registers from which the matrix unit takes them.

Products are taken as W @ x^T. See `workbench.triton.jit` for the layout and for how weights become bfloat16.
"""

from __future__ import annotations

import triton
import triton.language as tl

from workbench.triton.jit import pair_of_words, weights_of


@triton.jit
def _take_turn(EARLY: tl.constexpr):
    """Wait for the kernel before this one, and let the next be set up, which waits in its turn before it reads."""
    if EARLY:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()


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


@triton.jit
def _swapped(x, PARTS: tl.constexpr):
    """Return x [parts, tokens, columns] as [parts, columns, tokens], r%2 and lane%4 in each other's place."""
    TOKENS: tl.constexpr = x.shape[1]
    COLUMNS: tl.constexpr = x.shape[2]
    split = tl.reshape(x, (PARTS, TOKENS, COLUMNS // 16, 2, 4, 2))  # r%2, lane%4, p
    return tl.reshape(tl.permute(split, (0, 2, 4, 3, 5, 1)), (PARTS, COLUMNS, TOKENS))


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
    TOGETHER: tl.constexpr,
    SWAP: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Write x [M, K] @ W^T to `out` [splits, M, N]; split s sums the STEPS blocks of K that start at s * STEPS.

    With SWAP, r%2 and lane%4 change places in the order of K, in the weights and in x alike: so they fill the operands
    of mma.sync as Triton lays them out here, and no weight goes through shared memory. Hopper's unit needs no SWAP.
    """
    _take_turn(EARLY)
    SLABS: tl.constexpr = BLOCK_K // (16 * INNER_K_TILES)
    TILES: tl.constexpr = BLOCK_N // 8
    WORDS: tl.constexpr = INNER_K_TILES // 2
    GROUPS: tl.constexpr = max(1, BLOCK_K // GROUP)
    block_m, block_n = _block_of(tl.program_id(0), M, N, BLOCK_M, BLOCK_N, TOGETHER)
    split = tl.program_id(1)
    tiles, columns = tl.arange(0, TILES)[:, None], tl.arange(0, BLOCK_K)[None, :]
    token = tl.arange(0, BLOCK_M)[:, None]
    in_n, in_m = tiles < N // 8 - block_n * TILES, token < M - block_m * BLOCK_M
    words_at, x_at = tiles * K + columns, token * K + columns
    packed += (block_n * TILES).to(tl.int64) * K
    x += (block_m * BLOCK_M).to(tl.int64) * K
    rows = block_n * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    total = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for turn in range(0, STEPS):
        first_k = (split * STEPS + turn) * BLOCK_K
        words = tl.load(packed + first_k + words_at, mask=in_n, other=0)
        activations = tl.load(x + first_k + x_at, mask=in_m, other=0.0)
        group = first_k // GROUP + tl.arange(0, GROUPS)[:, None]
        pairs = tl.load(scales + group * N + rows, mask=rows < N, other=0)
        pairs = pair_of_words(tl.reshape(pairs, (1, GROUPS, BLOCK_N)), SLABS, WORDS)
        made = weights_of(tl.reshape(words, (TILES, SLABS, 32, WORDS)), tl.reshape(pairs, (TILES, SLABS, 32, WORDS)))
        made = tl.reshape(made, (TILES, SLABS, 8, 4, WORDS, 2, 2, 2))
        if SWAP:  # tile, lane//4 | slab, word, r//2, lane%4, r%2, p
            weights = tl.reshape(tl.permute(made, (0, 2, 1, 4, 6, 3, 7, 5)), (BLOCK_N, BLOCK_K))
            other = _swapped(tl.reshape(activations, (1, BLOCK_M, BLOCK_K)), 1)
            total = tl.dot(weights, tl.reshape(other, (BLOCK_K, BLOCK_M)), total)
        else:
            weights = tl.reshape(tl.permute(made, (0, 2, 1, 4, 6, 7, 3, 5)), (BLOCK_N, BLOCK_K))
            total = tl.dot(weights, tl.trans(activations), total)
    tokens = block_m * BLOCK_M + token
    to = out + (split.to(tl.int64) * M + tokens) * N + rows
    tl.store(to, tl.trans(total).to(out.dtype.element_ty), mask=in_m & (rows < N))


@triton.jit(do_not_specialize=["M", "STEPS"])
def few_rows_kernel(
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
    PARTS: tl.constexpr,
    WHOLE: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Write x [M, K] @ W^T to `out` [splits, M, N]; split s sums the STEPS steps of K that start at s * STEPS.

    A step is PARTS blocks of K, which the warps of a program share: each sums its own, and the sums of all are added
    at last, in a fixed order. So all of K goes through one program, and nothing is left for a second kernel. WHOLE says
    that no step ends beyond K. The order of K is that of SWAP in `fused_kernel`.
    """
    _take_turn(EARLY)
    SLABS: tl.constexpr = BLOCK_K // (16 * INNER_K_TILES)
    TILES: tl.constexpr = BLOCK_N // 8
    WORDS: tl.constexpr = INNER_K_TILES // 2
    GROUPS: tl.constexpr = max(1, BLOCK_K // GROUP)
    block_n, split, block_m = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    part = tl.arange(0, PARTS)[:, None, None] * BLOCK_K
    tiles, columns = tl.arange(0, TILES)[None, :, None], tl.arange(0, BLOCK_K)[None, None, :]
    token = tl.arange(0, BLOCK_M)
    words_at, x_at = tiles * K + part + columns, token[None, :, None] * K + part + columns
    packed += (block_n * TILES).to(tl.int64) * K
    x += (block_m * BLOCK_M).to(tl.int64) * K
    rows = block_n * BLOCK_N + tl.arange(0, BLOCK_N)
    total = tl.zeros((PARTS, BLOCK_N, BLOCK_M), tl.float32)
    for turn in range(0, STEPS):
        first_k = (split * STEPS + turn) * (PARTS * BLOCK_K)
        in_n, in_rows = tiles < N // 8 - block_n * TILES, rows[None, None, :] < N
        in_m = token[None, :, None] < M - block_m * BLOCK_M
        if not WHOLE:
            inside = first_k + part < K
            in_n, in_rows, in_m = in_n & inside, in_rows & inside, in_m & inside
        words = tl.load(packed + first_k + words_at, mask=in_n, other=0)
        activations = tl.load(x + first_k + x_at, mask=in_m, other=0.0)
        group = (first_k + part) // GROUP + tl.arange(0, GROUPS)[None, :, None]
        pairs = tl.load(scales + group * N + rows[None, None, :], mask=in_rows, other=0)
        pairs = pair_of_words(pairs, SLABS, WORDS)
        made = weights_of(tl.reshape(words, (PARTS, TILES, SLABS, 32, WORDS)), pairs)
        made = tl.reshape(made, (PARTS, TILES, SLABS, 8, 4, WORDS, 2, 2, 2))
        # part | tile, lane//4 | slab, word, r//2, lane%4, r%2, p
        weights = tl.reshape(tl.permute(made, (0, 1, 3, 2, 5, 7, 4, 8, 6)), (PARTS, BLOCK_N, BLOCK_K))
        total = tl.dot(weights, _swapped(activations, PARTS), total)
    tokens = block_m * BLOCK_M + token[:, None]
    to = out + (split.to(tl.int64) * M + tokens) * N + rows[None, :]
    summed = tl.trans(tl.sum(total, axis=0))
    tl.store(to, summed.to(out.dtype.element_ty), mask=(tokens < M) & (rows[None, :] < N))


@triton.jit(do_not_specialize=["count"])
def sum_splits_kernel(partial, out, count, SPLITS: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    """Write the sums over the first dimension of `partial` float32 [SPLITS, count] to `out`, always in that order."""
    _take_turn(EARLY)
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    total = tl.zeros((BLOCK,), tl.float32)
    for split in tl.static_range(0, SPLITS):
        total += tl.load(partial + split * count.to(tl.int64) + at, mask=inside, other=0.0)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=inside)
