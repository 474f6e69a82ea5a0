"""What stands in a model's own forward for a stacked int4 parameter: torch functions see it where they expect a tensor.

A product with it becomes one with int4 weights; any other function gets the dequantized weight, which is slower and
right. It is no tensor: nothing is dequantized before somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from workbench.linear import Int4Linear

_LINEAR = {functional.linear}
_MATMUL = {torch.matmul, torch.mm, torch.bmm, Tensor.matmul, Tensor.__matmul__, Tensor.mm, Tensor.bmm}


class StandIn:
    """Base of the stand-ins. `transposed` says that the parameter lies [..., K, N], and is multiplied as x @ w."""

    transposed: bool

    def dequantize(self) -> Tensor:
        """Return the dense weight as the parameter lay, in the dtype of the layer."""
        raise NotImplementedError

    def product(self, x: Tensor) -> Tensor | None:
        """Return x @ W^T, x of any float dtype, of the weights [..., N, K]; None where x has no shape for it."""
        raise NotImplementedError

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Multiply with int4 weights where a product asks for them in their orientation, else dequantize."""
        kwargs = kwargs or {}
        if len(args) >= 2 and isinstance(args[1], StandIn) and isinstance(args[0], Tensor):
            x, weight = args[0], args[1]
            if func in (_MATMUL if weight.transposed else _LINEAR):
                result = weight.product(x)
                if result is not None:
                    bias = kwargs.get("bias", args[2] if len(args) > 2 else None)
                    return result if bias is None else result + bias
        dense = [arg.dequantize() if isinstance(arg, StandIn) else arg for arg in args]
        return func(*dense, **{key: v.dequantize() if isinstance(v, StandIn) else v for key, v in kwargs.items()})


class ExpertStandIn(StandIn):
    """One expert of a stack, as `stack[e]` gives it."""

    def __init__(self, expert: Int4Linear, transposed: bool) -> None:
        self._expert, self.transposed = expert, transposed

    @property
    def shape(self) -> torch.Size:
        """Shape of the parameter's slice."""
        n, k = self._expert.out_features, self._expert.in_features
        return torch.Size((k, n) if self.transposed else (n, k))

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the dense weight."""
        return self._expert.dtype

    @property
    def device(self) -> torch.device:
        """Device of the packed weight."""
        return self._expert.device

    def dequantize(self) -> Tensor:
        """Return the dense weight as the slice lay, in the dtype of the layer."""
        return self._expert.weight.t() if self.transposed else self._expert.weight

    def product(self, x: Tensor) -> Tensor | None:
        """Return x @ W^T [..., N] for x [..., K] of any float dtype."""
        return self._expert(x)  # type: ignore[no-any-return]

    @property
    def T(self) -> Tensor:
        """The dense weight in the dtype of the layer, transposed."""
        return self.dequantize().t()

    def __rmatmul__(self, x: Tensor) -> Any:
        return torch.matmul(x, self)  # type: ignore[arg-type]
