"""A twin computes what its model does, on the same tensors, and leaves the model alone."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

import workbench as wb
from tests.tiny_models import QUANTIZABLE, hushed, logits, make, saved
from workbench.errors import ModelError
from workbench.forward import hooked
from workbench.hf.loading import load_model
from workbench.measure.causal import check_causal
from workbench.measure.remembered import LogitsStore, Remembered
from workbench.session.twin import twin_of

G32 = wb.Int4WeightOnlyConfig(group_size=32)


def int4_layers(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, wb.Int4Linear)}


@pytest.mark.parametrize("family", [*QUANTIZABLE, "gpt2"])
def test_a_twin_is_the_model_over_the_same_tensors(family):
    model = make(family)
    twin = twin_of(model)
    assert torch.equal(logits(twin), logits(model))
    for one, other in (
        (twin.named_parameters(), model.named_parameters()),
        (twin.named_buffers(), model.named_buffers()),
    ):
        assert {name: id(tensor) for name, tensor in one} == {name: id(tensor) for name, tensor in other}
    assert not {id(module) for module in twin.modules()} & {id(module) for module in model.modules()}
    assert twin.config is not model.config


def test_layers_stand_in_the_twin_alone_and_an_int4_model_shares_them():
    model, other = make("qwen2"), make("qwen2")
    wb.quantize_(other, G32)
    dense, layers = logits(model), int4_layers(other)
    assert torch.equal(logits(twin_of(model, layers)), logits(other))
    assert torch.equal(logits(model), dense) and not int4_layers(model)
    assert {id(layer) for layer in int4_layers(twin_of(other)).values()} == {id(layer) for layer in layers.values()}


def test_a_model_in_training_stays_so_and_its_twin_does_not():
    model = make("qwen2").train()
    twin = twin_of(model)
    assert all(module.training for module in model.modules())
    assert not any(module.training for module in twin.modules())


def test_own_hooks_stay_and_those_that_collect_inputs_do_not():
    model, heard = make("qwen2"), []
    layer = model.model.layers[0].self_attn.q_proj
    layer.register_forward_hook(lambda module, given, result: result * 2)
    changed = logits(model)
    with hooked([("q", layer)], lambda name, args, kwargs: heard.append(name)):
        twin = twin_of(model)
        thread = threading.Thread(target=logits, args=(twin,))
        thread.start()
        thread.join()
    assert torch.equal(logits(twin), changed) and heard == []
    assert not twin.model.layers[0].self_attn.q_proj._forward_pre_hooks


def test_weights_that_are_offloaded_are_shared(tmp_path):
    with hushed():
        folder = saved("qwen2", tmp_path)
        model, _ = load_model(folder, device_map={"": "disk"}, offload_folder=tmp_path / "away")
        twin = twin_of(model)
        assert torch.equal(logits(twin), logits(load_model(folder)[0]))
        assert torch.equal(logits(model), logits(twin))
    assert all(p.is_meta for p in twin.parameters())


def test_what_cannot_be_copied_is_said():
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].lock = threading.Lock()
    with pytest.raises(ModelError, match="Sequential cannot be copied"):
        twin_of(model)


# --- what a twin is run as --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["qwen2", "llama_odd", "opt", "gpt2", "mixtral"])
def test_models_that_predict_the_next_token_pass(family):
    check_causal(make(family), family)


def test_logits_are_remembered_as_far_as_they_fit():
    model, calls = make("qwen2"), []
    model.register_forward_hook(lambda *_: calls.append(1))
    ids = [torch.tensor([[1, 2, 3]]), torch.tensor([[4, 5, 6]])]
    expected = [model(input_ids=one).logits for one in ids]
    store = LogitsStore(max_bytes=expected[0].numel() * 4)
    store.keep_for("these weights")
    remembered = Remembered(model, store)
    assert remembered.get_input_embeddings() is model.get_input_embeddings()
    calls.clear()
    for _ in range(2):
        for one, logit in zip(ids, expected, strict=True):
            assert torch.equal(remembered(input_ids=one).logits, logit)
    assert len(calls) == 3 and store.held_bytes == store.max_bytes
    store.keep_for("these weights")
    assert store.held_bytes > 0
    store.keep_for("others")
    assert store.held_bytes == 0
