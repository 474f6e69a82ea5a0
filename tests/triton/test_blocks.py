"""Block sizes: every shape gets some that divide it, and enough programs for the GPU where K can be split."""

import itertools

import pytest

from workbench.triton.blocks import LARGE, SMALL, choose_blocks

SHAPES = [(4096, 14336), (14336, 4096), (4096, 4096), (1024, 4096), (8, 32), (200, 96), (128256, 8192), (24, 384)]


@pytest.mark.parametrize("large", [True, False])
@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_sizes_divide_the_weight(n, k, large):
    for m, tiles in itertools.product((1, 15, 16, 17, 64, 65, 128, 129, 4096), (2, 4, 8)):
        if k % (16 * tiles):
            continue
        size = choose_blocks(m, n, k, tiles, processors=132, large=large)
        assert k % size.k == 0 and (k // size.k) % size.splits == 0
        assert size.k >= 16 * tiles and size.k % (16 * tiles) == 0
        assert size.splits == 1 or k // size.k // size.splits >= 4
        for side in (size.m, size.n, size.k):
            assert side & (side - 1) == 0


@pytest.mark.parametrize("table", [LARGE, SMALL])
def test_the_tables_hold_what_the_kernel_asks(table):
    assert 0 in table
    for most, size in table.items():
        assert size.m >= (16 if size.parts == 1 else 8) and size.warps in (4, 8)
        assert size.n % (16 * size.warps if size.parts == 1 else 16) == 0
        assert size.parts == 1 or size.parts % size.warps == 0
        assert size.splits == 1 and (most == 0 or size.m >= most)


def test_rows_choose_the_block():
    def height(m, large=True):
        return choose_blocks(m, 4096, 4096, 8, processors=132, large=large).m

    rows = (1, 8, 9, 16, 17, 32, 33, 64, 65, 128, 129, 9999)
    assert [height(m) for m in rows] == [8, 8, 16, 16, 32, 32, 64, 64, 128, 128, 256, 256]
    assert [height(m, large=False) for m in (8, 16, 17, 33, 9999)] == [8, 16, 32, 64, 64]


def test_k_is_split_until_the_gpu_is_full():
    few = choose_blocks(16, 4096, 14336, 8, processors=132, large=True)
    assert (4096 // few.n) * few.splits >= 1.5 * 132
    assert choose_blocks(2048, 4096, 14336, 8, processors=132, large=True).splits == 1
    assert choose_blocks(1, 8, 32, 2, processors=132, large=True).splits == 1
    assert choose_blocks(1, 8, 512, 8, processors=132, large=True).splits == 1
    assert choose_blocks(9, 64, 4096, 8, processors=132, large=True).splits == 8


@pytest.mark.parametrize(
    ("m", "n", "k", "splits"),
    [
        *((16, 4096, 14336, 4), (16, 4096, 4096, 4), (16, 14336, 4096, 4), (16, 1024, 4096, 8)),
        *((32, 4096, 14336, 8), (32, 4096, 4096, 4), (32, 14336, 4096, 4)),
        *((64, 4096, 14336, 4), (64, 14336, 4096, 1), (64, 1024, 4096, 8)),
        *((128, 4096, 14336, 4), (512, 4096, 14336, 2), (1024, 4096, 14336, 1)),
    ],
)
def test_the_splits_that_were_fastest_on_an_h200(m, n, k, splits):
    assert choose_blocks(m, n, k, 8, processors=132, large=True).splits == splits


def test_the_warps_of_a_program_share_k_where_rows_are_few():
    short, long = (choose_blocks(3, 4096, k, 8, processors=132, large=True) for k in (4096, 14336))
    assert (short.parts, long.parts) == (4, 8) and short.splits == long.splits == 1
