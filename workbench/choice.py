"""Which paths an int4 product has on this machine, which of them it takes, and why: said in a sentence."""

from __future__ import annotations

import functools
import os
import platform

import torch

import workbench
from workbench.cuda_paths import has_fused_path, tiles_note
from workbench.layout import Layout
from workbench.machine import device_capability, device_name
from workbench.native import native_kernels, native_note
from workbench.packed import INT4_OPS, PackedWeight, has_kernel, readable_layout
from workbench.path_store import load_table
from workbench.paths import PATHS, PathName, PathTable, choose_path

FLOATS = {
    dtype: str(dtype).removeprefix("torch.") for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64)
}

_MOST_CHOICES = 1024  # that a weight remembers
_generation = 0  # of the tables: choices that were made by older ones are not found again


def available_paths(device: torch.device | str, layout: Layout | None = None) -> tuple[PathName, ...]:
    """Return the paths that this machine has on `device`, for the layout of its op unless another is given."""
    device = torch.device(device)
    if not has_kernel(device):
        return ("dequantize",)
    layout = layout or readable_layout(device.type, 8)
    native = native_kernels() if device.type == "cpu" else None
    fused = native.fits(layout) if native else has_fused_path(device, layout)
    return PATHS if fused else ("op", "dequantize")


def chosen_path(weight: PackedWeight, batch: int, dtype: torch.dtype = torch.bfloat16) -> PathName:
    """Return the path that `int4_linear` takes for `batch` rows of `dtype`."""
    key = (batch, dtype, _generation)
    found = weight.choices.get(key)
    if found is None:
        if len(weight.choices) >= _MOST_CHOICES:
            weight.choices.clear()
        found = weight.choices[key] = _choose(weight, batch, dtype)
    return found


def _choose(weight: PackedWeight, batch: int, dtype: torch.dtype) -> PathName:
    paths = available_paths(weight.packed.device, weight.layout)
    if weight.layout is None or len(paths) == 1:
        return "dequantize"
    chosen = choose_path(
        current_table(weight.packed.device.type),
        dtype=FLOATS[dtype],
        n=weight.out_features,
        k=weight.in_features,
        group_size=weight.group_size,
        batch=batch,
    )
    return chosen if chosen in paths else "dequantize"


@functools.cache
def current_table(device_type: str) -> PathTable:
    """Return the table that decides on a kind of device: the measured one of the user's cache, or the defaults."""
    return load_table(table_kind(device_type), table_machine(device_type), device_type)


def forget_tables() -> None:
    """Read the measured tables again, and choose anew, from the next product on."""
    global _generation
    current_table.cache_clear()
    _generation += 1


def table_kind(device_type: str) -> str:
    """Return which built-in defaults hold for a kind of device here (see `workbench.paths.DEFAULTS`)."""
    if device_type != "cpu":
        if device_type not in INT4_OPS:
            return "other"
        if "fused" not in available_paths(device_type):
            return "cuda"
        return "cuda/hopper" if device_capability(device_type) == "sm90" else "cuda/triton"
    if "DEFAULT" in device_capability("cpu") and platform.machine().lower() in ("x86_64", "amd64"):
        return "cpu/scalar"
    native = native_kernels()
    if native is None:
        return "cpu/none"
    fused = "fused" in available_paths("cpu")
    return f"cpu/{native.kind}" if fused else "cpu/dequantize"


def table_machine(device_type: str) -> dict[str, str]:
    """Return what a measured table holds for: the device and all versions that change its speed."""
    found = {
        "device": device_name(device_type),
        "capability": device_capability(device_type),
        "torch": torch.__version__,
        "workbench": workbench.__version__,
    }
    return {**found, "cores": str(os.cpu_count())} if device_type == "cpu" else found


def device_note(device: torch.device | str) -> str:
    """Say in a phrase how weights run on `device`."""
    device = torch.device(device)
    if not has_kernel(device):
        return f"{device.type} has no int4 op here ({', '.join(INT4_OPS)} have): weights are dequantized at every call"
    if device.type != "cpu":
        return f"int4 op of {device.type}, bfloat16 inside; large batches {tiles_note(device)}"
    return f"int4 op of cpu, bfloat16 inside; {native_note()}"


def path_note(device: torch.device | str) -> str:
    """Say in a sentence where the choice between the paths of `device` comes from."""
    device = torch.device(device)
    return f"path by batch size: {current_table(device.type).note}" if has_kernel(device) else ""
