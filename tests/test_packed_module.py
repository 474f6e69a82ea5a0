"""A module with an int4 weight moves, is copied, saved and loaded without a change of a single code."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from tests.int4_layers import (
    DEVICES,
    DOMAINS,
    DTYPES,
    assert_same_layer,
    exact,
    make_input,
    make_layer,
    other_cpu_layout,
)
from tests.oracles import assert_close, oracle_weight, random_weight
from workbench import Int4Linear
from workbench.layout import Layout
from workbench.packing import pack

cuda = pytest.mark.cuda


# --- moving ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
def test_the_portable_weight_comes_back_exactly(device):
    for domain in DOMAINS:
        for dtype in (torch.bfloat16, torch.float32):
            weight = random_weight(17, 99, 32, domain, dtype)
            back = Int4Linear(weight, device=device).quantized_weight().to("cpu")
            assert torch.equal(back.codes, weight.codes) and torch.equal(back.scale, weight.scale)
            assert back.zero is weight.zero is None or torch.equal(back.zero, weight.zero)


def test_size_bytes_counts_what_is_held():
    layer = make_layer(64, 128, bias=None)
    assert layer.size_bytes == 64 * 64 + 64 * 4 * 2 * 2
    with_integers = make_layer(64, 128, bias=None, domain="int")
    assert with_integers.size_bytes == layer.size_bytes + 64 * 4


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_another_dtype_changes_bias_and_weight_and_no_code(dtype):
    layer = make_layer(dtype=torch.float32)
    before = copy.deepcopy(layer)
    assert layer.to(dtype) is layer
    assert (layer.dtype, layer.weight.dtype, layer.bias.dtype) == (dtype, dtype, dtype)
    assert torch.equal(layer.bias, before.bias.to(dtype))
    ours, theirs = layer.quantized_weight(), before.quantized_weight()
    assert torch.equal(ours.codes, theirs.codes) and torch.equal(ours.scale, theirs.scale)
    assert torch.equal(layer.scales_and_zeros, before.scales_and_zeros)
    assert torch.equal(layer.weight, before.weight.to(dtype))


@pytest.mark.parametrize(
    ("cast", "dtype"), [("half", torch.float16), ("bfloat16", torch.bfloat16), ("double", torch.float64)]
)
def test_half_and_its_kin(cast, dtype):
    model = nn.Sequential(make_layer(), nn.LayerNorm(48))
    getattr(model, cast)()
    assert (model[0].dtype, model[0].bias.dtype, model[1].weight.dtype) == (dtype, dtype, dtype)
    x = make_input(3, 100, dtype=dtype)
    assert model(x).dtype == dtype
    assert torch.allclose(model[0](x).double(), exact(model[0], x), rtol=0.02, atol=0.05)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("scale_dtype", [torch.bfloat16, torch.float32], ids=str)
def test_meta_and_back_with_to_empty(domain, scale_dtype):
    layer = make_layer(domain=domain, scale_dtype=scale_dtype)
    empty = copy.deepcopy(layer).to("meta")
    held = (empty.packed, empty.scales_and_zeros, empty.bias, empty.weight, empty.quantized_weight().codes)
    assert {tensor.device.type for tensor in held} == {"meta"}
    assert empty(torch.randn(2, 100, device="meta")).shape == (2, 48)
    back = empty.to_empty(device="cpu")
    assert back.packed.device.type == "cpu"
    back.load_state_dict(layer.state_dict())
    assert_same_layer(back, layer)


def test_a_layer_made_on_meta_is_filled_where_the_assigned_tensors_are():
    layer = make_layer()
    empty = Int4Linear(layer.quantized_weight().to("meta"), layer.bias.to("meta"))
    assert empty.packed.device.type == "meta"
    empty.load_state_dict(layer.state_dict(), assign=True)
    assert_same_layer(empty, layer)


@cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("shape", [(48, 100), (17, 333)])
def test_to_cuda_repacks_and_back_gives_equal_bits(shape, domain):
    layer = make_layer(*shape, domain=domain)
    before = copy.deepcopy(layer)
    x = make_input(5, shape[1])
    on_gpu = layer.to("cuda")
    assert on_gpu is layer and layer.packed.is_cuda and layer.packed.dtype == torch.int32
    assert_close(layer(x.cuda()).cpu() - layer.bias.cpu(), x, oracle_weight(before.quantized_weight()))
    assert_same_layer(layer.to("cpu"), before)


# --- copying, saving, loading ----------------------------------------------------------------------------------------


def through_torch_save(layer):
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize(
    "make_copy", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer)), through_torch_save]
)
@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("scale_dtype", [torch.bfloat16, torch.float32], ids=str)
def test_copies_are_equal_and_apart(make_copy, domain, scale_dtype):
    layer = make_layer(domain=domain, scale_dtype=scale_dtype)
    before = layer.state_dict()
    other = make_copy(layer)
    assert_same_layer(other, layer)
    other.packed.zero_()
    other.scales_and_zeros.zero_()
    with torch.no_grad():
        other.bias.zero_()
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


def test_a_layer_pickled_under_another_cpu_is_packed_anew():
    layer = make_layer(64, 128)
    foreign = copy.deepcopy(layer)
    foreign._layout = other_cpu_layout()
    foreign.packed = pack(layer.quantized_weight().codes, foreign._layout)
    assert not torch.equal(foreign.packed, layer.packed)
    assert_same_layer(pickle.loads(pickle.dumps(foreign)), layer)


@pytest.mark.parametrize("scale_dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("kind", ["cuda", None])
def test_a_layer_whose_tensors_were_moved_one_by_one_is_packed_anew(kind, scale_dtype):
    """As accelerate moves them: nobody calls the layer's own `.to`."""
    layer = make_layer(64, 128, scale_dtype=scale_dtype)
    moved = copy.deepcopy(layer)
    weight = layer.quantized_weight()
    moved._layout = kind and Layout(kind, 8)
    moved.packed = weight.packed_codes() if kind is None else pack(weight.codes, moved._layout)
    x = torch.randn(3, 128, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(moved(x), layer(x))
    assert_same_layer(moved, layer)
    x.requires_grad_()
    moved(x).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize(("domain", "zero"), [("float", "weight_zero"), ("int", "weight_zp"), ("symmetric", None)])
@pytest.mark.parametrize("scale_dtype", [torch.bfloat16, torch.float32], ids=str)
def test_the_state_dict_is_portable(domain, zero, scale_dtype):
    layer = make_layer(domain=domain, scale_dtype=scale_dtype)
    state = layer.state_dict(prefix="up.")
    found = {name: (value.dtype, tuple(value.shape)) for name, value in state.items()}
    expected = {
        "up.bias": (torch.float32, (48,)),
        "up.weight": (torch.uint8, (48, 50)),
        "up.weight_scale": (scale_dtype, (48, 4)),
    }
    if zero is not None:
        expected[f"up.{zero}"] = (torch.uint8 if domain == "int" else scale_dtype, (48, 4))
    assert found == expected
    assert torch.equal(state["up.weight"], layer.quantized_weight().packed_codes())
