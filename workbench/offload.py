"""Models that accelerate spreads over devices (`device_map`): weights that it keeps elsewhere, hooks that must stay.

accelerate puts a hook on a module, which moves its inputs before a call and, where a weight does not fit on the device,
brings the weight in for the call and takes it away after it; between calls that weight is on the meta device.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

_HOOK = "_hf_hook"  # where accelerate keeps the hook of a module


def offloaded_values(module: nn.Module, name: str) -> Tensor | None:
    """Return a module's tensor; one that accelerate keeps in memory or on disk is read from there.

    Args:
        module: The module that holds it.
        name: Its name there, for instance "weight".

    Returns:
        The tensor; on the meta device when nobody has its values; None when the module has no such tensor.
    """
    tensor = getattr(module, name, None)
    if not isinstance(tensor, Tensor):
        return None
    if tensor.is_meta and (hook := _offloading_hook(module)) is not None:
        try:
            values: Tensor = hook.weights_map[name]
            return values.to(tensor.dtype)
        except KeyError:
            pass
    return tensor


def execution_device(module: nn.Module) -> torch.device | None:
    """Return the device on which accelerate runs a module whose weights it offloads; None for any other module."""
    hook = _offloading_hook(module)
    device = None if hook is None else hook.execution_device
    if device is None:
        return None
    return torch.device("cuda", device) if isinstance(device, int) else torch.device(device)


def layer_device(model: nn.Module, name: str) -> torch.device | None:
    """Return `execution_device` of the layer called `name`, or of the module that holds a stack of that name."""
    for path in (name, name.rpartition(".")[0]):
        try:
            return execution_device(model.get_submodule(path))
        except AttributeError:
            continue
    return None


def follow_hook(old: nn.Module, new: nn.Module) -> None:
    """Give a layer the hook of the one whose place it takes; it stays on its device, also where `old` was offloaded.

    `old` keeps its hook, and a layer that has one already keeps that: so a layer can be put back.
    """
    hook = getattr(old, _HOOK, None)
    if hook is None or hasattr(new, _HOOK):
        return
    from accelerate.hooks import add_hook_to_module  # loaded already: the hook is of it

    add_hook_to_module(new, _resident(hook))


def offload_note(model: nn.Module, names: Iterable[str]) -> tuple[str, ...]:
    """Say which of the layers that become int4 were offloaded; nothing when none was.

    Args:
        model: The model, before its layers are swapped.
        names: The layers' names.
    """
    found = [(name, device) for name in names if (device := layer_device(model, name)) is not None]
    if not found:
        return ()
    name, device = found[0]
    return (f"{len(found)} layers were offloaded, first {name}: in int4 they stay in the memory of {device}",)


def kept_elsewhere(module: nn.Module) -> list[object]:
    """Return what accelerate's hooks of a module hold weights in: a copy of the module has to share it."""
    names = ("weights_map", "tied_params_map")
    found = (getattr(hook, name, None) for hook in _hooks(module) for name in names)
    return [store for store in found if store is not None]


def _hooks(module: nn.Module) -> list[Any]:
    hook = getattr(module, _HOOK, None)
    return [] if hook is None else list(getattr(hook, "hooks", (hook,)))


def _offloading_hook(module: nn.Module) -> Any:
    """Return the hook that brings a module's weights in, or None."""
    for hook in _hooks(module):
        if getattr(hook, "offload", False) and getattr(hook, "weights_map", None) is not None:
            return hook
    return None


def _resident(hook: Any) -> Any:
    """Return a hook that moves inputs as `hook` does and leaves the weights where they are."""
    from accelerate.hooks import AlignDevicesHook, SequentialHook

    if isinstance(hook, SequentialHook):
        return SequentialHook(*map(_resident, hook.hooks))
    if not isinstance(hook, AlignDevicesHook):
        return hook
    return AlignDevicesHook(hook.execution_device, io_same_device=hook.io_same_device, skip_keys=hook.skip_keys)
