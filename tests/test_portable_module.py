"""A state dict has the portable tensors of the weight, and loads into any module of the same shape and form."""

import copy

import pytest
import torch
from torch import nn

from tests.int4_layers import DOMAINS, assert_same_layer, make_layer
from tests.oracles import random_weight
from workbench import Int4Linear
from workbench.experts import Int4Experts
from workbench.portable import portable_names

E, GROUP = 4, 32


# --- of a layer ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("scale_dtype", [torch.bfloat16, torch.float32], ids=str)
def test_loading_a_state_dict(domain, scale_dtype, assign):
    layer = nn.Sequential(make_layer(domain=domain, scale_dtype=scale_dtype))
    other = nn.Sequential(Int4Linear(random_weight(48, 100, 32, domain, seed=5), torch.zeros(48)))
    result = other.load_state_dict(layer.state_dict(), assign=assign)
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    assert_same_layer(other[0], layer[0])


def loaded(change, strict=True, layer=None):
    model = nn.Sequential(make_layer() if layer is None else layer)
    state = model.state_dict()
    change(state)
    return model, model.load_state_dict(state, strict=strict)


def put(name, change):
    return lambda state: state.update({f"0.{name}": change(state[f"0.{name}"])})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("0.weight_zero"), r'Missing key.*"0.weight_zero"'),
        (lambda state: state.pop("0.weight"), r'Missing key.*"0.weight"'),
        (lambda state: state.pop("0.bias"), r'Missing key.*"0.bias"'),
        (lambda state: state.update({"0.weight_zp": torch.zeros(1)}), r'Unexpected key.*"0.weight_zp"'),
        (lambda state: state.update({"0.packed": torch.zeros(1)}), r'Unexpected key.*"0.packed"'),
        (put("weight", lambda t: t[:32]), r"0: .*scale is torch.bfloat16 \[48, 4\]"),
        (put("weight", lambda t: t[:, :49]), r"0: packed codes is torch.uint8 \[48, 49\].*in_features=100"),
        (put("weight", lambda t: t.float()), "0: packed codes is torch.float32"),
        (put("weight_scale", lambda t: t[:, :3]), r"0: scale is torch.bfloat16 \[48, 3\].*\[48, 4\]"),
        (put("weight_scale", lambda t: t.half()), "0: scale is torch.float16"),
        (put("weight_scale", lambda t: t / 0), "0: weight_scale holds NaN or infinity.*damaged"),
        (put("weight_scale", lambda t: t.float().fill_(3.4e38)), "0: .*"),
        (put("bias", lambda t: t[:32]), "size mismatch for 0.bias"),
    ],
)
def test_a_state_dict_that_does_not_fit_names_layer_and_tensor(change, message):
    with pytest.raises(RuntimeError, match=f"(?s){message}"):
        loaded(change)


def test_a_state_dict_of_another_number_of_rows_is_refused():
    with pytest.raises(RuntimeError, match=r"Int4Linear: weight has 32 rows.*48 for this layer"):
        make_layer(bias=None).load_state_dict(make_layer(32, bias=None).state_dict())


def test_a_dense_state_dict_is_refused():
    with pytest.raises(RuntimeError, match=r'(?s)Missing key.*"weight_scale"'):
        make_layer().load_state_dict(nn.Linear(100, 48).state_dict())


def test_without_strict_a_missing_tensor_leaves_the_weight_as_it_was():
    layer = make_layer()
    before = copy.deepcopy(layer)
    _, result = loaded(lambda state: state.pop("0.weight_zero"), strict=False, layer=layer)
    assert result.missing_keys == ["0.weight_zero"]
    assert_same_layer(layer, before)


# --- of a stack of experts -------------------------------------------------------------------------------------------


def experts(rows=48, seed=0, domain="float"):
    return Int4Experts(random_weight(E * rows, 64, GROUP, domain, seed=seed), E)


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("domain", DOMAINS)
def test_the_experts_are_stacked_in_a_state_dict(domain, assign):
    stack, target = experts(domain=domain), experts(seed=1, domain=domain)
    state = stack.state_dict()
    assert set(state) == set(portable_names(domain))
    assert state["weight"].shape == (E * 48, 32)
    result = target.load_state_dict(state, assign=assign)
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    assert torch.equal(target.dequantize(), stack.dequantize())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("weight_scale"), r'Missing key.*"weight_scale"'),
        (lambda state: state.update(experts(32).state_dict()), "Int4Experts: weight has 128 rows.*192 for 4 experts"),
        (lambda state: state.update(more=torch.zeros(1)), r'Unexpected key.*"more"'),
        (lambda state: state.update({"experts.0.weight": torch.zeros(1)}), r'Unexpected key.*"experts.0.weight"'),
        (lambda state: state.update(weight=state["weight"].float()), "Int4Experts: packed codes is torch.float32"),
    ],
)
def test_a_state_dict_that_does_not_fit_the_experts_is_refused(change, message):
    stack = experts()
    state = stack.state_dict()
    change(state)
    with pytest.raises(RuntimeError, match=f"(?s){message}"):
        stack.load_state_dict(state)


def test_what_could_not_be_loaded_leaves_the_weight_as_it_was():
    for module in (experts(), make_layer()):
        before = module.quantized_weight()
        with pytest.raises(RuntimeError, match="weight_scale holds NaN"):
            module.load_state_dict({k: v / 0 if k == "weight_scale" else v for k, v in module.state_dict().items()})
        after = module.quantized_weight()
        assert torch.equal(after.codes, before.codes) and torch.equal(after.scale, before.scale)
