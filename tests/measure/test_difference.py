"""Pictures of two ways of storing a weight: one scale, one grid, and a difference that is that of the values."""

from __future__ import annotations

import pytest
import torch

from tests.measure.test_error_map import decoded
from tests.measure.weights import quantized, some_weight
from workbench.measure.difference import pair_of_maps
from workbench.measure.error_map import METRICS, map_values


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("sizes", [(64, 64), (32, 128), (256, 64)])
def test_each_cell_is_the_value_on_the_finer_grid(metric, sizes):
    weight = some_weight(12, 300)
    a, b = quantized(weight, "float", sizes[0]), quantized(weight, "int", sizes[1])
    pair = pair_of_maps(weight, a, b, metric)
    assert pair.group_size == min(sizes)
    values = [map_values(weight, one, metric, min(sizes)) for one in (a, b)]
    assert (pair.a.lo, pair.a.hi, pair.a.log) == (pair.b.lo, pair.b.hi, pair.b.log)
    shapes = {(one.rows, one.cols) for one in (pair.a, pair.b, pair.difference)}
    assert shapes == {tuple(values[0].shape)}
    wanted = (values[1] - values[0]).double()
    step = (pair.difference.hi - pair.difference.lo) / 255
    assert torch.allclose(decoded(pair.difference), wanted, atol=0.51 * step)
    assert pair.difference.lo == -pair.difference.hi and not pair.difference.log
    for picture, value in zip((pair.a, pair.b), values, strict=True):
        ratio = (pair.a.hi / pair.a.lo) ** (1 / 255) if pair.a.log else 0.0
        floor = value.double().clamp(min=pair.a.lo)
        close = decoded(picture) / floor if pair.a.log else (decoded(picture) - value.double()).abs()
        assert close.max() <= (ratio if pair.a.log else 0.51 * (pair.a.hi - pair.a.lo) / 255)


@pytest.mark.parametrize("metric", ["rmse", "sqnr"])
def test_reduced_differences_keep_what_is_farthest_from_zero(metric):
    weight = some_weight(40, 320)
    a, b = quantized(weight, "float", 32), quantized(weight, "symmetric", 32)
    pair = pair_of_maps(weight, a, b, metric, max_side=5)
    values = map_values(weight, b, metric) - map_values(weight, a, metric)
    for i in range(5):
        for j in range(5):
            block = values[8 * i : 8 * i + 8, 2 * j : 2 * j + 2].flatten().tolist()
            step = (pair.difference.hi - pair.difference.lo) / 255
            assert float(decoded(pair.difference)[i, j]) == pytest.approx(max(block, key=abs), abs=0.51 * step)


def test_the_same_twice_differs_by_nothing():
    weight = some_weight(4, 64)
    stored = quantized(weight)
    pair = pair_of_maps(weight, stored, stored)
    assert pair.a == pair.b
    assert decoded(pair.difference).abs().max() < 0.51 * (pair.difference.hi - pair.difference.lo) / 255
