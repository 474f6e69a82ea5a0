"""`Int4Experts`: the weights of all experts of a layer in int4, and the forward that runs them.

In transformers a mixture of experts keeps two parameters of three dimensions in one module, which routes tokens by an
implementation of its registry, `ALL_EXPERTS_FUNCTIONS`. Here one more is registered: the model's own router, gate and
activation stay, each expert that is hit is a product of an `Int4Linear`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from workbench.affine import QuantizedWeight
from workbench.config import Domain
from workbench.errors import ModelError, WeightError, WorkbenchError
from workbench.kinds import in_registry
from workbench.linear import Int4Linear
from workbench.portable import PortableWeight, portable_names, portable_tensors, portable_weight
from workbench.stand_in import ExpertStandIn, StandIn

IMPLEMENTATION = "int4_workbench"
_REGISTRY = "transformers.integrations.moe"


class Int4Experts(nn.Module, StandIn):
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
        """Return x[e] @ W[e]^T for x [E, M, K], as torch.bmm multiplies with a transposed stack."""
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
        if (registry := sys.modules.get(_REGISTRY)) is not None:
            _register(registry.ALL_EXPERTS_FUNCTIONS)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Int4Experts:
        for expert in self.experts:
            expert._apply(fn, recurse)
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination.update(portable_tensors(self.quantized_weight(), prefix))

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        names = portable_names(self.domain)
        given = {name: state_dict[prefix + name] for name in names if prefix + name in state_dict}
        missing_keys.extend(prefix + name for name in names if name not in given)
        if strict:
            own = {prefix + name for name in names}
            unexpected_keys.extend(key for key in state_dict if key.startswith(prefix) and key not in own)
        if len(given) < len(names):
            return
        device = given["weight"].device if local_metadata.get("assign_to_params_buffers", False) else self.device
        try:
            self._load(given, device)
        except WorkbenchError as error:
            error_msgs.append(f"{prefix.rstrip('.') or type(self).__name__}: {error}")

    def _load(self, tensors: dict[str, Tensor], device: torch.device) -> None:
        form = {"in_features": self.in_features, "group_size": self.group_size, "domain": self.domain}
        weight = portable_weight(tensors, **form)  # type: ignore[arg-type]
        rows = self.num_experts * self.out_features
        if weight.shape != (rows, self.in_features):
            raise WeightError(f"weight has {weight.shape[0]} rows.", allowed=f"{rows} for {self.num_experts} experts")
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


# --- the implementation that transformers' experts modules call ------------------------------------------------------


def experts_forward(module: Any, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """Run each token through its experts and add up what they give, weighted; in float32 between the products.

    Args:
        module: An experts module of transformers' registry; its stacks are `Int4Experts` or dense parameters.
        hidden: float [T, H].
        top_k_index: int [T, k], the experts of each token; one of `num_experts` or more is computed elsewhere.
        top_k_weights: float [T, k].

    Returns:
        [T, H] in hidden's dtype.
    """
    (tokens, k), ids = top_k_index.shape, top_k_index.reshape(-1)
    order = torch.argsort(ids, stable=True)
    rows, start = hidden[order // k], 0
    results = []
    for expert, count in enumerate(torch.bincount(ids, minlength=module.num_experts)[: module.num_experts].tolist()):
        if count:
            results.append(_one_expert(module, expert, rows[start : start + count]))
            start += count
    if start < tokens * k:
        results.append(hidden.new_zeros(tokens * k - start, hidden.shape[1], dtype=torch.float32))
    weighted = torch.cat(results) * top_k_weights.reshape(-1)[order].unsqueeze(-1)
    if start < tokens * k:
        weighted[start:] = 0
    back = torch.empty_like(order)
    back[order] = torch.arange(order.numel(), device=order.device)
    return weighted[back].view(tokens, k, -1).sum(dim=1).to(hidden.dtype)


def _one_expert(module: Any, expert: int, x: Tensor) -> Tensor:
    """Return what an expert makes of x [M, H], as transformers computes it: up, gate, down, norm."""
    if module.has_gate:
        inner = module._apply_gate(_project(module, "gate_up_proj", expert, x))
    else:
        inner = module.act_fn(_project(module, "up_proj", expert, x))
    result = _project(module, "down_proj", expert, inner)
    if getattr(module, "has_post_expert_norm", False):
        result = module.post_expert_norm(result.to(x.dtype))
    return result.to(torch.float32)


def _project(module: Any, name: str, expert: int, x: Tensor) -> Tensor:
    stack = getattr(module, name)
    if isinstance(stack, Int4Experts):
        result: Tensor = stack.experts[expert](x.to(torch.float32))
    else:
        weight = stack[expert]
        result = functional.linear(x.to(weight.dtype), weight.t() if module.is_transposed else weight)
    return result + getattr(module, f"{name}_bias")[expert] if module.has_bias else result


def route_experts(model: nn.Module) -> list[str]:
    """Let every experts module with int4 stacks run through `experts_forward`; dense ones keep their implementation.

    Returns:
        The paths of the modules that run through it.

    Raises:
        ModelError: when the model's registry of expert implementations cannot be found.
    """
    routed = []
    for path, module in model.named_modules():
        if not in_registry(module) or not any(isinstance(child, Int4Experts) for child in module.children()):
            continue
        registry, config = sys.modules.get(_REGISTRY), getattr(module, "config", None)  # loaded: the module is of it
        if registry is None or config is None:
            raise ModelError(f"{path} has int4 experts, and its registry of implementations cannot be found.")
        before = config._experts_implementation_internal or "eager"
        if not before.startswith(IMPLEMENTATION):
            config._experts_implementation_internal = f"{IMPLEMENTATION}+{before}"
        _register(registry.ALL_EXPERTS_FUNCTIONS)
        routed.append(path)
    return routed


def _register(functions: Any) -> None:
    """Register `experts_forward` beside each implementation that dense modules of the same configuration may keep."""
    for before in ("eager", *functions):
        if not before.startswith(IMPLEMENTATION) and f"{IMPLEMENTATION}+{before}" not in functions:
            functions.register(f"{IMPLEMENTATION}+{before}", _beside(functions, before))


def _beside(functions: Any, before: str) -> Callable[..., Tensor]:
    def forward(module: Any, *args: Any, **kwargs: Any) -> Tensor:
        if any(isinstance(child, Int4Experts) for child in module.children()):
            return experts_forward(module, *args, **kwargs)
        own = type(module).forward.__wrapped__  # what the class itself defines: "eager"
        return functions.get_interface(before, own)(module, *args, **kwargs)  # type: ignore[no-any-return]

    return forward
