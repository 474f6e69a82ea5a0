"""Inputs of layers: the moments are those of the dense model, collected together within a bound, and never stale."""

import threading

import pytest
import torch
from torch.nn.modules.module import register_module_parameter_registration_hook

import workbench as wb
from workbench.calibration import Calibration, layer_moments
from workbench.errors import Cancelled, ModelError
from workbench.hf.skeleton import open_source
from workbench.session.layer_inputs import LayerInputs
from workbench.sources import ModelSource

Q, K, DOWN = (f"model.layers.0.{part}" for part in ("self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj"))


@pytest.fixture(scope="module")
def text():
    generator = torch.Generator().manual_seed(3)
    return Calibration(torch.randint(4096, (6, 64), generator=generator))


def collected(inputs, names, text, called="text", cancel=None):
    return list(inputs.collect(names, text, called, cancel or threading.Event()))


def test_moments_of_a_folder_are_those_of_the_model_and_its_size_is_said_before_it_is_loaded(pair, text):
    inputs = LayerInputs(open_source("demo"))
    assert inputs.loads_bytes > 11_000_000
    first, *steps = collected(inputs, [Q, DOWN], text)
    assert first.label == "loading demo, 11.54 MB, to run the text" and first.done == 0
    assert steps[-1].done == steps[-1].total == text.tokens and "2 layers" in steps[-1].label
    expected = layer_moments(pair[0], [Q, DOWN], text)
    for name in (Q, DOWN):
        moments, _ = inputs.get(name, "text")
        assert moments.tokens == text.tokens
        torch.testing.assert_close(moments.total, expected[name].total, rtol=0, atol=0)
    assert not collected(inputs, [Q], text)[0].label.startswith("loading")


def test_layers_with_the_same_input_share_their_moments(pair, text):
    inputs = LayerInputs(ModelSource(pair[0]))
    collected(inputs, [Q, K, DOWN], text)
    assert inputs.get(Q, "text")[0] is inputs.get(K, "text")[0]
    assert inputs.loads_bytes == 0


def test_another_text_another_layer_and_another_run_are_told_apart(pair, text):
    inputs = LayerInputs(ModelSource(pair[0]))
    assert inputs.get(Q, "text") is None
    collected(inputs, [Q], text)
    number = inputs.get(Q, "text")[1]
    assert inputs.get(Q, "other") is None and inputs.get(DOWN, "text") is None
    collected(inputs, [DOWN], text)
    assert inputs.get(Q, "text") is None
    assert inputs.get(DOWN, "text")[1] != number


def test_moments_of_older_weights_are_not_used(text):
    model, _ = wb.demo_model()
    inputs = LayerInputs(ModelSource(model))
    collected(inputs, [DOWN], text)
    assert inputs.get(DOWN, "text") is not None
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.weight.mul_(1.01)
    assert inputs.get(DOWN, "text") is None


def test_as_many_are_collected_together_as_fit_beginning_with_the_one_asked_for(pair):
    names = [Q, K, DOWN]
    square, wide = 4 * 256**2, 4 * 768**2
    for room, name, expected in [
        (square + wide, K, [K, DOWN]),
        (2 * square + wide, K, [K, DOWN, Q]),
        (2 * square, K, [K, Q]),
        (10, DOWN, [DOWN]),
    ]:
        assert LayerInputs(ModelSource(pair[0]), room).together(name, names) == expected
    assert LayerInputs(ModelSource(pair[0])).together(Q, []) == [Q]


def test_cancelled_nothing_is_held_and_the_model_is_as_before(pair, text):
    inputs, cancel = LayerInputs(ModelSource(pair[0])), threading.Event()
    steps = inputs.collect([Q], Calibration(text.ids.repeat(40, 4)), "text", cancel)
    next(steps)
    cancel.set()
    with pytest.raises(Cancelled):
        list(steps)
    assert inputs.get(Q, "text") is None
    assert not any(module._forward_pre_hooks for module in pair[0].modules())


class Cut:
    """Collects until some batches are done, then cancels in the middle of the next; counts forward passes."""

    def __init__(self, model):
        self.model, self.passes = model, 0
        self.cancel = threading.Event()

    def note(self, *_):
        self.passes += 1
        if self.passes == 4:  # a probe and two batches before
            self.cancel.set()

    def collect(self, inputs, names, text, called="text"):
        handle = self.model.register_forward_pre_hook(self.note)
        try:
            with pytest.raises(Cancelled):
                list(inputs.collect(names, text, called, self.cancel))
        finally:
            handle.remove()

    def goes_on(self, inputs, names, text, called="text"):
        """Collect to the end, and say whether that took fewer passes than from the beginning."""
        self.passes = 4
        handle = self.model.register_forward_pre_hook(self.note)
        try:
            collected(inputs, names, text, called)
        finally:
            handle.remove()
        assert self.passes - 4 in (4, 7)  # the batch that was cut and those after it, or a probe and all six
        return self.passes - 4 == 4


@pytest.fixture
def cut(monkeypatch):
    monkeypatch.setattr("workbench.calibration._BATCH_TOKENS", {"cpu": 64})
    model, _ = wb.demo_model()
    return Cut(model)


def assert_moments(inputs, names, model, text, called="text"):
    expected = layer_moments(model, names, text)
    for name in names:
        found, _ = inputs.get(name, called)
        assert found.tokens == text.tokens and torch.equal(found.total, expected[name].total)


def test_what_was_cut_goes_on_to_the_same_bits(cut, text):
    inputs = LayerInputs(ModelSource(cut.model))
    cut.collect(inputs, [Q, DOWN], text)
    assert inputs.get(Q, "text") is None
    assert cut.goes_on(inputs, [DOWN], text), "some of the layers are not begun anew"
    assert_moments(inputs, [Q, DOWN], cut.model, text)
    assert not cut.goes_on(inputs, [Q, DOWN], text), "what is whole is not gone on with"


def test_where_it_stands_is_told_when_it_goes_on(cut, text):
    inputs = LayerInputs(ModelSource(cut.model))
    cut.collect(inputs, [Q], text)
    steps = collected(inputs, [Q], text)
    assert [step.done for step in steps] == [128, 192, 256, 320, 384]
    assert {step.total for step in steps} == {384} and steps[-1].remaining_s == 0


@pytest.mark.parametrize("what", ["weights", "text", "tokens", "layers"])
def test_nothing_is_mixed_with_what_was_begun_for_something_else(what, cut, text):
    inputs, names, called = LayerInputs(ModelSource(cut.model)), [Q], "text"
    cut.collect(inputs, names, text)
    if what == "weights":
        with torch.no_grad():
            cut.model.model.layers[0].input_layernorm.weight.mul_(1.01)
    elif what == "text":
        called = "other"
    elif what == "tokens":
        text = Calibration(text.ids.flip(1))
    else:
        names = [Q, DOWN]
    assert not cut.goes_on(inputs, names, text, called)
    assert_moments(inputs, names, cut.model, text, called)


def test_what_failed_is_begun_anew(cut, text, monkeypatch):
    inputs = LayerInputs(ModelSource(cut.model))
    cut.collect(inputs, [Q], text)

    def fail(*_):
        raise RuntimeError("no more memory")

    handle = cut.model.register_forward_pre_hook(fail)
    with pytest.raises(ModelError, match="no more memory"):
        collected(inputs, [Q], text)
    handle.remove()
    assert not cut.goes_on(inputs, [Q], text)
    assert_moments(inputs, [Q], cut.model, text)


def test_loading_stops_before_the_next_tensor_and_can_be_begun_again(pair, text):
    inputs, cancel, seen = LayerInputs(open_source("demo")), threading.Event(), []

    def note(_module, _name, _parameter):
        seen.append(cancel.is_set())
        if len(seen) == 60:
            cancel.set()

    handle = register_module_parameter_registration_hook(note)
    try:
        with pytest.raises(Cancelled):
            collected(inputs, [Q], text, cancel=cancel)
    finally:
        handle.remove()
    assert sum(seen) <= 1 and len(seen) <= 61
    collected(inputs, [Q], text)
    assert_moments(inputs, [Q], pair[0], text)


def test_weights_without_a_model_cannot_run_a_text(text):
    class Weights:
        name = "weights"

        def records(self):
            return []

    with pytest.raises(ModelError, match="no model that can run a text"):
        collected(LayerInputs(Weights()), [], text)
