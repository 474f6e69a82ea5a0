"""Block sizes of the fused Triton kernel, by the shape of the product and the GPU: a table, no tuning at run time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

_LEAST_STEPS = 4  # blocks of K that a split sums at least, to fill its pipeline
_MOST_SPLITS = 16


@dataclass(frozen=True)
class Blocks:
    """Block sizes of the fused kernel.

    Attributes:
        m: Rows of x of one program: a power of two, 16 or more.
        n: Rows of the weight of one program: a power of two, 16 * warps or more.
        k: Columns of a step: a power of two, 16 * inner_k_tiles or more, dividing K.
        warps: Warps of a program, 4 or 8.
        stages: Steps whose loads are under way together.
        splits: Parts of K that programs of their own sum; it divides K / k.
    """

    m: int
    n: int
    k: int
    warps: int
    stages: int
    splits: int = 1


# Most rows of x → block sizes; 0 stands for more. Large ones need 227 KB of shared memory for a program and the matrix
# unit, both as Hopper has them; the others fit what every GPU with bfloat16 products has. None spills registers.
LARGE = {
    16: Blocks(16, 64, 128, 4, 4),
    32: Blocks(32, 128, 128, 8, 4),
    64: Blocks(64, 128, 128, 8, 4),
    128: Blocks(128, 128, 128, 8, 3),
    0: Blocks(256, 128, 128, 8, 3),
}
SMALL = {
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
    programs = -(-m // size.m) * -(-n // size.n)
    wanted = processors * (1.5 if size.m <= 64 else 0.75)
    possible = list(_splits(k // columns))
    splits = next((count for count in possible if programs * count >= wanted), possible[-1])
    return replace(size, k=columns, splits=splits)


def _splits(steps: int) -> Iterator[int]:
    """Yield the numbers of equal parts into which K can be split, ascending."""
    return (s for s in range(1, _MOST_SPLITS + 1) if s == 1 or (steps % s == 0 and steps // s >= _LEAST_STEPS))
