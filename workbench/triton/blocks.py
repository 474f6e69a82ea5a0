"""Block sizes of the fused Triton kernels, by the shape of the product and the GPU: a table, no tuning at run time."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

_LEAST_STEPS = 4  # blocks of K that a split sums at least, to fill its pipeline
_GOOD_STEPS = 8  # as many, unless a GPU would be left without work
_MOST_SPLITS = 16
_LONG_K = 8192
_WHOLE_WAVES = 0.9  # share of the multiprocessors that the last programs should keep busy


@dataclass(frozen=True)
class Blocks:
    """Block sizes of the fused kernels.

    Attributes:
        m: Rows of x of one program: a power of two, 16 or more; 8 or more with several parts.
        n: Rows of the weight of one program: a power of two, 16 * warps or more; 16 or more with several parts.
        k: Columns of a block: a power of two, 16 * inner_k_tiles or more, dividing K.
        warps: Warps of a program, 4 or 8.
        stages: Steps whose loads are under way together.
        splits: Parts of K that programs of their own sum; it divides K / k.
        parts: Blocks of K that the warps of a program share in each step: 1, or a multiple of `warps`.
    """

    m: int
    n: int
    k: int
    warps: int
    stages: int
    splits: int = 1
    parts: int = 1


# Most rows of x → block sizes; 0 stands for more. Large ones need 227 KB of shared memory for a program and the matrix
# unit, both as Hopper has them, and were measured there (benchmarks/README.md); the others fit what every GPU
# with bfloat16 products has, and are estimates. None spills registers.
LARGE = {
    8: Blocks(8, 16, 128, 4, 4, parts=4),
    16: Blocks(16, 64, 128, 4, 4),
    32: Blocks(32, 128, 128, 8, 4),
    64: Blocks(64, 128, 128, 8, 4),
    128: Blocks(128, 128, 128, 8, 3),
    0: Blocks(256, 128, 128, 8, 3),
}
SMALL = {
    8: Blocks(8, 16, 128, 4, 4, parts=4),
    16: Blocks(16, 64, 128, 4, 4),
    32: Blocks(32, 128, 128, 8, 3),
    0: Blocks(64, 128, 128, 8, 2),
}


def choose_blocks(m: int, n: int, k: int, inner_k_tiles: int, *, processors: int, large: bool) -> Blocks:
    """Return the block sizes for x [m, k] and a weight [n, k].

    K is split where the blocks of M and N alone would leave multiprocessors without work.

    Args:
        m: Rows of x, 1 or more.
        n: Rows of the weight.
        k: Columns of both, a multiple of 16 * inner_k_tiles.
        inner_k_tiles: 2, 4 or 8.
        processors: Multiprocessors of the GPU.
        large: Whether its programs have 227 KB of shared memory, and Hopper's matrix unit.
    """
    table = LARGE if large else SMALL
    size = table[min((most for most in table if most >= m), default=0)]
    columns = size.k
    while k % columns:
        columns //= 2
    assert columns >= 16 * inner_k_tiles, "K is a multiple of a whole tile's columns"
    if size.parts > 1:  # a longer step has more independent sums, a shorter one leaves more of them for a short K
        longer = replace(size, parts=2 * size.parts, stages=3) if k >= _LONG_K else size
        return replace(longer, k=columns)
    programs = -(-m // size.m) * -(-n // size.n)
    return replace(size, k=columns, splits=_splits(k // columns, programs / processors, size.m))


def _splits(steps: int, share: float, block_m: int) -> int:
    """Return into how many equal parts the steps of K are split; `share` is programs for each multiprocessor.

    Blocks of few rows move data, and two programs for each multiprocessor hide one another's waits; they should fill
    whole waves. Blocks of many rows multiply, and one is enough.
    """
    possible = [s for s in range(1, _MOST_SPLITS + 1) if s == 1 or (steps % s == 0 and steps // s >= _LEAST_STEPS)]
    if block_m > 32:
        return next((s for s in possible if share * s >= 0.8), possible[-1])
    good = [s for s in possible if s == 1 or steps // s >= _GOOD_STEPS]
    if share * good[-1] < 0.95:
        return next((s for s in possible if share * s >= 0.95), possible[-1])
    enough = [s for s in good if share * s >= 1.9]
    whole = (s for s in enough if share * s / math.ceil(share * s) >= _WHOLE_WAVES)
    return next(whole, enough[0] if enough else good[-1])
