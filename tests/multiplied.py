"""Which parameters a forward multiplies as matrices: watched at the operators, so that no kind is forgotten."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "matmul", "linear", "mkldnn_linear")
_PRODUCTS += ("_grouped_mm", "grouped_mm_fallback", "_native_multi_head_attention")


class _Watch(TorchDispatchMode):
    """Collects the storages that products read."""

    def __init__(self) -> None:
        super().__init__()
        self.read: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name.split("::")[-1] in _PRODUCTS:
            self.read |= {arg.untyped_storage().data_ptr() for arg in args if isinstance(arg, Tensor)}
        return func(*args, **(kwargs or {}))


def multiplied(model: nn.Module, inputs: dict[str, Tensor]) -> set[str]:
    """Names of the parameters of a float32 model that its forward multiplies as matrices.

    Biases that an operator adds on the way are left out, and so is a weight that is converted first.
    """
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.ndim >= 2:
            owners.setdefault(parameter.untyped_storage().data_ptr(), []).append(name)
    with _Watch() as watch, torch.no_grad():
        model(**inputs)
    return {name for storage in watch.read for name in owners.get(storage, [])}
