"""Rows of tiles dequantized by plain operations against an oracle, and everything that is no such weight refused."""

import pytest
import torch

from tests.oracles import oracle_weight, random_weight
from workbench import tiles
from workbench.errors import KernelError
from workbench.layout import Layout
from workbench.packing import pack
from workbench.tiles import check_rows, check_weight, dequantize_plain

LAYOUTS = [Layout(kind, inner) for kind in ("cuda", "rocm") for inner in (2, 4, 8)]


def packed_weight(n, k, group_size, layout, domain="float"):
    weight = random_weight(n, k, group_size, domain)
    zero = weight.zero_in_weight_units().to(torch.bfloat16)
    return weight, pack(weight.codes, layout), torch.stack((weight.scale.t(), zero.t()), dim=-1).contiguous()


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("group_size", [32, 64, 128, 256])
@pytest.mark.parametrize("domain", ["float", "int", "symmetric"])
def test_rows_are_exact(layout, group_size, domain):
    weight, packed, pairs = packed_weight(96, 256, group_size, layout, domain)
    assert check_weight(packed, pairs, group_size, layout) == (96, 256)
    exact = oracle_weight(weight)
    for start, rows in ((0, 96), (16, 48), (80, 16), (32, 0)):
        for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
            out = torch.full((rows, 256), float("nan"), dtype=dtype)
            assert dequantize_plain(packed, pairs, group_size, layout, start, out) is out
            assert torch.equal(out, exact[start : start + rows].float().to(dtype))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_large_range_is_worked_through_in_parts(layout, monkeypatch):
    weight, packed, pairs = packed_weight(96, 256, 64, layout)
    sizes = []
    real = tiles.unpack

    def seen(part, its_layout, n, k):
        sizes.append(n)
        return real(part, its_layout, n, k)

    monkeypatch.setattr(tiles, "unpack", seen)
    monkeypatch.setattr(tiles, "_WEIGHTS_AT_A_TIME", 40 * 256)
    out = dequantize_plain(packed, pairs, 64, layout, 0, torch.empty(96, 256))
    assert torch.equal(out, weight.dequantize())
    assert len(sizes) > 1 and max(sizes) <= 40 and sum(sizes) == 96


BAD = [
    ({"group_size": 48}, "group_size=48"),
    ({"scales_and_zeros": torch.zeros(2, 16, 2)}, "scales_and_zeros is torch.float32"),
    ({"scales_and_zeros": torch.zeros(2, 16).bfloat16()}, "scales_and_zeros is"),
    ({"scales_and_zeros": torch.zeros(2, 16, 3).bfloat16()}, "scales_and_zeros is"),
    ({"scales_and_zeros": torch.zeros(16, 2, 2).bfloat16().transpose(0, 1)}, "not contiguous"),
    ({"scales_and_zeros": torch.zeros(65).bfloat16()[1:].view(2, 16, 2)}, "middle of a word"),
    ({"scales_and_zeros": torch.zeros(0, 16, 2).bfloat16()}, "with elements"),
    ({"scales_and_zeros": torch.zeros(1, 16, 2).bfloat16()}, "K of 128"),
    ({"scales_and_zeros": torch.zeros(4, 16, 2).bfloat16()}, "packed is"),
    ({"scales_and_zeros": torch.zeros(2, 24, 2).bfloat16()}, "packed is"),
    ({"scales_and_zeros": torch.zeros(2, 12, 2).bfloat16()}, "N a multiple of 8"),
    ({"packed": torch.zeros(2, 1, 32, 4)}, "packed is torch.float32"),
    ({"packed": torch.zeros(2, 1, 32, 2, dtype=torch.int32)}, "packed is"),
    ({"packed": torch.zeros(4, 1, 32, 4, dtype=torch.int32)[::2]}, "not contiguous"),
    ({"packed": torch.zeros(2, 1, 32, 4, dtype=torch.int32, device="meta")}, "one device"),
    ({"layout": Layout("rocm", 4)}, "packed is"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_what_is_no_weight_in_tiles_is_refused(change, message):
    layout = Layout("cuda", 8)
    _, packed, pairs = packed_weight(16, 128, 64, layout)
    good = {"packed": packed, "scales_and_zeros": pairs, "group_size": 64, "layout": layout}
    check_weight(**good)
    with pytest.raises(KernelError, match=message):
        check_weight(**{**good, **change})


@pytest.mark.parametrize(("start", "rows"), [(4, 8), (0, 4), (8, 96), (-8, 8), (96, 8), (0, -8)])
def test_rows_that_are_no_tiles_are_refused(start, rows):
    check_rows(96, 0, 96, Layout("cuda", 8))
    with pytest.raises(KernelError, match=f"start={start}, rows={rows}.*multiples of 8, within 0 to 96"):
        check_rows(start, rows, 96, Layout("cuda", 8))
    with pytest.raises(KernelError, match="multiples of 16"):
        check_rows(8, 8, 96, Layout("rocm", 8))
