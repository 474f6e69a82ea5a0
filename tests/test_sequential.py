"""Layers solved in the order of the model: each sees exactly the inputs of a model that is quantized upstream."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
import torch
from torch import nn

import workbench as wb
from tests.calibrated_models import HAND_MADE, hand_made, inputs_of, run, sequential_inputs
from tests.tiny_models import make
from workbench.calibration import Calibration
from workbench.errors import Cancelled, ConfigError, ModelError
from workbench.sequential import iter_sequential
from workbench.solvers import InputMoments, quantize_weight

G32 = wb.Int4WeightOnlyConfig(group_size=32)
FAMILIES = [*HAND_MADE, "llama_odd", "qwen2", "opt", "t5"]


@pytest.fixture(autouse=True)
def several_batches(monkeypatch):
    monkeypatch.setattr("workbench.calibration._BATCH_TOKENS", {"cpu": 100})


def model_named(name):
    return hand_made(name) if name in HAND_MADE else make(name)


def linears(model):
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]


def text(sequences=8, length=32, memory_limit=None, seed=0):
    ids = torch.randint(2, 97, (sequences, length), generator=torch.Generator().manual_seed(seed))
    return Calibration(ids, memory_limit=memory_limit)


class Rounding:
    """A solver that rounds and remembers what it was asked."""

    def __init__(self, model, then=None):
        self.model, self.then = model, then
        self.moments, self.weights, self.order = {}, {}, []

    def __call__(self, name, moments):
        self.order.append(name)
        self.moments[name] = moments
        if self.then is not None:
            self.then(name)
        solved = quantize_weight(self.model.get_submodule(name).weight, G32)
        self.weights[name] = solved.dequantize()
        return solved


def sequential(model, calibration, names=None, needs=None, then=None, **more):
    names = linears(model) if names is None else names
    solver = Rounding(model, then)
    needs = dict.fromkeys(names, True) if needs is None else needs
    assert list(iter_sequential(model, names, needs, calibration, solver, **more)) == solver.order
    return solver


def snapshot(model):
    """All of a model that could have been changed."""
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modules = [
        (name, module.training, "forward" in vars(module), len(module._forward_pre_hooks), len(module._forward_hooks))
        for name, module in model.named_modules()
    ]
    return weights, modules


def assert_same_snapshot(one, other):
    assert one[1] == other[1]
    assert list(one[0]) == list(other[0]) and all(torch.equal(one[0][name], other[0][name]) for name in one[0])


@pytest.mark.parametrize("name", FAMILIES)
def test_each_layer_sees_a_model_that_is_quantized_upstream(name):
    model, calibration = model_named(name), text()
    before = snapshot(model)
    solver = sequential(model, calibration)
    assert_same_snapshot(snapshot(model), before)
    assert sorted(solver.order) == sorted(linears(model))
    expected = sequential_inputs(model, linears(model), solver.weights, calibration.ids)
    for layer, inputs in expected.items():
        moments = solver.moments[layer]
        assert moments.tokens == len(inputs), layer
        exact = inputs.t() @ inputs
        worst = float((moments.total.double() - exact).abs().max() / exact.diagonal().max())
        assert worst < 2e-4, (layer, worst)


@pytest.mark.parametrize("name", FAMILIES)
def test_upstream_matters(name):
    """The check above would see it if layers got the inputs of the dense model."""
    model, calibration = model_named(name), text()
    solver = sequential(model, calibration)
    dense = inputs_of(model, linears(model), calibration.ids)
    last = list(dense)[-1]
    exact = dense[last].t() @ dense[last]
    difference = (solver.moments[last].total.double() - exact).abs().max() / exact.diagonal().max()
    assert float(difference) > 1e-3


def test_layers_with_the_same_input_share_their_moments():
    solver = sequential(make("llama_odd"), text())
    prefix = "model.layers.0.self_attn"
    assert solver.moments[f"{prefix}.q_proj"] is solver.moments[f"{prefix}.v_proj"]
    assert solver.moments["model.layers.0.mlp.up_proj"] is solver.moments["model.layers.0.mlp.gate_proj"]
    assert solver.moments[f"{prefix}.q_proj"] is not solver.moments[f"{prefix}.o_proj"]
    assert solver.moments[f"{prefix}.q_proj"] is not solver.moments["model.layers.1.self_attn.q_proj"]


@pytest.mark.parametrize("name", ["llama_odd", "swapped", "mixture", "loose"])
def test_layers_without_moments_are_quantized_upstream_all_the_same(name):
    model, calibration = model_named(name), text()
    names = linears(model)
    needs = {layer: number % 2 == 1 for number, layer in enumerate(names)}
    solver = sequential(model, calibration, needs=needs)
    assert all((solver.moments[layer] is not None) == needs[layer] for layer in names)
    expected = sequential_inputs(model, names, solver.weights, calibration.ids)
    for layer in names:
        if needs[layer]:
            exact = expected[layer].t() @ expected[layer]
            torch.testing.assert_close(solver.moments[layer].total.double(), exact, rtol=0, atol=2e-4 * exact.max())


def test_layers_that_are_left_dense_stay_so():
    model, calibration = make("llama_odd"), text()
    names = [name for name in linears(model) if "layers.1.mlp" in name or "layers.0.self_attn" in name]
    solver = sequential(model, calibration, names)
    expected = sequential_inputs(model, names, solver.weights, calibration.ids)
    for layer in names:
        exact = expected[layer].t() @ expected[layer]
        torch.testing.assert_close(solver.moments[layer].total.double(), exact, rtol=0, atol=2e-4 * exact.max())


def test_experts_that_the_text_does_not_reach_have_no_tokens():
    model, calibration = hand_made("mixture", starve=True), text()
    names = [name for name in linears(model) if "router" not in name]
    solver = sequential(model, calibration, names)
    assert sorted(solver.order) == sorted(names)
    reached = inputs_of(model, names, calibration.ids)
    assert "layers.0.experts.3.w1" not in reached
    assert solver.moments["layers.0.experts.3.w1"].tokens == solver.moments["layers.1.experts.3.w2"].tokens == 0
    assert solver.moments["layers.0.experts.1.w1"].tokens == len(reached["layers.0.experts.1.w1"])


# --- the model stays as it was ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama_odd", "mixture", "between", "loose"])
def test_training_flags_and_own_forwards_come_back(name):
    model = model_named(name).train()
    model.get_submodule(linears(model)[0]).eval()
    own = model.get_submodule(linears(model)[1])
    own.forward = own.forward
    mine, before = own.forward, snapshot(model)
    sequential(model, text(4))
    assert_same_snapshot(snapshot(model), before)
    assert own.forward is mine


@pytest.mark.parametrize("after", [0, 1, 5, 9])
def test_cancelled_the_model_is_as_before(after):
    model, cancel, solved = make("llama_odd"), threading.Event(), []
    before = snapshot(model)

    def count(name):
        solved.append(name)
        if len(solved) == after:
            cancel.set()

    if after == 0:
        cancel.set()
    with pytest.raises(Cancelled, match="cancelled"):
        sequential(model, text(4), then=count, cancel=cancel)
    assert len(solved) < 14
    assert_same_snapshot(snapshot(model), before)


@pytest.mark.parametrize("name", ["llama_odd", "mixture", "loose"])
@pytest.mark.parametrize("after", [1, 4])
def test_after_an_error_the_model_is_as_before(name, after):
    model, solved = model_named(name), []
    before = snapshot(model)

    def fail(name):
        solved.append(name)
        if len(solved) == after:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        sequential(model, text(4), then=fail)
    assert_same_snapshot(snapshot(model), before)


def test_a_run_that_is_let_go_leaves_the_model_as_before():
    model = make("llama_odd")
    before = snapshot(model)
    names = linears(model)
    steps = iter_sequential(model, names, dict.fromkeys(names, True), text(4), Rounding(model))
    next(steps), next(steps)
    steps.close()
    assert_same_snapshot(snapshot(model), before)


@pytest.mark.parametrize("name", ["llama_odd", "mixture", "loose", "t5"])
def test_another_thread_sees_the_dense_model_throughout(name):
    model, calibration = model_named(name), text(4)
    ids = calibration.ids[:2, :20]

    def logits():
        found = run(model, ids)
        return found if isinstance(found, torch.Tensor) else found.logits

    before, seen = logits(), []

    def look(_name):
        other = threading.Thread(target=lambda: seen.append(logits()))
        other.start()
        other.join()

    solver = sequential(model, calibration, then=look)
    assert len(seen) == len(solver.order)
    assert all(torch.equal(found, before) for found in seen)


# --- memory -------------------------------------------------------------------------------------------------------


def test_too_little_memory_is_refused_with_the_forecast_before_any_work():
    model = make("llama_odd")
    model.forward = lambda **_: pytest.fail("the model was run")
    need = 6 * InputMoments.size_bytes(77)
    with pytest.raises(ConfigError, match=r"77 input features takes 0 MB.*'refined'.*memory_limit"):
        sequential(model, text(memory_limit=need - 1))


def test_little_memory_takes_more_passes_and_gives_the_same():
    model = hand_made("mixture", experts=8, inner=64)
    whole = sequential(model, text())
    tight = sequential(model, text(memory_limit=6 * InputMoments.size_bytes(64)))
    assert tight.order == whole.order
    for name in whole.order:
        assert torch.equal(tight.moments[name].total, whole.moments[name].total), name
        assert tight.moments[name].tokens == whole.moments[name].tokens


def test_moments_are_let_go_when_their_part_is_solved():
    model, alive, most = hand_made("mixture", experts=8, inner=64), [], []
    names = linears(model)

    def solve(name, moments):
        if not any(one() is moments for one in alive):
            alive.append(weakref.ref(moments))
        gc.collect()
        most.append(sum(InputMoments.size_bytes(m.total.shape[0]) for m in (one() for one in alive) if m is not None))
        return quantize_weight(model.get_submodule(name).weight, G32)

    limit = 6 * InputMoments.size_bytes(64)
    gc.collect()
    gc.freeze()  # what is there already is not looked through again at each layer
    try:
        list(iter_sequential(model, names, dict.fromkeys(names, True), text(memory_limit=limit), solve))
    finally:
        gc.unfreeze()
    assert max(most) <= limit


# --- what cannot be run -------------------------------------------------------------------------------------------


def test_a_model_that_takes_no_text_says_so():
    class Images(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch = nn.Linear(32, 32)

        def forward(self, pixel_values):
            return self.patch(pixel_values)

    with pytest.raises(ModelError, match=r"Images cannot be run on calibration text.*solver='refined'"):
        sequential(Images(), text())


def test_sequences_beyond_the_positions_of_the_model_are_refused():
    with pytest.raises(ConfigError, match=r"sequences of 65 tokens.*at most 64.*sequence_length=64"):
        sequential(make("llama_odd"), text(2, 65))
