"""The forward of an experts module whose stacked weights are int4: tokens go to their experts, and come back weighted.

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

from workbench.errors import ModelError
from workbench.kinds import in_registry
from workbench.stand_in import StandIn

IMPLEMENTATION = "int4_workbench"
_REGISTRY = "transformers.integrations.moe"


def experts_forward(module: Any, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """Run each token through its experts and add up what they give, weighted; in float32 between the products.

    Args:
        module: An experts module of transformers' registry; its stacks are int4 (`Int4Experts`) or dense parameters.
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
    if _is_int4(stack):
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
        if not in_registry(module) or not _has_int4(module):
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


def register_if_loaded() -> None:
    """Register the implementation where transformers' experts modules are loaded: models that name it run then."""
    if (registry := sys.modules.get(_REGISTRY)) is not None:
        _register(registry.ALL_EXPERTS_FUNCTIONS)


def _register(functions: Any) -> None:
    """Register `experts_forward` beside each implementation that dense modules of the same configuration may keep."""
    for before in ("eager", *functions):
        if not before.startswith(IMPLEMENTATION) and f"{IMPLEMENTATION}+{before}" not in functions:
            functions.register(f"{IMPLEMENTATION}+{before}", _beside(functions, before))


def _beside(functions: Any, before: str) -> Callable[..., Tensor]:
    def forward(module: Any, *args: Any, **kwargs: Any) -> Tensor:
        if _has_int4(module):
            return experts_forward(module, *args, **kwargs)
        own = type(module).forward.__wrapped__  # what the class itself defines: "eager"
        return functions.get_interface(before, own)(module, *args, **kwargs)  # type: ignore[no-any-return]

    return forward


def _has_int4(module: nn.Module) -> bool:
    return any(_is_int4(child) for child in module.children())


def _is_int4(stack: object) -> bool:
    return isinstance(stack, StandIn)
