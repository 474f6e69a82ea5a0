"""Adapters of low rank over int4 layers: they learn, the codes stay, and gradients pass through many int4 layers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests import tiny_models
from workbench import Int4Linear, Int4WeightOnlyConfig, quantize_
from workbench.layers import swap_layer

IDS = torch.arange(2, 50).view(4, 12)


class Adapter(nn.Module):
    """y = base(x) + up(down(x)), where only `down` and `up` learn (LoRA, Hu et al. 2021, scaled by 1)."""

    def __init__(self, base, rank=4):
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, rank, bias=False, dtype=base.dtype)
        self.up = nn.Linear(rank, base.out_features, bias=False, dtype=base.dtype)
        nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


def int4_names(model):
    return [name for name, module in model.named_modules() if isinstance(module, Int4Linear)]


def adapted(family="qwen2", dtype=torch.float32, only=None):
    """An int4 model, frozen, with adapters over all int4 layers or those whose name holds `only`."""
    model = tiny_models.make(family, tie_word_embeddings=False) if family == "qwen2" else tiny_models.make(family)
    model = model.to(dtype)
    quantize_(model, Int4WeightOnlyConfig(group_size=32))
    model.requires_grad_(False)
    for name in int4_names(model):
        if only is None or only in name:
            swap_layer(model, name, Adapter(model.get_submodule(name)))
    return model.train()


def dense_twin(model):
    """The same model whose int4 layers are dense ones of the weights that the kernels multiply with."""
    twin = copy.deepcopy(model)
    for name in int4_names(twin):
        layer = twin.get_submodule(name)
        dense = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, dtype=layer.dtype)
        with torch.no_grad():
            dense.weight.copy_(layer.weight)
            if layer.bias is not None:
                dense.bias.copy_(layer.bias)
        swap_layer(twin, name, dense.requires_grad_(False))
    return twin


def learning(model):
    return {name: one for name, one in model.named_parameters() if one.requires_grad}


def loss_of(model, **more):
    given = {"input_ids": IDS, "labels": IDS, "use_cache": False, **more}
    return model(**given).loss


def trained(model, steps=8, loss=loss_of):
    optimizer = torch.optim.AdamW(learning(model).values(), lr=0.02)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        losses.append(loss(model))
        losses[-1].backward()
        optimizer.step()
    return [one.item() for one in losses]


def alike(ours, theirs):
    return float(nn.functional.cosine_similarity(ours.double().flatten(), theirs.double().flatten(), dim=0))


@pytest.mark.parametrize("family", ["qwen2", "llama_odd"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_an_adapter_learns_and_the_base_stays_as_it_was(family, dtype):
    torch.manual_seed(0)
    model = adapted(family, dtype)
    assert len(int4_names(model)) == 14
    assert set(learning(model)) == {
        f"{name[:-5]}.{part}.weight" for name in int4_names(model) for part in ("down", "up")
    }
    before = {name: value.clone() for name, value in model.state_dict().items()}
    losses = trained(model)
    assert losses[-1] < 0.9 * losses[0]
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == set(learning(model))


def test_it_learns_as_fast_as_over_the_same_weights_dense():
    torch.manual_seed(0)
    model = adapted()
    twin = dense_twin(model)
    assert not int4_names(twin) and set(learning(twin)) == set(learning(model))
    ours, theirs = trained(model), trained(twin)
    assert ours == pytest.approx(theirs, rel=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_gradient_of_the_first_adapter_comes_through_all_int4_layers_after_it(dtype):
    torch.manual_seed(0)
    model = adapted(dtype=dtype, only="layers.0.self_attn.q_proj")
    twin = dense_twin(model)
    ones = {}
    for one in (model, twin):
        nn.init.normal_(one.get_submodule("model.layers.0.self_attn.q_proj").up.weight, std=0.1, generator=seeded())
        loss_of(one).backward()
        ones[one] = [parameter.grad for parameter in learning(one).values()]
    assert len(ones[model]) == 2
    for ours, theirs in zip(ones[model], ones[twin], strict=True):
        assert ours.dtype == dtype and ours.abs().max() > 0 and alike(ours, theirs) > 0.99


def seeded():
    return torch.Generator().manual_seed(1)


def test_the_gradient_of_the_embedded_tokens_is_that_of_the_same_weights_dense():
    model = adapted(only="nothing")
    twin, gradients = dense_twin(model), []
    for one in (model, twin):
        x = one.get_input_embeddings()(IDS).detach().requires_grad_()
        one(inputs_embeds=x, labels=IDS, use_cache=False).loss.backward()
        gradients.append(x.grad)
    assert gradients[0].shape == (4, 12, 64) and alike(*gradients) > 0.99
    assert torch.allclose(gradients[0].norm(), gradients[1].norm(), rtol=0.02)


def test_checkpointing_and_autocast_give_the_same_gradients():
    torch.manual_seed(0)
    model = adapted()
    loss_of(model).backward()
    plain = {name: one.grad.clone() for name, one in learning(model).items() if one.grad.abs().max() > 0}
    assert len(plain) == 14  # those of "up": "down" learns once "up" is no longer 0
    model.zero_grad()
    checkpoint(loss_of, model, use_reentrant=False).backward()
    assert all(torch.equal(learning(model)[name].grad, gradient) for name, gradient in plain.items())
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(model)
    loss.backward()
    assert all(alike(learning(model)[name].grad, gradient) > 0.98 for name, gradient in plain.items())


def test_it_learns_compiled():
    torch.compiler.reset()
    torch.manual_seed(0)
    model = adapted()
    eager = copy.deepcopy(model)
    step = torch.compile(loss_of, backend="aot_eager", fullgraph=True)
    assert trained(model, 3, step) == pytest.approx(trained(eager, 3), rel=1e-3)


def test_an_adapter_is_saved_without_the_base_and_put_over_it_again():
    torch.manual_seed(0)
    model = adapted()
    trained(model, 2)
    saved = {name: value for name, value in model.state_dict().items() if name in learning(model)}
    torch.manual_seed(0)
    again = adapted()
    missing, unexpected = again.load_state_dict(saved, strict=False)
    assert not unexpected and not set(missing) & set(saved)
    assert torch.equal(tiny_models.logits(again), tiny_models.logits(model))
