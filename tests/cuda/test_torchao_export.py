"""What a torchao export holds multiplies, in PyTorch's own op, as torchao calls it: with activations padded to 1024."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from tests.oracles import assert_close, oracle_weight, random_weight
from workbench.checkpoint.contents import Outline
from workbench.checkpoint.native import ModuleFormat
from workbench.targets.torchao import Torchao


@pytest.mark.parametrize("rows", [1, 5, 33])
@pytest.mark.parametrize("domain", ["float", "int", "symmetric"])
@pytest.mark.parametrize("group_size", [32, 64, 128, 256])
@pytest.mark.parametrize("shape", [(16, 1024), (17, 333), (100, 1500)])
def test_the_exported_tensors_multiply_as_our_weight(shape, group_size, domain, rows, gpu):
    weight = random_weight(*shape, group_size, domain)
    outline = Outline("a", {}, {"a": ModuleFormat.of(weight)}, {"a": "linear"}, (), {})
    tensors = {name: tensor.to(gpu) for name, tensor in Torchao().encode("a", weight, outline).items()}
    qdata, pairs = tensors["a._weight_qdata"], tensors["a._weight_scale_and_zero"]
    x = torch.randn(rows, shape[1], dtype=torch.bfloat16, device=gpu)
    wide = functional.pad(x, (0, -shape[1] % 1024))
    result = torch.ops.aten._weight_int4pack_mm(wide, qdata, group_size, pairs)[:, : shape[0]]
    assert_close(result.cpu(), x.cpu(), oracle_weight(weight))
