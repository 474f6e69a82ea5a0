"""Triton over the CUDA tile layout: weights out of words, and the kernel that dequantizes rows of a weight.

Only `workbench.triton.launch` imports this module and `workbench.triton.products`, where Triton is.

The tile layout is that of `workbench.packing`: int32 [N/8, K/(16 I), 32 lanes, I/2 words], I = inner_k_tiles, where
nibble 4p + r of a word holds the code of n = 8 tile + lane//4, k = 16 I ktile + 32 word + 8 r + 2 (lane%4) + p. The
words of 8 rows lie in one piece, as many as K. Scales and zeros come as int32 [K/group, N]: a bfloat16 pair in one
word, the scale in its low half.

Dequantized weights are (q - 8) * scale + zero in float32, rounded once. Products take them from one fused multiply-add
in bfloat16, also rounded once: q - 8 and its product with a bfloat16 scale are exact.
Triton reads the annotations of parameters, so that only constants have one.
"""

from __future__ import annotations

import triton
import triton.language as tl

# For r = 0 to 3: the nibbles r and 4 + r of the word $8 into the mantissas of two times 128, where their lowest bit
# counts 1; minus 136; times the scale plus the zero of the word $9. Outputs: p = 0 and 1 for each r.
_START = """{
    .reg .b32 scale, zero, one, minus, word, pair;
    prmt.b32 scale, $9, 0, 0x1010;
    prmt.b32 zero, $9, 0, 0x3232;
    mov.b32 one, 0x3f803f80;
    mov.b32 minus, 0xc308c308;
"""
_PAIR = """
    shr.u32 word, $8, {shift};
    lop3.b32 pair, word, 0x000f000f, 0x43004300, 0xea;
    fma.rn.bf16x2 pair, pair, one, minus;
    fma.rn.bf16x2 pair, pair, scale, zero;
    mov.b32 {{${low}, ${high}}}, pair;
"""
_DEQUANTIZE = tl.constexpr(
    _START + "".join(_PAIR.format(shift=4 * r, low=2 * r, high=2 * r + 1) for r in range(4)) + "}"
)
_REGISTERS = tl.constexpr("=h,=h,=h,=h,=h,=h,=h,=h,r,r")


@triton.jit
def weights_of(words, pairs):
    """Return bfloat16 [..., p, r//2, r%2] of words [...] and the pair of each, of one shape."""
    q00, q01, q10, q11, q20, q21, q30, q31 = tl.inline_asm_elementwise(
        _DEQUANTIZE,
        _REGISTERS,
        [words, pairs],
        dtype=(
            tl.bfloat16,
            tl.bfloat16,
            tl.bfloat16,
            tl.bfloat16,
            tl.bfloat16,
            tl.bfloat16,
            tl.bfloat16,
            tl.bfloat16,
        ),
        is_pure=True,
        pack=1,
    )
    return tl.join(
        tl.join(tl.join(q00, q01), tl.join(q20, q21)),
        tl.join(tl.join(q10, q11), tl.join(q30, q31)),
    )


@triton.jit
def pair_of_words(pairs, SLABS: tl.constexpr, WORDS: tl.constexpr):
    """Return the pair of each word, int32 [parts, tiles, SLABS, 32, WORDS], of pairs [parts, groups, 8 tiles]."""
    PARTS: tl.constexpr = pairs.shape[0]
    TILES: tl.constexpr = pairs.shape[2] // 8
    IN_SLAB: tl.constexpr = max(1, pairs.shape[1] // SLABS)  # groups
    SLABS_OF: tl.constexpr = pairs.shape[1] // IN_SLAB
    split = tl.reshape(pairs, (PARTS, SLABS_OF, IN_SLAB, TILES, 8))
    ordered = tl.reshape(tl.permute(split, (0, 3, 1, 4, 2)), (PARTS, TILES, SLABS_OF, 1, 8, 1, IN_SLAB, 1))
    wide = tl.broadcast_to(ordered, (PARTS, TILES, SLABS_OF, SLABS // SLABS_OF, 8, 4, IN_SLAB, WORDS // IN_SLAB))
    return tl.reshape(wide, (PARTS, TILES, SLABS, 32, WORDS))


@triton.jit
def _minus_8(words, SHIFT: tl.constexpr):
    """Return q - 8 of the nibble at bit SHIFT (16 or less), float32, without a conversion from integers.

    The nibble goes into the mantissa of 2^(23-SHIFT), where its lowest bit counts 1.
    """
    bits = (words & (15 << SHIFT)) | ((150 - SHIFT) << 23)
    return bits.to(tl.float32, bitcast=True) - (2.0 ** (23 - SHIFT) + 8.0)


@triton.jit
def _codes(words):
    """Return q - 8 in rows and columns, float32 [8 tiles, 32 * I/2 * slabs], of words [tiles, slabs, 32, I/2]."""
    TILES: tl.constexpr = words.shape[0]
    SLABS: tl.constexpr = words.shape[1]
    WORDS: tl.constexpr = words.shape[3]
    high = words >> 16
    r0 = tl.join(_minus_8(words, 0), _minus_8(high, 0))
    r1 = tl.join(_minus_8(words, 4), _minus_8(high, 4))
    r2 = tl.join(_minus_8(words, 8), _minus_8(high, 8))
    r3 = tl.join(_minus_8(words, 12), _minus_8(high, 12))
    nibbles = tl.join(tl.join(r0, r2), tl.join(r1, r3))  # the last three dimensions: p, r//2, r%2
    split = tl.reshape(nibbles, (TILES, SLABS, 8, 4, WORDS, 2, 2, 2))
    ordered = tl.permute(split, (0, 2, 1, 4, 6, 7, 3, 5))  # tile, lane//4 | slab, word, r//2, r%2, lane%4, p
    return tl.reshape(ordered, (TILES * 8, SLABS * 32 * WORDS))


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
    TILES: tl.constexpr = BLOCK_N // 8
    block_k, block_n = tl.program_id(0), tl.program_id(1)
    tiles, columns = tl.arange(0, TILES)[:, None], block_k * BLOCK_K + tl.arange(0, BLOCK_K)[None, :]
    inside = (tiles < row_count // 8 - block_n * TILES) & (columns < K)
    first = packed + (first_row // 8 + block_n * TILES).to(tl.int64) * K
    words = tl.load(first + tiles * K + columns, mask=inside, other=0)
    rows = block_n * BLOCK_N + tl.arange(0, BLOCK_N)
    slabs = tl.reshape(words, (TILES, BLOCK_K // (16 * INNER_K_TILES), 32, INNER_K_TILES // 2))
    weights = _scaled(_codes(slabs), scales, first_row + rows, block_k * BLOCK_K, N, K, GROUP)
    to = out + rows[:, None].to(tl.int64) * K + columns
    tl.store(to, weights.to(out.dtype.element_ty), mask=(rows[:, None] < row_count) & (columns < K))
