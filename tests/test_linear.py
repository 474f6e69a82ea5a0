"""`Int4Linear` against an fp64 oracle, and as a module: its bias, training, compiling."""

import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

import workbench.packed as packed
from tests.int4_layers import DEVICES, DOMAINS, DTYPES, exact, make_input, make_layer, other_cpu_layout
from tests.oracles import assert_close, oracle_weight, random_weight
from workbench import Int4Linear, Int4WeightOnlyConfig, quantize_weight
from workbench.choice import current_table
from workbench.errors import ConfigError, KernelError, WeightError
from workbench.kernels import int4_linear
from workbench.native import native_note

GROUP_SIZES = [32, 64, 128, 256]
cuda = pytest.mark.cuda


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param


# --- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (16, 32), (17, 33), (48, 100), (100, 300), (80, 250), (64, 512)])
@pytest.mark.parametrize("group_size", GROUP_SIZES)
@pytest.mark.parametrize("domain", DOMAINS)
def test_against_the_oracle(domain, group_size, shape, device):
    layer = make_layer(*shape, group_size=group_size, domain=domain, bias=None, device=device)
    for rows in (1, 5, 70):
        x = make_input(rows, shape[1], dtype=torch.bfloat16, device=device)
        assert_close(layer(x).cpu(), x.cpu(), oracle_weight(layer.quantized_weight().to("cpu")))


@pytest.mark.parametrize("bias", [None, *DTYPES], ids=str)
@pytest.mark.parametrize("activation", DTYPES, ids=str)
@pytest.mark.parametrize("weight", DTYPES, ids=str)
def test_all_float_dtypes_of_weight_activation_and_bias(weight, activation, bias, device):
    linear = nn.Linear(100, 48, bias=bias is not None, dtype=weight)
    if bias is not None:
        linear.bias = nn.Parameter(linear.bias.to(bias))
    layer = Int4Linear.from_linear(linear.to(device), Int4WeightOnlyConfig(group_size=32))
    assert (layer.dtype, layer.weight.dtype) == (weight, weight)
    assert layer.bias is None or layer.bias.dtype == bias
    x = make_input(7, 100, dtype=activation, device=device)
    result = layer(x)
    assert (result.dtype, result.shape, result.device) == (activation, (7, 48), x.device)
    assert torch.allclose(result.cpu().double(), exact(layer, x), rtol=0.02, atol=0.05)


@pytest.mark.parametrize("lead", [(), (1,), (0,), (2, 3), (2, 0, 3), (1, 1, 1, 4)])
@pytest.mark.parametrize("bias", [None, torch.float32], ids=str)
def test_batch_dimensions_and_empty_batches(lead, bias, device):
    layer = make_layer(bias=bias, device=device)
    x = make_input(*lead, 100, device=device)
    result = layer(x)
    assert result.shape == (*lead, 48)
    assert torch.equal(result.reshape(-1, 48), layer(x.reshape(-1, 100)))


def test_activations_that_are_not_contiguous(device):
    layer = make_layer(device=device)
    whole = make_input(100, 2, 6, device=device)
    for x in (
        whole.permute(2, 1, 0),
        whole[:, 0, ::2].t(),
        whole[:, :1, 0].t().expand(4, 100),
        whole[:, 1].t().flip(0),
    ):
        assert torch.equal(layer(x), layer(x.contiguous()))


def test_the_weight_is_what_the_kernel_multiplies_with(device):
    layer = make_layer(scale_dtype=torch.float32, device=device, dtype=torch.float32, bias=None)
    assert torch.allclose(
        layer.weight.cpu().double(), oracle_weight(layer.quantized_weight().to("cpu")), rtol=1e-6, atol=1e-7
    )
    identity = torch.eye(100, dtype=torch.bfloat16, device=device)
    assert torch.allclose(layer(identity).t().float(), layer.weight, rtol=2**-7, atol=1e-6)


def test_from_linear_stores_what_the_solver_found():
    linear = nn.Linear(100, 48)
    config = Int4WeightOnlyConfig(group_size=64, use_hqq=True)
    layer = Int4Linear.from_linear(linear, config)
    solved = quantize_weight(linear.weight, config)
    assert torch.equal(layer.quantized_weight().codes, solved.codes)
    assert torch.equal(layer.bias, linear.bias)
    assert (layer.domain, layer.group_size) == ("float", 64)
    assert Int4Linear.from_linear(linear, config.resolved("cpu")).group_size == 64
    assert Int4Linear.from_linear(linear, domain="symmetric", solver="rtn").domain == "symmetric"


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"bias": torch.zeros(16)}, WeightError, r"bias is torch.float32 \[16\].*\[48\] for 48 rows"),
        ({"bias": torch.zeros(48, dtype=torch.int32)}, WeightError, r"bias is torch.int32 \[48\].*a float dtype"),
        ({"dtype": torch.int8}, WeightError, "dtype=torch.int8"),
        ({"inner_k_tiles": 3}, ConfigError, "inner_k_tiles=3"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Int4Linear(random_weight(48, 100), **arguments)


def test_only_a_dense_linear_layer_with_finite_weights_is_quantized():
    with pytest.raises(WeightError, match=r"proj is a Conv1d.*nn.Linear"):
        Int4Linear.from_linear(nn.Conv1d(4, 4, 1), name="proj")
    linear = nn.Linear(100, 48)
    with torch.no_grad():
        linear.weight[3, 7] = float("nan")
    with pytest.raises(WeightError, match=r"layers.0.up\[3, 7\] is nan"):
        Int4Linear.from_linear(linear, name="layers.0.up")


@pytest.mark.parametrize("value", [torch.zeros(48, 100), nn.Parameter(torch.zeros(48, 100)), None])
def test_the_weight_is_read_only(value):
    layer = make_layer()
    with pytest.raises(WeightError, match=r"read-only.*make a new layer"):
        layer.weight = value
    before = layer.weight.clone()
    layer.weight.zero_()
    assert torch.equal(layer.weight, before)


def test_an_activation_that_does_not_fit_is_refused():
    layer = make_layer()
    with pytest.raises(KernelError, match=r"\[3, 99\].*\[\.\.\., 100\]"):
        layer(torch.randn(3, 99))
    with pytest.raises(KernelError, match=r"activation is on meta, the weight on cpu.*\.to\('meta'\)"):
        layer(torch.randn(3, 100, device="meta"))
    with pytest.raises(KernelError, match=r"int32.*cast it"):
        layer(torch.zeros(3, 100, dtype=torch.int32))


TAMPERED = [
    ("packed", lambda t: t[:-16], "packed is"),
    ("packed", lambda t: t.to(torch.int32), "packed is torch.int32"),
    ("packed", lambda t: t.t().contiguous().t(), "not contiguous"),
    ("packed", lambda t: t.to("meta"), "on cpu, the weight on meta"),
    ("scales_and_zeros", lambda t: t.float(), "scales_and_zeros is torch.float32"),
    ("scales_and_zeros", lambda t: t[1:], r"scales_and_zeros is .*Allowed: a contiguous .* \[4, 64, 2\]"),
    ("scales_and_zeros", lambda t: t[:0], r"scales_and_zeros is .*Allowed: a contiguous .* \[4, 64, 2\]"),
    ("scales_and_zeros", lambda t: t.to("meta"), "its scales on meta"),
    ("_layout", lambda _: other_cpu_layout(), "packed for cpu/.*but this process reads"),
    ("group_size", lambda _: 48, "group_size=48"),
    ("in_features", lambda _: 64, r"\[\.\.\., 64\]"),
]


@pytest.mark.parametrize(("name", "tamper", "message"), TAMPERED)
def test_a_layer_that_was_tampered_with_is_refused_after_it_ran_well(name, tamper, message):
    layer = make_layer(64, 128)
    x = make_input(1, 128)
    assert layer(x).isfinite().all()
    setattr(layer, name, tamper(getattr(layer, name)))
    with pytest.raises(KernelError, match=message):
        layer(x)


# --- the bias --------------------------------------------------------------------------------------------------------


def test_the_bias_is_a_copy_and_keeps_requires_grad():
    linear = nn.Linear(100, 48)
    layer = Int4Linear.from_linear(linear)
    assert layer.bias.requires_grad
    with torch.no_grad():
        layer.bias.add_(1)
    assert not torch.equal(layer.bias, linear.bias)
    linear.bias.requires_grad_(False)
    assert not Int4Linear.from_linear(linear).bias.requires_grad
    assert not layer.requires_grad_(False).bias.requires_grad
    assert layer.to(torch.float16).bias.requires_grad is False


@cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_layer_of_which_a_part_is_on_cuda_is_refused_there():
    layer, x = make_layer(64, 128), make_input(1, 128, device="cuda")
    with pytest.raises(KernelError, match=r"The activation is on cuda:0, the weight on cpu.*\.to\('cuda:0'\)"):
        layer(x)
    weight, parts = layer.packed_weight(), (layer.packed.cuda(), layer.scales_and_zeros.cuda())
    with pytest.raises(KernelError, match=r"packed for cpu/.*but this process reads cuda"):
        int4_linear(x, replace(weight, packed=parts[0], scales_and_zeros=parts[1]))
    layer.packed, layer.scales_and_zeros = parts  # moved one by one: packed anew, but the bias was left behind
    with pytest.raises(KernelError, match=r"The bias is on cpu, the packed weight on cuda:0.*\.to\('cuda:0'\)"):
        layer(x)


def test_a_bias_on_another_device_is_refused():
    layer = make_layer(64, 128)
    layer.bias = torch.nn.Parameter(layer.bias.to("meta"))
    with pytest.raises(KernelError, match=r"The bias is on meta, the packed weight on cpu.*\.to\('cpu'\)"):
        layer(make_input(1, 128))


# --- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(48, 100), (17, 33)])
def test_gradients_are_those_of_the_dequantized_linear(shape, dtype, device):
    layer = make_layer(*shape, device=device)
    x = make_input(2, 3, shape[1], dtype=dtype, device=device).requires_grad_()
    upstream = torch.randn(2, 3, shape[0], generator=torch.Generator().manual_seed(2)).to(device, dtype)
    layer(x).backward(upstream)
    dense = x.detach().cpu().double().requires_grad_()
    bias = layer.bias.detach().cpu().double().requires_grad_()
    functional.linear(dense, oracle_weight(layer.quantized_weight().to("cpu")), bias).backward(upstream.cpu().double())
    assert x.grad.dtype == dtype
    assert torch.allclose(x.grad.cpu().double(), dense.grad, rtol=0.02, atol=0.02)
    assert torch.allclose(layer.bias.grad.cpu().double(), bias.grad, rtol=0.02, atol=0.02)


def test_gradcheck_where_weights_are_dequantized(monkeypatch):
    monkeypatch.setattr(packed, "INT4_OPS", {})
    layer = make_layer(5, 7, bias=torch.float64)
    x = make_input(2, 7, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(layer, (x,))
    assert torch.autograd.gradgradcheck(layer, (x,))


def test_a_bias_can_be_trained():
    layer = make_layer()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    x, target = make_input(8, 100), torch.zeros(8, 48)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = functional.mse_loss(layer(x), target)
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses == sorted(losses, reverse=True) and losses[0] > losses[-1]


def test_an_empty_batch_has_gradients():
    layer = make_layer()
    x = torch.randn(0, 100, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.shape == (0, 100)
    assert torch.equal(layer.bias.grad, torch.zeros(48))


# --- as a module -----------------------------------------------------------------------------------------------------


def test_it_is_no_dense_linear_layer_and_has_one_parameter():
    layer = make_layer()
    assert not isinstance(layer, nn.Linear)
    assert [name for name, _ in layer.named_parameters()] == ["bias"]
    assert list(make_layer(bias=None).parameters()) == []
    assert sum(p.numel() for p in layer.parameters()) == 48
    assert layer.weight.shape == (48, 100)
    assert (layer.weight.dtype, layer.weight.device) == (torch.bfloat16, torch.device("cpu"))
    assert not layer.weight.requires_grad
    assert "in_features=100, out_features=48, bias=True, group_size=32, domain=float" in repr(layer)


def test_notes_say_how_it_runs():
    kernel, choice = make_layer(64, 128).notes()
    assert kernel == f"int4 op of cpu, bfloat16 inside; {native_note()}"
    assert choice == f"path by batch size: {current_table('cpu').note}"
    notes = make_layer(48, 100, dtype=torch.float16, scale_dtype=torch.float32).notes()
    assert notes == [
        kernel,
        choice,
        "padded in the kernel's layout: K 100→128",
        "activations of float16 are cast to bfloat16 for the kernel and back",
        "scales are stored in float32 and rounded to bfloat16 for the kernel",
    ]
    (note,) = make_layer(48, 100).to("meta").notes()
    assert "meta has no int4 op here (cpu, cuda have)" in note


BACKENDS = ["eager", "aot_eager", *(["inductor"] if shutil.which("c++") else [])]  # inductor compiles C++


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(17, 99), (16, 100), (32, 256)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_compiles_whole_with_the_results_and_gradients_of_eager_mode(backend, shape, dtype):
    torch.compiler.reset()
    layer = make_layer(*shape)
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    for rows in (1, 5, 6):
        x = make_input(rows, shape[1], dtype=dtype)
        with torch.no_grad():
            result, eager = compiled(x), layer(x)
        if backend == "inductor":  # it adds the bias before the product is rounded
            assert torch.allclose(result.float(), eager.float(), rtol=2**-7, atol=2**-8)
        else:
            assert torch.equal(result, eager)
    ours, theirs = (make_input(4, shape[1], dtype=dtype).requires_grad_() for _ in range(2))
    compiled(ours).sum().backward()
    layer(theirs).sum().backward()
    assert torch.allclose(ours.grad.float(), theirs.grad.float(), rtol=0.01, atol=1e-3)


def test_autocast_gives_its_dtype_with_a_bias_of_any():
    layer, x = make_layer(bias=torch.float32), make_input(3, 100)
    with torch.autocast("cpu", torch.bfloat16):
        result = layer(x)
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, layer(x.bfloat16()))


def test_inference_mode_and_transforms():
    layer, x = make_layer(), make_input(3, 100)
    with torch.inference_mode():
        assert torch.equal(layer(x), layer(x.clone()))
    gradient = torch.func.grad(lambda rows: layer(rows).square().sum())(x)
    leaf = x.clone().requires_grad_()
    layer(leaf).square().sum().backward()
    assert torch.equal(gradient, leaf.grad)
    shifted = torch.func.functional_call(layer, {"bias": layer.bias + 1}, (x,))
    assert torch.allclose(shifted, layer(x) + 1, atol=1e-5)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_vmap():
    layer, x = make_layer(), make_input(4, 3, 100)
    assert torch.equal(torch.func.vmap(layer)(x), layer(x))
    each = torch.func.vmap(torch.func.grad(lambda rows: layer(rows).square().sum()))(x)
    leaf = x.clone().requires_grad_()
    layer(leaf).square().sum().backward()
    assert torch.allclose(each, leaf.grad, rtol=0.02, atol=0.02)
