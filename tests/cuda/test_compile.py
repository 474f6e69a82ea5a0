"""torch.compile without a graph break, and CUDA graphs: captured once, replayed on new activations."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.oracles import random_weight
from workbench import Int4Linear
from workbench.choice import available_paths
from workbench.kernels import int4_linear
from workbench.packed import pack_weight


class Stack(nn.Module):
    def __init__(self, device, width=256, inner=512):
        super().__init__()
        self.up = Int4Linear(random_weight(inner, width), torch.linspace(-1, 1, inner), device=device)
        self.down = Int4Linear(random_weight(width, inner, seed=1), device=device)

    def forward(self, x):
        return x + self.down(torch.nn.functional.silu(self.up(x)))


def make_input(m, k, device, seed=0):
    return torch.randn(m, k, generator=torch.Generator().manual_seed(seed)).to(device, torch.bfloat16)


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_compiled_whole_and_for_every_batch(device, fresh_compiler):
    stack = Stack(device)
    counter = torch._dynamo.utils.counters
    counter.clear()
    compiled = torch.compile(stack, fullgraph=True, dynamic=True)
    for m in (2, 5, 64, 300):
        x = make_input(m, 256, device)
        with torch.no_grad():
            found, wanted = compiled(x), stack(x)
        assert found.dtype == torch.bfloat16
        assert torch.allclose(found.float(), wanted.float(), rtol=0.02, atol=0.02 * float(wanted.abs().mean()))
    assert counter["stats"]["unique_graphs"] == 1


def test_gradients_through_a_compiled_stack(device, fresh_compiler):
    stack = Stack(device)
    compiled = torch.compile(stack, fullgraph=True)
    found, wanted = (make_input(8, 256, device).requires_grad_() for _ in range(2))
    compiled(found).float().square().sum().backward()
    stack(wanted).float().square().sum().backward()
    assert torch.allclose(
        found.grad.float(), wanted.grad.float(), rtol=0.05, atol=0.05 * float(wanted.grad.abs().mean())
    )


def captured(call, *inputs):
    """Return a captured graph of `call` on `inputs` and its result; warmed up on another stream, as torch asks."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call(*inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call(*inputs)
    return graph, result


@pytest.mark.parametrize("path", ["op", "dequantize", "fused", None])
@pytest.mark.parametrize("m", [1, 16, 64, 300])
def test_every_path_in_a_captured_graph(m, path, gpu):
    if path is not None and path not in available_paths(gpu):
        pytest.skip(f"no {path} path here")
    packed = pack_weight(random_weight(1024, 512), gpu)
    x = make_input(m, 512, gpu)
    with torch.no_grad():
        graph, result = captured(lambda given: int4_linear(given, packed, path=path), x)
        for seed in (1, 2):
            x.copy_(make_input(m, 512, gpu, seed))
            graph.replay()
            torch.cuda.synchronize()
            assert torch.equal(result, int4_linear(x, packed, path=path))


def test_a_whole_stack_in_a_captured_graph(gpu):
    stack = Stack(gpu)
    x = make_input(4, 256, gpu)
    with torch.no_grad():
        graph, result = captured(stack, x)
        x.copy_(make_input(4, 256, gpu, 5))
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(result, stack(x))


def test_compiled_with_cuda_graphs(gpu, fresh_compiler):
    stack = Stack(gpu)
    compiled = torch.compile(stack, fullgraph=True, mode="reduce-overhead")
    with torch.no_grad():
        for seed in range(4):
            x = make_input(1, 256, gpu, seed)
            found = compiled(x).clone()
            wanted = stack(x)
            assert torch.allclose(found.float(), wanted.float(), rtol=0.02, atol=0.02 * float(wanted.abs().mean()))
