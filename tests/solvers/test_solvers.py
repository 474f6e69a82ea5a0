"""What all solvers share: bad weights, cancel, progress, shapes."""

from __future__ import annotations

import threading

import pytest
import torch

import workbench as wb
from workbench.errors import Cancelled, ConfigError, WeightError
from workbench.solvers import InputMoments, solve

CONFIG = wb.Int4WeightOnlyConfig(group_size=32)


@pytest.mark.parametrize("solver", ["rtn", "hqq"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [(0, 0), (5, 31), (9, 70)])
def test_nan_and_infinity_are_named_with_layer_and_position(monkeypatch, solver, bad, place):
    monkeypatch.setattr("workbench.solvers.data_free._BLOCK_WEIGHTS", {"cpu": 3 * 71})
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


def test_a_weight_without_values_is_refused():
    with pytest.raises(WeightError, match=r"q_proj is on the meta device.*load the model's weights first"):
        solve(torch.empty(4, 64, device="meta"), CONFIG.resolved(), name="q_proj")


@pytest.mark.parametrize("shape", [(0, 64), (3, 0), (1, 1), (1, 33), (2, 31)])
@pytest.mark.parametrize("domain", ["float", "int", "symmetric"])
def test_shapes_that_do_not_divide(shape, domain):
    weight = torch.randn(shape)
    result = wb.quantize_weight(weight, CONFIG, domain=domain)
    assert result.shape == shape and result.scale.shape == (shape[0], -(-shape[1] // 32))
    assert torch.isfinite(result.dequantize()).all()


def test_cancel_stops_between_blocks(monkeypatch):
    monkeypatch.setattr("workbench.solvers.data_free._BLOCK_WEIGHTS", {"cpu": 32})
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


SETTLED = [(solver, domain) for solver in ("rtn", "hqq") for domain in ("float", "int")] + [("rtn", "symmetric")]


def same(ours, theirs):
    zeros = ours.zero is theirs.zero is None or torch.equal(ours.zero, theirs.zero)
    return torch.equal(ours.codes, theirs.codes) and torch.equal(ours.scale, theirs.scale) and zeros


@pytest.mark.parametrize(("solver", "domain"), SETTLED)
def test_thread_counts_change_nothing_that_is_stored(monkeypatch, solver, domain):
    monkeypatch.setattr("workbench.solvers.data_free._LEAST_WEIGHTS", 1)
    monkeypatch.setattr("workbench.solvers.data_free._BLOCK_WEIGHTS", {"cpu": 7 * 300})
    weight, config = torch.randn(101, 300) * 0.02, CONFIG.resolved(solver=solver, domain=domain)
    results, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            results.append(solve(weight, config))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert same(result.weight, results[0].weight)
        assert result.trace.values == pytest.approx(results[0].trace.values, rel=1e-9)
        assert result.trace.improved_groups == results[0].trace.improved_groups


@pytest.mark.parametrize(("solver", "domain"), SETTLED)
@pytest.mark.parametrize(
    "view",
    [
        lambda w: w.t().contiguous().t(),  # columns first
        lambda w: torch.stack((w, -w), 2)[:, :, 0],  # every second element of a larger tensor
        lambda w: torch.nn.functional.pad(w, (3, 5, 2, 2))[2:-2, 3:-5],  # a window
        lambda w: w.clone().requires_grad_(),
        lambda w: w.double(),
    ],
)
def test_only_the_values_of_a_weight_matter(view, solver, domain):
    weight, config = torch.randn(9, 100).bfloat16().float(), CONFIG.resolved(solver=solver, domain=domain)
    expected = solve(weight, config).weight
    assert same(solve(view(weight), config).weight, expected)
    assert same(solve(view(weight.bfloat16()), config).weight, expected)


@pytest.mark.parametrize(("solver", "domain"), SETTLED)
def test_one_long_row_is_solved_like_its_pieces(monkeypatch, solver, domain):
    """K beyond the weights of a block: still one row at a time, whatever its length."""
    monkeypatch.setattr("workbench.solvers.data_free._BLOCK_WEIGHTS", {"cpu": 1000})
    weight, config = torch.randn(1, 32 * 4000 + 5) * 0.02, CONFIG.resolved(solver=solver, domain=domain)
    whole = solve(weight, config).weight
    for start in (0, 32 * 1234, 32 * 3999):
        piece = solve(weight[:, start : start + 64], config).weight
        assert torch.equal(piece.codes, whole.codes[:, start : start + 64])
        assert torch.equal(piece.scale, whole.scale[:, start // 32 : start // 32 + 2])


@pytest.mark.parametrize("rows", [1, 2, 7, 64])
@pytest.mark.parametrize("rows_at_a_time", [1, 3, 1000])
def test_progress_grows_to_one(monkeypatch, rows, rows_at_a_time):
    monkeypatch.setattr("workbench.solvers.data_free._BLOCK_WEIGHTS", {"cpu": rows_at_a_time * 40})
    shares = []
    solve(torch.randn(rows, 40), CONFIG.resolved(solver="hqq"), progress=shares.append)
    assert shares == sorted(set(shares)) and shares[0] > 0 and shares[-1] == 1


def test_cancel_before_the_start_solves_nothing():
    cancel, shares = threading.Event(), []
    cancel.set()
    with pytest.raises(Cancelled):
        solve(torch.randn(4, 32), CONFIG.resolved(), cancel=cancel, progress=shares.append)
    assert shares == []


def test_solving_works_in_inference_mode_and_on_several_threads_at_once():
    weight, config = torch.randn(64, 96), CONFIG.resolved(solver="hqq")
    expected = solve(weight, config).weight
    with torch.inference_mode():
        assert same(solve(weight * 1, config).weight, expected)
    found = []
    callers = [threading.Thread(target=lambda: found.append(solve(weight, config).weight)) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(found) == 4 and all(same(result, expected) for result in found)


def test_the_solver_follows_use_hqq_unless_named():
    weight = torch.randn(8, 64)
    with_hqq = wb.Int4WeightOnlyConfig(group_size=32, use_hqq=True)
    named = wb.quantize_weight(weight, CONFIG, solver="hqq")
    assert torch.equal(wb.quantize_weight(weight, with_hqq).zero, named.zero)
    with pytest.raises(ConfigError, match="contradicts use_hqq=True"):
        wb.quantize_weight(weight, with_hqq, solver="rtn")


def test_statistics_are_refused_by_solvers_that_would_ignore_them():
    with pytest.raises(ConfigError, match="looks at the weight alone"):
        wb.quantize_weight(torch.randn(2, 32), CONFIG, statistics=InputMoments.empty(32))
