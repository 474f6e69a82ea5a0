"""Int4 experts: the stacked weight cut into its experts, and given back."""

import copy
import io
import pickle

import pytest
import torch

import workbench as wb
from tests.oracles import random_weight
from tests.tiny_models import logits, make
from workbench.errors import WeightError
from workbench.experts import Int4Experts

E, GROUP = 4, 32


@pytest.mark.parametrize("domain", ["float", "int", "symmetric"])
def test_the_stacked_weight_is_given_back(domain):
    weight = random_weight(E * 48, 100, GROUP, domain)
    stack = Int4Experts(weight, E)
    back = stack.quantized_weight()
    assert torch.equal(back.codes, weight.codes) and torch.equal(back.scale, weight.scale)
    assert (back.zero is None) == (weight.zero is None)
    assert back.zero is None or torch.equal(back.zero, weight.zero)
    assert stack.shape == (E, 48, 100)
    assert torch.equal(stack.dequantize()[2], stack.experts[2].weight)
    assert stack.size_bytes == sum(expert.size_bytes for expert in stack.experts)


def test_rows_that_do_not_divide_are_refused():
    with pytest.raises(WeightError, match="10 rows for 4 experts"):
        Int4Experts(random_weight(10, 64, GROUP), 4)


def test_state_dict_copy_and_pickle():
    weight, other = random_weight(E * 48, 64, GROUP), random_weight(E * 48, 64, GROUP, seed=1)
    stack, target = Int4Experts(weight, E), Int4Experts(other, E)
    state = stack.state_dict()
    assert set(state) == {"weight", "weight_scale", "weight_zero"}
    assert state["weight"].shape == (E * 48, 32)
    target.load_state_dict(state)
    assert torch.equal(target.quantized_weight().codes, weight.codes)
    for copied in (copy.deepcopy(stack), pickle.loads(pickle.dumps(stack))):
        assert torch.equal(copied.dequantize(), stack.dequantize())
    del state["weight_scale"]
    with pytest.raises(RuntimeError, match="weight_scale"):
        target.load_state_dict(state)
    with pytest.raises(RuntimeError, match="192 for 4 experts"):
        target.load_state_dict(Int4Experts(random_weight(E * 32, 64, GROUP), E).state_dict())
    with pytest.raises(RuntimeError, match="Unexpected"):
        target.load_state_dict({**stack.state_dict(), "more": torch.zeros(1)})


def test_dtype_and_device_moves():
    stack = Int4Experts(random_weight(E * 48, 64, GROUP), E).half()
    assert stack.dtype == torch.float16
    assert stack.to("meta").device.type == "meta"


def test_a_model_of_experts_survives_torch_save():
    model = make("mixtral")
    wb.quantize_(model, wb.Int4WeightOnlyConfig(group_size=GROUP))
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    assert torch.equal(logits(torch.load(buffer, weights_only=False)), logits(model))
