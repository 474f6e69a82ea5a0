"""`Int4Experts`: the weights of all experts of a layer in int4, where the model had a stacked parameter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from workbench.affine import QuantizedWeight
from workbench.config import Domain
from workbench.errors import WeightError
from workbench.expert_routing import register_if_loaded
from workbench.linear import Int4Linear
from workbench.portable import PortableWeight
from workbench.portable_module import Fit, PortableModule
from workbench.stand_in import ExpertStandIn, StandIn


class Int4Experts(PortableModule, StandIn):
    """The int4 weights of E experts, W [E, out_features, in_features]; it stands where the dense parameter stood.

    Its state dict holds the portable tensors of the stacked weight [E * out_features, in_features]: expert e is rows
    e * out_features to (e + 1) * out_features.

    Attributes:
        experts: One `Int4Linear` without bias for each expert.
        num_experts: E.
        out_features: N of each expert.
        in_features: K of each expert.
        transposed: Whether the dense parameter lay [E, K, N].
    """

    def __init__(
        self,
        weight: QuantizedWeight | PortableWeight,
        num_experts: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.bfloat16,
        inner_k_tiles: int = 8,
        transposed: bool = False,
    ) -> None:
        """Cut the stacked `weight` [E * N, K] into its experts and pack each for `device`.

        Raises:
            WeightError: when its rows do not divide into `num_experts`.
        """
        rows = weight.shape[0]
        if num_experts < 1 or rows % num_experts:
            raise WeightError(f"{rows} rows for {num_experts} experts.", allowed="the same number of rows for each")
        super().__init__()
        self.transposed = transposed
        self.num_experts, self.out_features, self.in_features = num_experts, rows // num_experts, weight.shape[1]
        self._cut(weight, device, dtype, inner_k_tiles)

    @property
    def group_size(self) -> int:
        """Weights per group along K."""
        return self.experts[0].group_size

    @property
    def domain(self) -> Domain:
        """Where the zero points live."""
        return self.experts[0].domain

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the dense weight that this stands for."""
        return self.experts[0].dtype

    @property
    def device(self) -> torch.device:
        """Device of the packed weights."""
        return self.experts[0].device

    @property
    def inner_k_tiles(self) -> int:
        """Tile count of the CUDA layout."""
        return self.experts[0].inner_k_tiles

    @property
    def solved_by(self) -> str:
        """The form of the solver that found the codes; "" where nobody knows."""
        return self.experts[0].solved_by

    @property
    def stored_scale(self) -> Tensor | None:
        """The first expert's scales where they are stored in float32, else None."""
        return self.experts[0].stored_scale

    @property
    def size_bytes(self) -> int:
        """Bytes held in memory for the weights."""
        return sum(expert.size_bytes for expert in self.experts)

    @property
    def shape(self) -> torch.Size:
        """Shape of the parameter that this stands for, as it lay."""
        sides = (self.out_features, self.in_features)
        return torch.Size((self.num_experts, *(sides[::-1] if self.transposed else sides)))

    def __getitem__(self, expert: int | Tensor) -> ExpertStandIn:
        """Return what stands for the matrix of one expert in the model's own forward."""
        return ExpertStandIn(self.experts[int(expert)], self.transposed)

    def product(self, x: Tensor) -> Tensor | None:
        """Return x[e] @ W[e]^T [E, M, N] for x float [E, M, K], as torch.bmm multiplies with a transposed stack."""
        if x.ndim != 3 or x.shape[0] != self.num_experts:
            return None
        return torch.stack([expert(part) for expert, part in zip(self.experts, x, strict=True)])

    def quantized_weight(self) -> QuantizedWeight:
        """Return the portable weight of all experts, stacked: [E * N, K]."""
        parts = [expert.quantized_weight() for expert in self.experts]
        first = parts[0]
        zero = None if first.zero is None else torch.cat([part.zero for part in parts if part.zero is not None])
        codes, scale = torch.cat([part.codes for part in parts]), torch.cat([part.scale for part in parts])
        return QuantizedWeight(codes, scale, zero, first.group_size, first.domain, first.solved_by)

    def dequantize(self) -> Tensor:
        """Return the weights that the kernels multiply with in `dtype`, as the parameter lay."""
        weight = torch.stack([expert.weight for expert in self.experts])
        return weight.transpose(1, 2) if self.transposed else weight

    def notes(self) -> list[str]:
        """Say how an expert runs where it is."""
        return self.experts[0].notes()

    def extra_repr(self) -> str:
        """Summarize the layer for `print(model)`."""
        return (
            f"num_experts={self.num_experts}, in_features={self.in_features}, out_features={self.out_features}, "
            f"group_size={self.group_size}, domain={self.domain}"
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Unpickle; the model's configuration names an implementation that this process may not have registered yet."""
        nn.Module.__setstate__(self, state)
        register_if_loaded()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Int4Experts:
        for expert in self.experts:
            expert._apply(fn, recurse)
        return self

    def _fit(self) -> Fit:
        rows, owner = self.num_experts * self.out_features, f"{self.num_experts} experts"
        return Fit(rows, self.in_features, self.group_size, self.domain, owner)

    def _take(self, weight: PortableWeight, device: torch.device) -> None:
        self._cut(weight, device, self.dtype, self.inner_k_tiles)

    def _cut(
        self,
        weight: QuantizedWeight | PortableWeight,
        device: torch.device | str | None,
        dtype: torch.dtype,
        inner_k_tiles: int,
    ) -> None:
        rows = self.out_features
        parts = [weight.part(slice(e * rows, (e + 1) * rows)) for e in range(self.num_experts)]
        self.experts = [  # a list: no submodules
            Int4Linear(part, device=device, dtype=dtype, inner_k_tiles=inner_k_tiles) for part in parts
        ]
