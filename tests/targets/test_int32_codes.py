"""Codes in int32 words against a loop over bits."""

from __future__ import annotations

import pytest
import torch

from workbench.targets.awq import ORDER
from workbench.targets.int32_codes import IN_ORDER, pack_int32, unpack_int32


def slow_pack(values, order):
    rows, columns = values.shape
    words = []
    for row in range(rows):
        words.append([])
        for first in range(0, columns, 8):
            word = 0
            for place, neighbour in enumerate(order):
                if first + neighbour < columns:
                    word |= int(values[row, first + neighbour]) << (4 * place)
            words[-1].append(word - 2**32 if word >= 2**31 else word)
    return torch.tensor(words, dtype=torch.int32)


@pytest.mark.parametrize("order", [IN_ORDER, ORDER], ids=str)
@pytest.mark.parametrize("shape", [(1, 8), (5, 16), (3, 13), (4, 1)])
def test_packing_is_that_of_the_loop_and_comes_back(shape, order):
    values = torch.randint(0, 16, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    words = pack_int32(values, order)
    assert torch.equal(words, slow_pack(values, order))
    assert torch.equal(unpack_int32(words, shape[1], order), values)


def test_words_need_not_be_contiguous():
    values = torch.randint(0, 16, (16, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    turned = pack_int32(values.t().contiguous()).t()
    assert torch.equal(unpack_int32(turned.t(), 16).t(), values)
