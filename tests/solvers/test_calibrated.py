"""The calibrated solver: plain error feedback as an oracle, and never worse than round-to-nearest on its statistics."""

from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.solvers.oracles import KINDS, MOMENTS, activations, adversarial, damped_upper, feedback, row_errors
from workbench.config import GROUP_SIZES, Int4WeightOnlyConfig
from workbench.errors import Cancelled, ConfigError, WeightError
from workbench.options import CalibratedOptions
from workbench.solvers import InputMoments, quantize_weight, solve
from workbench.solvers.geometry import geometry

DOMAINS = ["float", "int", "symmetric"]


def resolved(domain="float", group_size=32, solver="calibrated", preserve_zero=None, **options):
    config = Int4WeightOnlyConfig(group_size=group_size, preserve_zero=preserve_zero)
    options.setdefault("min_tokens", 1)
    given_options = CalibratedOptions(**options) if solver == "calibrated" else None
    return config.resolved(domain=domain, solver=solver, options=given_options)


def solved(weight, moments, *args, **settings):
    return solve(weight, resolved(*args, **settings), statistics=moments)


def moments_of(inputs):
    moments = InputMoments.empty(inputs.shape[1])
    moments.add(inputs)
    return moments


def moments(kind="correlated", width=96, tokens=400, seed=0):
    return moments_of(activations(kind, tokens, width, torch.Generator().manual_seed(seed)))


def weights(rows=24, columns=96, seed=1):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.02


def same(ours, theirs):
    zeros = ours.zero is theirs.zero is None or torch.equal(ours.zero, theirs.zero)
    return torch.equal(ours.codes, theirs.codes) and torch.equal(ours.scale, theirs.scale) and zeros


# --- never worse --------------------------------------------------------------------------------------------------


@settings(max_examples=120, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=5),
    inputs=st.sampled_from(MOMENTS),
    seed=st.integers(0, 2**31),
    domain=st.sampled_from(DOMAINS),
    preserve_zero=st.sampled_from([None, True, False]),
    group_size=st.sampled_from(GROUP_SIZES),
    columns=st.integers(1, 150),
    order=st.booleans(),
    sweeps=st.integers(0, 2),
    candidates=st.sampled_from([1, 4]),
)
def test_no_row_is_worse_than_round_to_nearest_on_its_statistics(
    kinds, inputs, seed, domain, preserve_zero, group_size, columns, order, sweeps, candidates
):
    generator = torch.Generator().manual_seed(seed)
    preserve_zero = None if domain == "symmetric" else preserve_zero
    weight = torch.stack([adversarial(kind, columns, generator) for kind in kinds])
    statistics = moments_of(activations(inputs, 160, columns, generator))
    options = {"activation_order": order, "sweeps": sweeps, "candidates": candidates}
    ours = solved(weight, statistics, domain, group_size, preserve_zero=preserve_zero, **options)
    nearest = solve(weight, resolved(domain, group_size, "rtn", preserve_zero))
    assert torch.isfinite(ours.weight.dequantize()).all() and torch.isfinite(ours.weight.scale).all()
    assert int(ours.weight.codes.max()) <= 15
    assert ours.weight.zero is None or domain == "float" or int(ours.weight.zero.max()) <= 15
    assert ours.solver == "calibrated" and all(value < float("inf") for value in ours.trace.values)
    mine = row_errors(weight, ours.weight.dequantize(), statistics.total)
    theirs = row_errors(weight, nearest.weight.dequantize(), statistics.total)
    assert torch.all(mine <= theirs), (kinds, inputs, mine, theirs)


@pytest.mark.parametrize("shape", [(0, 64), (1, 1), (5, 1), (1, 33), (7, 65), (3, 31), (130, 70), (2, 256)])
@pytest.mark.parametrize("domain", DOMAINS)
def test_shapes_that_do_not_divide(shape, domain):
    result = solved(weights(*shape), moments(width=shape[1]), domain)
    assert result.weight.shape == shape and result.weight.scale.shape == (shape[0], -(-shape[1] // 32))
    assert torch.isfinite(result.weight.dequantize()).all()


# --- the same every time ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", DOMAINS)
def test_twice_the_same_bits(domain):
    weight, statistics = weights(150, 200), moments(width=200)
    one, other = (solved(weight, statistics, domain, 64, candidates=4) for _ in range(2))
    assert same(one.weight, other.weight) and one.trace == other.trace


@pytest.mark.parametrize("domain", DOMAINS)
def test_rows_are_the_same_with_any_number_of_threads(monkeypatch, domain):
    """The factorization of the moments alone is shared by threads, and rounds by their number."""
    weight, statistics, before = weights(150, 200), moments(width=200), torch.get_num_threads()
    space = geometry(statistics.total, 64, 0.01, True)
    monkeypatch.setattr("workbench.solvers.calibrated.geometry", lambda *_: space)
    expected = solved(weight, statistics, domain, 64, candidates=4)
    try:
        for threads in (before, 1, 2, 3):
            torch.set_num_threads(threads)
            again = solved(weight, statistics, domain, 64, candidates=4)
            assert same(again.weight, expected.weight)
            assert again.trace == expected.trace
    finally:
        torch.set_num_threads(before)


def test_weight_and_statistics_are_left_alone():
    weight, statistics = torch.nn.Parameter(weights()), moments()
    before, total = weight.detach().clone(), statistics.total.clone()
    result = solved(weight, statistics)
    assert torch.equal(weight.detach(), before) and torch.equal(statistics.total, total)
    assert not result.weight.scale.requires_grad
    with torch.inference_mode():
        assert same(solved(weight.detach() * 1, statistics).weight, result.weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_are_solved_in_float32(dtype):
    weight, statistics = weights().to(dtype), moments()
    assert same(solved(weight, statistics).weight, solved(weight.float(), statistics).weight)


# --- against plain error feedback ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["correlated", "plain", "dead channels"])
@pytest.mark.parametrize("domain", DOMAINS)
def test_codes_are_those_of_plain_feedback_under_the_same_grids(domain, kind):
    weight, statistics = weights(12, 80), moments(kind, 80)
    result = solved(weight, statistics, domain, candidates=1, sweeps=0, activation_order=False).weight
    nearest = solve(weight, resolved(domain, solver="rtn")).weight
    upper = damped_upper(statistics.total, 0.01)
    compared = 0
    for row in range(len(weight)):
        if torch.equal(result.codes[row], nearest.codes[row]):
            continue  # a row that keeps round-to-nearest
        scale, zero = result.scale[row].double().tolist(), result.zero_in_weight_units()[row].double().tolist()
        unrounded = feedback(weight[row], scale, zero, 32, upper)
        for ours, exact in zip(result.codes[row].tolist(), unrounded, strict=True):
            compared += 1
            if ours != min(15, max(0, round(exact))):
                assert abs(abs(exact - int(exact)) - 0.5) < 2e-3, "a difference that is no tie"
                break  # what follows a tie depends on it
    assert compared > 0.8 * weight.numel()


@pytest.mark.parametrize("order", [False, True])
@pytest.mark.parametrize("domain", DOMAINS)
def test_candidates_and_sweeps_lower_the_error(domain, order):
    weight, statistics = weights(), moments()
    errors = []
    for candidates, sweeps in ((1, 0), (8, 0), (8, 1), (8, 3)):
        found = solved(weight, statistics, domain, candidates=candidates, sweeps=sweeps, activation_order=order)
        errors.append(float(row_errors(weight, found.weight.dequantize(), statistics.total).sum()))
    assert errors[0] > errors[1] > errors[2] > errors[3]


@pytest.mark.parametrize("domain", DOMAINS)
def test_far_better_than_refined_on_correlated_inputs(domain):
    weight, statistics = weights(), moments()
    refined = solve(weight, Int4WeightOnlyConfig(group_size=32).resolved(domain=domain, solver="refined")).weight
    mine = row_errors(weight, solved(weight, statistics, domain).weight.dequantize(), statistics.total)
    theirs = row_errors(weight, refined.dequantize(), statistics.total)
    assert float(mine.sum()) < 0.5 * float(theirs.sum())


def test_activation_order_helps_where_channels_differ_and_keeps_the_layout():
    inputs = activations("correlated", 400, 96, torch.Generator().manual_seed(0)) * torch.logspace(-1.5, 1, 96)
    weight, statistics = weights(64), moments_of(inputs)
    found = {order: solved(weight, statistics, sweeps=0, activation_order=order) for order in (False, True)}
    assert found[True].trace.error < found[False].trace.error
    assert (found[True].weight.dequantize() - weight).abs().max() < 0.05


@pytest.mark.parametrize("preserve_zero", [True, None])
def test_preserve_zero_keeps_zero_within_the_stored_grid(preserve_zero):
    weight = weights() + 0.05
    result = solved(weight, moments(), preserve_zero=preserve_zero).weight
    scale, zero = result.scale.double(), result.zero.double()
    inside = zero - 8 * scale <= 2.0**-7 * (zero.abs() + 8 * scale)
    assert bool(inside.all()) == bool(preserve_zero)


# --- trace and notes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sweeps", [0, 1, 3])
@pytest.mark.parametrize("domain", DOMAINS)
def test_the_trace_is_the_error_on_the_way(domain, sweeps):
    weight, statistics = weights(70), moments()
    result = solved(weight, statistics, domain, sweeps=sweeps)
    nearest = solve(weight, resolved(domain, solver="rtn")).weight
    values = result.trace.values
    assert result.trace.objective == "mean squared output error" and len(values) == 2 + sweeps
    assert list(values) == sorted(values, reverse=True)
    for value, found in ((values[0], nearest), (values[-1], result.weight)):
        exact = row_errors(weight, found.dequantize(), statistics.total).mean() / statistics.tokens
        assert value == pytest.approx(float(exact), rel=1e-3)
    assert 0 < result.trace.improved_groups <= result.trace.groups == 70 * 3
    assert result.solver == "calibrated" and result.weight.solved_by == "calibrated/2"


def test_ordinary_moments_need_no_note():
    assert solved(weights(), moments()).notes == ()


def test_growing_damping_is_told():
    result = solved(weights(), moments("equal channels"), damping=1e-9)
    said = [note for note in result.notes if "singular" in note]
    assert len(said) == 1 and "grew from 1e-09 to" in said[0]


def test_dead_channels_are_counted_and_keep_their_nearest_codes():
    inputs = activations("plain", 400, 96, torch.Generator().manual_seed(0))
    inputs[:, [3, 40, 41]] = 0
    weight = weights()
    result = solved(weight, moments_of(inputs))
    assert "3 of 96 input channels are always 0 on the calibration text" in result.notes
    error = (result.weight.dequantize() - weight).abs()[:, [3, 40, 41]]
    assert torch.all(error <= 1.01 * result.weight.scale.float()[:, [0, 1, 1]] * 2)


def test_rows_that_keep_round_to_nearest_are_counted():
    weight = weights(6)
    weight[2], weight[4] = 0.0, 1.0
    result = solved(weight, moments())
    assert any(note.startswith("2 of 6 rows keep round-to-nearest") for note in result.notes)
    assert result.trace.improved_groups == 4 * 3 and result.trace.groups == 6 * 3
    assert torch.equal(result.weight.dequantize()[[2, 4]], weight[[2, 4]])


# --- fall-backs and errors ----------------------------------------------------------------------------------------


def broken(value):
    statistics = moments()
    statistics.total[3, 5] = value
    return statistics


@pytest.mark.parametrize(
    ("statistics", "reason"),
    [
        (None, "no statistics of its input"),
        (InputMoments.empty(96), "0 tokens of the calibration text reached it, fewer than 128"),
        (moments(tokens=127), "127 tokens of the calibration text reached it, fewer than 128"),
        (broken(float("nan")), "hold NaN or infinity"),
        (broken(float("inf")), "hold NaN or infinity"),
        (moments_of(torch.zeros(200, 96)), "are all 0"),
    ],
)
def test_without_good_statistics_the_refined_solver_says_why_it_was_taken(statistics, reason):
    weight = weights()
    result = solved(weight, statistics, min_tokens=128)
    plain = solve(weight, Int4WeightOnlyConfig(group_size=32).resolved(solver="refined"))
    assert same(result.weight, plain.weight) and result.trace == plain.trace
    assert result.solver == "refined" and result.weight.solved_by == "refined/1"
    assert len(result.notes) == 1 and reason in result.notes[0]
    assert result.notes[0].startswith("solved with refined instead of calibrated: ")


def test_statistics_of_another_width_are_an_error():
    with pytest.raises(WeightError, match=r"\[64, 64\] for a weight of 96 columns.*collect them from the layer"):
        solved(weights(), moments(width=64))


def test_quantize_weight_takes_statistics_and_asks_for_them():
    weight, statistics, config = weights(), moments(), Int4WeightOnlyConfig(group_size=32)
    ours = quantize_weight(weight, config, solver="calibrated", statistics=statistics)
    assert same(ours, solved(weight, statistics, min_tokens=128).weight)
    with pytest.raises(ConfigError, match=r"without statistics.*use solver='refined'"):
        quantize_weight(weight, config, solver="calibrated")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_no_number_is_named(value):
    weight = weights()
    weight[7, 50] = value
    with pytest.raises(WeightError, match=r"q_proj\[7, 50\] is (nan|inf)"):
        solve(weight, resolved(), statistics=moments(), name="q_proj")


# --- cancel and progress ------------------------------------------------------------------------------------------


class CountedLooks(threading.Event):
    """An event that is set when it was looked at often enough."""

    def __init__(self, most):
        super().__init__()
        self.most = most

    def is_set(self):
        self.most -= 1
        return self.most < 0


@pytest.mark.parametrize("looks", [0, 1, 2, 5, 8])
def test_cancel_stops_between_groups(looks):
    with pytest.raises(Cancelled, match="q_proj was cancelled"):
        solve(weights(), resolved(sweeps=2), statistics=moments(), name="q_proj", cancel=CountedLooks(looks))


@pytest.mark.parametrize("rows", [1, 64, 65, 200])
def test_progress_grows_to_one(rows):
    shares = []
    solve(weights(rows), resolved(sweeps=0, candidates=1), statistics=moments(), progress=shares.append)
    assert shares == sorted(set(shares)) and shares[0] > 0 and shares[-1] == 1
