"""A second model over the same weights: its modules are its own, its tensors are those of the first.

So a model and its int4 form stand side by side, and only the int4 layers take memory; nothing that is done to the
twin (mode, configuration, layers) reaches the model it was made of.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping

from torch import nn

from workbench.errors import ModelError
from workbench.expert_routing import route_experts
from workbench.experts import Int4Experts
from workbench.layers import Int4Layer, layer_records, swap_layer, untie_embeddings, unties_head
from workbench.linear import Int4Linear
from workbench.offload import kept_elsewhere

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def twin_of(model: nn.Module, layers: Mapping[str, Int4Layer] | None = None) -> nn.Module:
    """Return a model that computes what `model` does, in evaluation mode, on the same tensors.

    Args:
        model: A live model, which stays as it is.
        layers: Layers that stand in the twin in place of the model's own, by name.

    Raises:
        ModelError: when the model's modules cannot be copied.
    """
    memo = _shared(model)
    try:
        twin: nn.Module = copy.deepcopy(model, memo)
    except Exception as error:  # whatever a module holds that cannot be copied, the person needs the reason
        raise ModelError(
            f"The modules of {type(model).__name__} cannot be copied: {type(error).__name__}: {error}",
            mend="keep locks, files and generators out of the modules",
        ) from error
    twin.eval()
    layers = dict(layers or {})
    if not layers:
        return twin
    for name, layer in layers.items():
        swap_layer(twin, name, layer)
    route_experts(twin)
    if unties_head(layer_records(model), layers):
        untie_embeddings(twin)
    return twin


def _shared(model: nn.Module) -> dict[int, object]:
    """Return what a copy takes as it is, as `copy.deepcopy` remembers it."""
    memo: dict[int, object] = {}
    for module in model.modules():
        shared: list[object] = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if isinstance(module, Int4Linear | Int4Experts):
            shared.append(module)
        memo |= {id(one): one for one in (*shared, *kept_elsewhere(module))}
        for name in _HOOKS:
            hooks = getattr(module, name)
            memo[id(hooks)] = OrderedDict((key, hook) for key, hook in hooks.items() if not _is_ours(hook))
    return memo


def _is_ours(hook: object) -> bool:
    """Say whether a hook only listens while the workbench collects inputs, maybe on another thread."""
    return str(getattr(hook, "__module__", "")).startswith("workbench.")
