"""Tokens routed to int4 experts: what they give is what the dequantized experts give."""

import copy
import inspect

import pytest
import torch
import transformers
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, use_experts_implementation

import workbench as wb
from tests.tiny_models import logits, make
from workbench.expert_routing import experts_forward, route_experts
from workbench.experts import Int4Experts

E, H, INNER, GROUP = 4, 64, 96, 32
KNOWS_NORMS = "has_post_expert_norm" in inspect.signature(use_experts_implementation).parameters


class Settings:
    _experts_implementation_internal = "eager"

    @property
    def _experts_implementation(self):
        return self._experts_implementation_internal


def experts_module(*, transposed=False, biased=False, gated=True, norm=False, seed=0):
    """An experts module of transformers' registry; its own forward is the slow obvious one."""
    known = {"has_post_expert_norm": norm} if KNOWS_NORMS else {}  # transformers 5.17 has no such experts

    @use_experts_implementation(is_transposed=transposed, has_bias=biased, has_gate=gated, **known)
    class Experts(torch.nn.Module):
        def __init__(self, config):
            super().__init__()
            self.num_experts, first = E, (2 if gated else 1) * INNER
            shapes = {"gate_up_proj" if gated else "up_proj": (first, H), "down_proj": (H, INNER)}
            for name, (n, k) in shapes.items():
                weight = 0.1 * torch.randn(E, *((k, n) if transposed else (n, k)))
                setattr(self, name, torch.nn.Parameter(weight.bfloat16()))
                if biased:
                    setattr(self, f"{name}_bias", torch.nn.Parameter(0.1 * torch.randn(E, n).bfloat16()))
            self.act_fn = torch.nn.functional.silu
            self.post_expert_norm = torch.nn.LayerNorm(H, dtype=torch.bfloat16) if norm else None

        def forward(self, hidden, top_k_index, top_k_weights):
            result = torch.zeros(hidden.shape, dtype=torch.float32)
            for token in range(hidden.shape[0]):
                for place, e in enumerate(top_k_index[token].tolist()):
                    if e < E:
                        result[token] += top_k_weights[token, place] * self.one(hidden[token], e).float()
            return result.to(hidden.dtype)

        def one(self, x, e):
            def project(name, x):
                weight = getattr(self, name)[e]
                found = x @ (weight if transposed else weight.t())
                return found + getattr(self, f"{name}_bias")[e] if biased else found

            up = project("gate_up_proj" if gated else "up_proj", x)
            down = project("down_proj", self._apply_gate(up) if gated else self.act_fn(up))
            return self.post_expert_norm(down) if norm else down

    torch.manual_seed(seed)
    return Experts(Settings()).eval()


def quantized(module):
    """The same module with int4 stacks, and a dense one in float32 that holds what they dequantize to."""
    dense, config = copy.deepcopy(module).float(), module.config
    holder = torch.nn.ModuleDict({"experts": module})
    wb.quantize_(holder, wb.Int4WeightOnlyConfig(group_size=GROUP))
    with torch.no_grad():
        for name in ("gate_up_proj", "up_proj", "down_proj"):
            if isinstance(stack := getattr(module, name, None), Int4Experts):
                weight = stack.quantized_weight().dequantize(torch.float32).view(E, stack.out_features, -1)
                getattr(dense, name).copy_(weight.transpose(1, 2) if module.is_transposed else weight)
    assert module.config is config
    dense.config._experts_implementation_internal = "eager"
    return module, dense


def routing(tokens, k=2, seed=1, highest=E):
    generator = torch.Generator().manual_seed(seed)
    index = torch.stack([torch.randperm(highest, generator=generator)[:k] for _ in range(tokens)])
    weights = torch.softmax(torch.randn(tokens, k, generator=generator), -1)
    return index, weights


VARIANTS = [
    {},
    {"transposed": True},
    {"biased": True},
    {"transposed": True, "biased": True},
    {"gated": False},
    {"gated": False, "biased": True},
    *([{"norm": True}] if KNOWS_NORMS else []),
]


@pytest.mark.parametrize("tokens", [1, 7, 33])
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(v) or "plain")
def test_it_is_what_the_dequantized_experts_give(variant, tokens):
    int4, dense = quantized(experts_module(**variant))
    x = torch.randn(tokens, H, generator=torch.Generator().manual_seed(2)).bfloat16()
    index, weights = routing(tokens)
    with torch.no_grad():
        exact = dense.double()(x.double(), index, weights.double())
        for given, limit in ((x, 3e-3), (x.float(), 2.5e-3)):  # what goes into `down` is rounded; and the result
            if "norm" in variant:
                limit = 6e-3  # it is computed in the model's dtype
                given = x
            found = int4(given, index, weights)
            assert found.dtype == given.dtype and found.shape == given.shape
            assert (found.double() - exact).norm() / exact.norm() < limit


def test_experts_that_are_elsewhere_give_nothing():
    int4, dense = quantized(experts_module())
    x = torch.randn(5, H).bfloat16()
    index, weights = routing(5, highest=E + 2)
    index[2] = torch.tensor([E, E + 1])
    with torch.no_grad():
        found, reference = int4(x, index, weights), dense(x.float(), index, weights)
    assert torch.equal(found[2], torch.zeros_like(found[2]))
    assert torch.allclose(found.float(), reference.float(), atol=0.05, rtol=0.05)


def test_one_stack_may_stay_dense():
    module = experts_module(transposed=True)
    dense = copy.deepcopy(module)
    holder = torch.nn.ModuleDict({"experts": module})
    wb.quantize_(holder, wb.Int4WeightOnlyConfig(group_size=GROUP), include="experts.down_proj")
    assert isinstance(module.down_proj, Int4Experts) and isinstance(module.gate_up_proj, torch.nn.Parameter)
    x, (index, weights) = torch.randn(6, H).bfloat16(), routing(6)
    with torch.no_grad():
        near = dense(x, index, weights).float()
        assert (module(x, index, weights).float() - near).norm() < 0.2 * near.norm()


def test_dense_modules_of_the_same_configuration_keep_their_implementation():
    model = make("mixtral")
    before, ids = model.config._experts_implementation, logits(model)
    wb.quantize_(model, wb.Int4WeightOnlyConfig(group_size=GROUP), include="layers.0.mlp.experts")
    assert model.config._experts_implementation == f"int4_workbench+{before}"
    assert len(route_experts(model)) == 1
    called = []
    original = ALL_EXPERTS_FUNCTIONS[before]
    ALL_EXPERTS_FUNCTIONS[before] = lambda module, *a, **k: called.append(module) or original(module, *a, **k)
    try:
        assert (logits(model) - ids).abs().max() < 0.5
    finally:
        del ALL_EXPERTS_FUNCTIONS[before]
    assert called == [model.model.layers[1].mlp.experts]


def test_the_eager_implementation_is_kept_for_dense_modules():
    int4, dense = quantized(experts_module())
    dense.config = int4.config
    x, (index, weights) = torch.randn(3, H).bfloat16(), routing(3)
    with torch.no_grad():
        x = x.float()
        assert torch.equal(dense(x, index, weights), type(dense).forward.__wrapped__(dense, x, index, weights))


def test_the_gradient_reaches_the_input():
    int4, dense = quantized(experts_module())
    index, weights = routing(9)
    grads = []
    for module in (int4, dense):
        x = torch.randn(9, H, generator=torch.Generator().manual_seed(5)).requires_grad_()
        module(x, index, weights).float().square().sum().backward()
        grads.append(x.grad.float())
    assert (grads[0] - grads[1]).norm() < 0.05 * grads[1].norm()


def test_the_forward_says_who_is_hit():
    """Only the experts that a token goes to are multiplied."""
    int4, _ = quantized(experts_module())
    hit = []
    for number, expert in enumerate(int4.down_proj.experts):
        expert.register_forward_hook(lambda *_, number=number: hit.append(number))
    index, weights = torch.tensor([[3, 1]]), torch.tensor([[0.5, 0.5]])
    experts_forward(int4, torch.randn(1, H).bfloat16(), index, weights)
    assert hit == [1, 3]


def test_generate_with_experts():
    model = make("mixtral")
    wb.quantize_(model, wb.Int4WeightOnlyConfig(group_size=GROUP))
    settings = transformers.GenerationConfig(max_new_tokens=6, do_sample=False, pad_token_id=0)
    tokens = model.generate(torch.arange(2, 8)[None], generation_config=settings)
    assert tokens.shape[1] <= 12
