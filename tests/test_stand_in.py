"""Stacked int4 weights in a module's own forward: what torch's functions find where they expect a tensor."""

import pytest
import torch
from torch.nn import functional

import workbench as wb
from tests.oracles import random_weight
from workbench.experts import Int4Experts
from workbench.kinds import stack_is_transposed, weight_kind

E, N, K, GROUP = 4, 96, 64, 32


def stacks(transposed=False):
    """A stack, and the dense weight as it lay."""
    weight = random_weight(E * N, K, GROUP)
    stack = Int4Experts(weight, E, transposed=transposed, dtype=torch.float32)
    dense = weight.dequantize(torch.float32).view(E, N, K)
    return stack, dense.transpose(1, 2).contiguous() if transposed else dense


def near(found, wanted):
    assert found.shape == wanted.shape
    assert (found - wanted).norm() < 4e-3 * wanted.norm()


@pytest.mark.parametrize("index", [0, 3, torch.tensor(2)])
def test_a_linear_product_with_one_expert(index):
    stack, dense = stacks()
    x, bias = torch.randn(5, K), torch.randn(N)
    near(functional.linear(x, stack[index]), functional.linear(x, dense[index]))
    near(functional.linear(x, stack[index], bias), functional.linear(x, dense[index], bias))
    near(functional.linear(x, stack[index], bias=bias), functional.linear(x, dense[index], bias))


@pytest.mark.parametrize("multiply", [torch.matmul, torch.mm, lambda x, w: x @ w, lambda x, w: x.matmul(w)])
def test_a_matrix_product_with_one_transposed_expert(multiply):
    stack, dense = stacks(transposed=True)
    x = torch.randn(5, K)
    near(multiply(x, stack[1]), multiply(x, dense[1]))


@pytest.mark.parametrize("multiply", [torch.bmm, torch.matmul, lambda x, w: x @ w])
def test_a_batched_product_with_all_experts(multiply):
    stack, dense = stacks(transposed=True)
    x = torch.randn(E, 7, K)
    near(multiply(x, stack), multiply(x, dense))


def test_products_are_by_int4_weights(monkeypatch):
    monkeypatch.setattr(Int4Experts, "dequantize", lambda *_: pytest.fail("made dense"))
    stack, _ = stacks(transposed=True)
    torch.bmm(torch.randn(E, 3, K), stack)
    torch.randn(3, K) @ stack[0]


@pytest.mark.parametrize("transposed", [False, True])
def test_any_other_function_gets_the_dense_weight(transposed):
    stack, dense = stacks(transposed)
    assert stack.shape == dense.shape
    assert stack[2].shape == dense[2].shape
    assert torch.equal(torch.transpose(stack, 1, 2), stack.dequantize().transpose(1, 2))
    assert torch.equal(stack[1].T, stack.dequantize()[1].t())
    x = torch.randn(3, dense.shape[2])
    near(torch.einsum("mk,enk->emn", x, stack), torch.einsum("mk,enk->emn", x, dense))
    near(torch.matmul(x, stack[0].T), x @ dense[0].t())
    near(functional.linear(input=x, weight=stack[0]), functional.linear(x, dense[0]))


def test_shapes_tell_the_orientation():
    class Experts(torch.nn.Module):
        def __init__(self, up, down):
            super().__init__()
            self.gate_up_proj, self.down_proj = (torch.nn.Parameter(torch.empty(2, *s)) for s in (up, down))

    cases = {
        ((64, 48), (48, 32)): False,
        ((48, 64), (32, 48)): True,
        ((32, 32), (32, 32)): None,
        ((8, 9), (7, 5)): None,
    }
    for (up, down), transposed in cases.items():
        module = Experts(up, down)
        assert stack_is_transposed(module, "gate_up_proj") is transposed
        assert stack_is_transposed(module, "down_proj") is transposed
        kind = weight_kind(module, "down_proj", module.down_proj)
        assert kind == ("parameter" if transposed is None else "stack")


def test_one_stack_names_its_sides():
    class Parallel(torch.nn.Module):
        def __init__(self, shape, sides):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.empty(*shape))
            self.output_size, self.input_size = sides

    assert stack_is_transposed(Parallel((2, 8, 6), (8, 6)), "weight") is False
    assert stack_is_transposed(Parallel((2, 6, 8), (8, 6)), "weight") is True
    assert stack_is_transposed(Parallel((2, 6, 6), (6, 6)), "weight") is None
    assert stack_is_transposed(Parallel((2, 5, 5), (8, 6)), "weight") is None


def test_a_module_with_a_forward_of_its_own():
    class Parallel(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(E, N, K))
            self.output_size, self.input_size = N, K

        def forward(self, x):
            return torch.stack([functional.linear(x, self.weight[e]) for e in range(self.weight.shape[0])])

    model = torch.nn.Sequential(Parallel())
    x = torch.randn(3, K)
    dense = model(x)
    report = wb.quantize_(model, wb.Int4WeightOnlyConfig(group_size=GROUP))
    (row,) = report.coverage.int4_rows
    assert (row.name, row.kind, row.shape) == ("0.weight", "stack", (E, N, K))
    assert isinstance(model[0].weight, Int4Experts)
    assert (model(x) - dense).norm() < 0.2 * dense.norm()
