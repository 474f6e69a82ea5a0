"""Random portable weights, and what a kernel must make of them: slow, in float64, obviously right."""

import torch

from workbench.affine import QuantizedWeight, group_count


def random_weight(n, k, group_size=64, domain="float", dtype=torch.bfloat16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    groups = (n, group_count(k, group_size))
    codes = torch.randint(0, 16, (n, k), dtype=torch.uint8, generator=generator)
    scale = (torch.rand(groups, generator=generator) * 0.02 + 0.001).to(dtype)
    zero = {
        "float": (torch.randn(groups, generator=generator) * 0.02).to(dtype),
        "int": torch.randint(0, 16, groups, dtype=torch.uint8, generator=generator),
        "symmetric": None,
    }[domain]
    return QuantizedWeight(codes, scale, zero, group_size, domain)


def oracle_weight(weight):
    """The weight as the kernel is told it, one element at a time in float64."""
    n, k = weight.shape
    scale = weight.scale.to(torch.bfloat16).double()
    zero = weight.zero_in_weight_units().to(torch.bfloat16).double()
    dense = torch.zeros(n, k, dtype=torch.float64)
    for column in range(k):
        group = column // weight.group_size
        dense[:, column] = (weight.codes[:, column].double() - 8) * scale[:, group] + zero[:, group]
    return dense


def assert_close(result, x, dense):
    """Within bf16 rounding of x and of the result, judged against the size of the sum's terms."""
    exact = x.double() @ dense.t()
    room = 0.01 * (x.double().abs() @ dense.abs().t()) + 1e-6
    assert ((result.double() - exact).abs() <= room).all()
