"""What stands in a model for an int4 layer while transformers loads its tensors."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from workbench.affine import QuantizedWeight
from workbench.checkpoint.native import ModuleFormat
from workbench.errors import CheckpointError, WorkbenchError
from workbench.experts import Int4Experts
from workbench.layers import Int4Layer, get_layer, lies_transposed, weight_as_used
from workbench.linear import Int4Linear
from workbench.offload import offloaded_values
from workbench.portable import portable_tensors, portable_weight


class PortableLinear(nn.Module):
    """Holds a weight's tensors while transformers fills them in; it becomes an int4 layer afterwards.

    Attributes:
        form: How the weight is stored.
        weight: uint8 [N, ceil(K/2)], and beside it the scale and, by domain, the zero point.
        bias: Parameter [N] or None.
        transposed: Whether the dense weight lay [..., K, N].
    """

    transposed = False

    def __init__(self, form: ModuleFormat, device: torch.device, bias: nn.Parameter | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.form = form
        self.in_features, self.out_features = form.in_features, form.out_features  # some architectures' inits read them
        self.dtype = dtype
        for name, (tensor_dtype, shape) in form.tensors().items():
            self.register_buffer(name, torch.empty(shape, dtype=tensor_dtype, device=device))
        self.bias = bias

    def finished(self, name: str) -> Int4Layer:
        """Return the int4 layer.

        Raises:
            CheckpointError: when a value is out of range.
        """
        tensors: dict[str, Tensor] = {
            suffix: getattr(self, suffix).to(dtype) for suffix, (dtype, _) in self.form.tensors().items()
        }  # exact: where transformers changes a dtype while loading, it widens
        try:
            weight = portable_weight(
                tensors,
                in_features=self.form.in_features,
                group_size=self.form.group_size,
                domain=self.form.domain,
                solved_by=self.form.solved_by,
            )
        except WorkbenchError as error:
            raise CheckpointError(f"{name}: {error.what}", allowed=error.allowed, mend=error.mend) from None
        if self.form.experts:
            return Int4Experts(weight, self.form.experts, dtype=self.dtype, transposed=self.transposed)
        return Int4Linear(weight, offloaded_values(self, "bias"), dtype=self.dtype)

    def fill(self, weight: QuantizedWeight) -> None:
        """Take the tensors of a weight."""
        for name, tensor in portable_tensors(weight).items():
            tensor._is_hf_initialized = True  # type: ignore[attr-defined]  # else transformers draws random values
            self.register_buffer(name, tensor)


def portable_layer(model: Any, name: str, form: ModuleFormat, dtype: torch.dtype) -> PortableLinear:
    """Return what stands in for a dense layer of a model that is loaded in `dtype`; nothing is swapped."""
    device = weight_as_used(model, name, read=False).device
    bias = None if form.experts else getattr(get_layer(model, name), "bias", None)
    layer = PortableLinear(form, device, bias, _layer_dtype(model, name, dtype))
    layer.transposed = lies_transposed(model, name)
    return layer


def _layer_dtype(model: Any, name: str, dtype: torch.dtype) -> torch.dtype:
    """Dtype that transformers gives a module's weight: float32 where the architecture keeps it so in 16 bits."""
    patterns: set[str] = set()
    if dtype in (torch.float16, torch.bfloat16):
        patterns |= set(model._keep_in_fp32_modules_strict or ())
    if dtype == torch.float16:
        patterns |= set(model._keep_in_fp32_modules or ())
    kept = any(re.search(pattern.replace("*", ".*"), f"{name}.weight") for pattern in patterns)
    return torch.float32 if kept else dtype
