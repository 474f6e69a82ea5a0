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


def test_copy_and_pickle():
    stack = Int4Experts(random_weight(E * 48, 64, GROUP), E)
    for copied in (copy.deepcopy(stack), pickle.loads(pickle.dumps(stack))):
        assert torch.equal(copied.dequantize(), stack.dequantize())


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
