"""The packer makes, byte for byte, what PyTorch's own packing op makes on the GPU."""

from __future__ import annotations

import pytest
import torch

from tests.oracles import random_weight
from workbench.layout import Layout
from workbench.packed import pack_weight
from workbench.packing import pack, unpack

INNER_K_TILES = [2, 4, 8]


def random_codes(n, k, device, seed=0):
    codes = torch.randint(0, 16, (n, k), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return codes.to(device)


def packed_by_the_op(codes, inner_k_tiles):
    """The op takes two codes to a byte, the even k in the high nibble."""
    pairs = (codes[:, 0::2] << 4) | codes[:, 1::2]
    return torch.ops.aten._convert_weight_to_int4pack(pairs.contiguous(), inner_k_tiles)


@pytest.mark.parametrize("inner_k_tiles", INNER_K_TILES)
@pytest.mark.parametrize("tiles", [(1, 1), (1, 3), (3, 1), (5, 7), (16, 2), (513, 1), (64, 32)])
def test_the_packer_equals_the_op(tiles, inner_k_tiles, gpu):
    codes = random_codes(8 * tiles[0], 16 * inner_k_tiles * tiles[1], gpu, seed=tiles[0])
    ours = pack(codes, Layout("cuda", inner_k_tiles))
    theirs = packed_by_the_op(codes, inner_k_tiles)
    assert ours.dtype == theirs.dtype == torch.int32 and ours.shape == theirs.shape
    assert torch.equal(ours, theirs)
    assert torch.equal(unpack(theirs, Layout("cuda", inner_k_tiles), *codes.shape), codes)


@pytest.mark.parametrize("inner_k_tiles", INNER_K_TILES)
def test_a_gpu_packs_as_a_cpu_does(inner_k_tiles, device):
    codes = random_codes(72, 1152, "cpu")
    layout = Layout("cuda", inner_k_tiles)
    on_device = pack(codes.to(device), layout)
    assert on_device.device.type == device and torch.equal(on_device.cpu(), pack(codes, layout))


@pytest.mark.parametrize("inner_k_tiles", INNER_K_TILES)
@pytest.mark.parametrize("group_size", [32, 64, 128, 256])
@pytest.mark.parametrize("shape", [(17, 333), (8, 32), (1, 1), (100, 300)])
def test_odd_shapes_are_padded_with_code_8(shape, group_size, inner_k_tiles, gpu):
    weight = random_weight(*shape, group_size)
    packed = pack_weight(weight, gpu, inner_k_tiles)
    assert packed.layout == Layout("cuda", inner_k_tiles)
    whole = torch.full(packed.padded, 8, dtype=torch.uint8, device=gpu)
    whole[: shape[0], : shape[1]] = weight.codes.to(gpu)
    assert torch.equal(packed.packed, packed_by_the_op(whole, inner_k_tiles))
    assert torch.equal(packed.codes().cpu(), weight.codes)
    assert torch.equal(packed.scale().cpu(), weight.scale) and torch.equal(packed.zero().cpu(), weight.zero)
