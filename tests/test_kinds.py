"""Kinds of weight: told by what a module computes, never by a model's name."""

import pytest
import torch
import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

import workbench.kinds as kinds
from tests.tiny_models import make
from workbench.kinds import (
    computes_linear,
    is_conv1d,
    shape_as_used,
    stack_is_transposed,
    stored_transposed,
    weight_kind,
)


class OwnForward(nn.Linear):
    """Linear, written another way, as in Falcon."""

    def forward(self, x):
        return x @ self.weight.T + (0 if self.bias is None else self.bias)


class Scaled(nn.Linear):
    """Not linear in the way that swapping would keep."""

    def forward(self, x):
        return 2 * super().forward(x)


class Divided(nn.Linear):
    """Needs what a linear layer has not."""

    def forward(self, x):
        return super().forward(x) / self.divisor


class Rounded(nn.Linear):
    """Linear on numbers that need no rounding only."""

    def forward(self, x):
        return super().forward(x.round())


class OnlyTwoDimensions(nn.Linear):
    def forward(self, x):
        return torch.addmm(self.bias, x, self.weight.t())


@pytest.mark.parametrize("kind", [nn.Linear, OwnForward])
def test_linear_layers(kind):
    assert computes_linear(kind(4, 3))
    with torch.device("meta"):
        assert computes_linear(kind(4, 3))
    layer = kind(4, 3)
    assert weight_kind(layer, "weight", layer.weight) == "linear"
    assert weight_kind(layer, "bias", layer.bias) == "bias"
    assert weight_kind(layer, "weight", layer.weight, head=layer) == "output_head"


@pytest.mark.parametrize("kind", [Scaled, Divided, Rounded, OnlyTwoDimensions])
def test_a_forward_that_is_no_linear_layer_is_none(kind):
    layer = kind(4, 3)
    assert not computes_linear(layer)
    assert weight_kind(layer, "weight", layer.weight) == kind.__name__


def test_a_weight_that_others_read_is_left():
    attention = nn.MultiheadAttention(8, 2)
    assert not computes_linear(attention.out_proj)


def test_falcon_has_linear_layers_of_its_own():
    from transformers.models.falcon.modeling_falcon import FalconLinear

    assert FalconLinear.forward is not nn.Linear.forward
    assert computes_linear(FalconLinear(4, 3))


def test_conv1d():
    layer = Conv1D(3, 5)
    assert is_conv1d(layer) and weight_kind(layer, "weight", layer.weight) == "conv1d"
    assert shape_as_used(layer, "weight", layer.weight) == (3, 5)
    assert stored_transposed(layer, "weight", layer.weight)
    assert not stored_transposed(layer, "bias", layer.bias)


def test_a_module_that_is_called_conv1d_and_is_another_is_left():
    class Conv1D(nn.Module):
        def __init__(self, nf, nx):
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.empty(nx, nf)), nn.Parameter(torch.zeros(nf))

        def forward(self, x):
            return torch.relu(x @ self.weight + self.bias)

    assert not is_conv1d(Conv1D(3, 5))
    assert not is_conv1d(nn.Conv1d(3, 5, 1))


def test_trying_a_class_draws_no_random_number():
    class Own(OwnForward):
        pass

    torch.manual_seed(3)
    expected = torch.rand(1)
    layer, conv = Own(4, 3), Conv1D(3, 5)
    kinds._forward_is_transposed_linear.cache_clear()
    torch.manual_seed(3)
    assert computes_linear(layer) and is_conv1d(conv)
    assert torch.equal(torch.rand(1), expected)


def test_experts_in_both_orientations():
    mixtral = make("mixtral").model.layers[0].mlp.experts
    assert weight_kind(mixtral, "gate_up_proj", mixtral.gate_up_proj) == "experts"
    assert shape_as_used(mixtral, "gate_up_proj", mixtral.gate_up_proj) == (4, 192, 64)
    sizes = {"hidden_size": 64, "intermediate_size": 32, "num_local_experts": 4, "num_hidden_layers": 1, "head_dim": 16}
    config = transformers.GptOssConfig(**sizes, vocab_size=97, num_attention_heads=4, num_key_value_heads=2)
    experts = transformers.GptOssForCausalLM(config).model.layers[0].mlp.experts
    assert tuple(experts.gate_up_proj.shape) == (4, 64, 64) and experts.is_transposed
    assert shape_as_used(experts, "down_proj", experts.down_proj) == (4, 64, 32)
    assert weight_kind(experts, "gate_up_proj_bias", experts.gate_up_proj_bias) == "parameter"


class Straight(nn.Module):
    """One stack [E, N, K], as in JetMoe."""

    def __init__(self, num_experts, input_size, output_size):
        super().__init__()
        self.input_size, self.output_size = input_size, output_size
        self.weight = nn.Parameter(torch.empty(num_experts, output_size, input_size))


class Turned(Straight):
    """One stack [E, K, N]."""

    def __init__(self, num_experts, input_size, output_size):
        super().__init__(num_experts, output_size, input_size)
        self.input_size, self.output_size = input_size, output_size


class Untold(Straight):
    """Made in another way."""

    def __init__(self, shape):
        super().__init__(*shape)


@pytest.mark.parametrize("width", [6, 8])
def test_a_square_stack_lies_as_others_of_its_class(width):
    for module, turned in ((Straight(4, 8, width), False), (Turned(4, 8, width), True)):
        assert stack_is_transposed(module, "weight") is turned
        assert shape_as_used(module, "weight", module.weight) == (4, width, 8)
    assert stack_is_transposed(Untold((4, 8, width)), "weight") is (None if width == 8 else False)
