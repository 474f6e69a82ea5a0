"""What `load_model` passes on to transformers about dtypes and devices: checked, and by the names of today."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from workbench.errors import ConfigError

DeviceMap = str | int | torch.device | Mapping[str, str | int | torch.device]
_PLANS = ("auto", "balanced", "balanced_low_0", "sequential")
_FLOATS = ("float16", "bfloat16", "float32", "float64")


def loading_dtype(dtype: str | torch.dtype, torch_dtype: str | torch.dtype | None = None) -> str | torch.dtype:
    """Return the dtype to load in, or "auto", which is what the checkpoint says.

    Args:
        dtype: "auto", a float dtype of torch, or its name with or without "torch.".
        torch_dtype: The older name of the same argument, which is then taken.

    Raises:
        ConfigError: for another dtype, or when both say something different.
    """
    given = _as_dtype(dtype)
    if torch_dtype is None:
        return given
    older = _as_dtype(torch_dtype)
    if given not in ("auto", older):
        raise ConfigError(f"dtype={dtype!r} and torch_dtype={torch_dtype!r}.", mend="give dtype alone")
    return older


def placement(
    device: str | torch.device | None = None,
    device_map: DeviceMap | None = None,
    max_memory: Mapping[int | str, int | str] | None = None,
    offload_folder: str | Path | None = None,
) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` that say where the weights go; none when nothing is asked for.

    Raises:
        ConfigError: for arguments that contradict each other, an unknown plan or device, or one that is not here.
    """
    if device is not None:
        _check_device(device, f"device={str(device)!r}", "")
    if device_map is None:
        given = {"max_memory": max_memory, "offload_folder": offload_folder}
        if alone := [name for name, value in given.items() if value is not None]:
            raise ConfigError(f"{alone[0]} without device_map.", mend='add device_map="auto"')
        return {}
    if device is not None:
        raise ConfigError(f"device={str(device)!r} and device_map={device_map!r}.", mend="give one of them")
    found: dict[str, Any] = {"device_map": _checked_map(device_map)}
    if max_memory is not None:
        found["max_memory"] = dict(max_memory)
    if offload_folder is not None:
        found["offload_folder"] = str(offload_folder)
    return found


def _as_dtype(value: Any) -> str | torch.dtype:
    if value == "auto":
        return "auto"
    name = str(value).removeprefix("torch.")
    if not isinstance(value, str | torch.dtype) or name not in _FLOATS:
        raise ConfigError(f"dtype={value!r}.", allowed=f"'auto', {', '.join(_FLOATS)}, as names or as torch dtypes")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _checked_map(device_map: Any) -> Any:
    said = f"device_map={device_map!r}"
    plans = f", or one of {', '.join(map(repr, _PLANS))}, or a dictionary from module to device or 'disk'"
    if isinstance(device_map, Mapping):
        for place in device_map.values():
            if place != "disk":
                _check_device(place, said, plans)
        return dict(device_map)
    if device_map not in _PLANS:
        _check_device(device_map, said, plans)
    return device_map


def _check_device(place: Any, said: str, plans: str) -> None:
    """Refuse what is no device, and a device that this machine or this PyTorch lacks."""
    try:
        device = torch.device(place)
    except (RuntimeError, TypeError):
        raise ConfigError(f"{said}: no such device.", allowed=f"a device such as 'cpu' or 'cuda'{plans}") from None
    count = _devices_here(device.type)
    if count is not None and (device.index or 0) >= count:
        here = f"has {count} of that kind" if count else f"has none that PyTorch {torch.__version__} can use"
        raise ConfigError(f"{said}: this machine {here}.", allowed=f"a device that is here, such as 'cpu'{plans}")


def _devices_here(kind: str) -> int | None:
    """Count the devices of a kind; None where PyTorch does not say."""
    if kind in ("cpu", "meta"):
        return None
    try:
        module = torch.get_device_module(kind)
        return int(module.device_count()) if module.is_available() else 0
    except (RuntimeError, AttributeError):
        return None
