"""What all solvers share: bad weights, cancel, progress, shapes."""

from __future__ import annotations

import threading

import pytest
import torch

import workbench as wb
from workbench.errors import Cancelled, ConfigError, WeightError
from workbench.solvers import solve

CONFIG = wb.Int4WeightOnlyConfig(group_size=32)


@pytest.mark.parametrize("solver", ["rtn", "hqq"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [(0, 0), (5, 31), (9, 70)])
def test_nan_and_infinity_are_named_with_layer_and_position(monkeypatch, solver, bad, place):
    monkeypatch.setattr("workbench.solvers._BLOCK_WEIGHTS", {"cpu": 3 * 71})
    weight = torch.randn(10, 71)
    weight[place] = bad
    with pytest.raises(WeightError) as raised:
        solve(weight, CONFIG.resolved(solver=solver), name="model.layers.0.mlp.down_proj")
    assert str(raised.value).startswith(f"model.layers.0.mlp.down_proj[{place[0]}, {place[1]}] is {bad}.")
    assert "To mend it" in str(raised.value)


@pytest.mark.parametrize(
    "weight",
    [torch.randn(64), torch.randn(2, 3, 4), torch.zeros(4, 32, dtype=torch.int8), torch.zeros(2, 32).bool()],
)
def test_what_is_no_weight_is_refused(weight):
    with pytest.raises(WeightError, match="floating-point weight"):
        wb.quantize_weight(weight, CONFIG)


@pytest.mark.parametrize("shape", [(0, 64), (3, 0), (1, 1), (1, 33), (2, 31)])
@pytest.mark.parametrize("domain", ["float", "int", "symmetric"])
def test_shapes_that_do_not_divide(shape, domain):
    weight = torch.randn(shape)
    result = wb.quantize_weight(weight, CONFIG, domain=domain)
    assert result.shape == shape and result.scale.shape == (shape[0], -(-shape[1] // 32))
    assert torch.isfinite(result.dequantize()).all()


def test_cancel_stops_between_blocks(monkeypatch):
    monkeypatch.setattr("workbench.solvers._BLOCK_WEIGHTS", {"cpu": 32})
    cancel, done = threading.Event(), []

    def progress(share):
        done.append(share)
        if len(done) == 3:
            cancel.set()

    with pytest.raises(Cancelled, match="q_proj"):
        solve(torch.randn(10, 32), CONFIG.resolved(), name="q_proj", cancel=cancel, progress=progress)
    assert done == pytest.approx([0.1, 0.2, 0.3])


def test_the_weight_is_left_alone_and_needs_no_gradient():
    weight = torch.nn.Parameter(torch.randn(4, 64))
    before = weight.detach().clone()
    result = wb.quantize_weight(weight, CONFIG, solver="hqq")
    assert torch.equal(weight.detach(), before) and not result.scale.requires_grad


def test_a_view_that_is_not_contiguous():
    weight = torch.randn(64, 6).T
    assert torch.equal(wb.quantize_weight(weight, CONFIG).codes, wb.quantize_weight(weight.contiguous(), CONFIG).codes)


def test_the_solver_follows_use_hqq_unless_named():
    weight = torch.randn(8, 64)
    with_hqq = wb.Int4WeightOnlyConfig(group_size=32, use_hqq=True)
    named = wb.quantize_weight(weight, CONFIG, solver="hqq")
    assert torch.equal(wb.quantize_weight(weight, with_hqq).zero, named.zero)
    with pytest.raises(ConfigError, match="contradicts use_hqq=True"):
        wb.quantize_weight(weight, with_hqq, solver="rtn")


def test_statistics_are_refused_by_solvers_that_would_ignore_them():
    with pytest.raises(ConfigError, match="activation statistics"):
        wb.quantize_weight(torch.randn(2, 32), CONFIG, statistics=object())
