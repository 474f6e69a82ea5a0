"""The group sizes that integer folders are written in: of each layer, where a format has them, else one for all.

A layer whose own size a folder does not hold gets the next smaller one, each scale and zero point as often as it is
needed: the weights stay what they are, so that groups of 256, and a K that only 32 divides, are held exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch

from workbench.affine import QuantizedWeight
from workbench.checkpoint.contents import Outline
from workbench.checkpoint.native import ModuleFormat
from workbench.sizes import size

GROUP_SIZES = (128, 64, 32)
# Layers that vLLM and SGLang make one of → what they call it: all of a set have one group size.
FUSED = {("q_proj", "k_proj", "v_proj"): "qkv_proj", ("gate_proj", "up_proj"): "gate_up_proj"}


def held_group_size(form: ModuleFormat) -> int:
    """Return the largest group size that divides a layer's groups and K; 0 where there is none."""
    fits = (one for one in GROUP_SIZES if form.group_size % one == form.in_features % one == 0)
    return next(fits, 0)


def common_group_size(outline: Outline) -> int:
    """Return the largest group size that divides every layer's groups and K; 0 where there is none."""
    return min(map(held_group_size, outline.int4.values()), default=GROUP_SIZES[0])


def own_group_sizes(outline: Outline) -> dict[str, int]:
    """Return path → group size of each layer: its own, or the smallest of the set that engines fuse it with."""
    sizes = {name: held_group_size(form) for name, form in outline.int4.items()}
    for _, together in fused_sets(outline.int4):
        sizes |= dict.fromkeys(together, min(sizes[name] for name in together))
    return sizes


def fused_sets(paths: Mapping[str, object] | list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield (path of the fused layer, paths of those that it is made of), of those that are among `paths`."""
    found: dict[str, list[str]] = {}
    for path in paths:
        parent, dot, own = path.rpartition(".")
        for together, called in FUSED.items():
            if own in together:
                found.setdefault(f"{parent}{dot}{called}", []).append(path)
    yield from found.items()


def regrouped(weight: QuantizedWeight, group_size: int) -> QuantizedWeight:
    """Return the same weight in smaller groups, of which each repeats the scale and zero point of its large one."""
    if weight.group_size == group_size:
        return weight
    groups, times = weight.shape[1] // group_size, weight.group_size // group_size

    def fine(values: torch.Tensor) -> torch.Tensor:
        return values.repeat_interleave(times, dim=1)[:, :groups]

    zero = None if weight.zero is None else fine(weight.zero)
    return replace(weight, scale=fine(weight.scale), zero=zero, group_size=group_size)


def group_notes(before: Outline, written: Outline) -> list[str]:
    """Say which layers are written in smaller groups than they have, and what that costs.

    Args:
        before: Under the names of the folder, every form with the group size that it has.
        written: The same with those that are written.
    """
    finer = [(form, written.int4[name]) for name, form in before.int4.items()]
    finer = [(form, fine) for form, fine in finer if fine.group_size != form.group_size]
    if not finer or not all(fine.group_size for _, fine in finer):
        return []
    added = size(sum(_added_bytes(form, fine) for form, fine in finer))
    sizes = {fine.group_size for fine in written.int4.values()}
    if len(sizes) == 1:
        said = f"{len(finer)} layers have larger groups; all are written in groups of {sizes.pop()}"
    else:
        said = f"{len(finer)} layers are written in smaller groups than they have"
    return [f"{said} with their scales repeated: the same weights, {added} more"]


def _added_bytes(form: ModuleFormat, fine: ModuleFormat) -> int:
    groups = fine.in_features // fine.group_size - -(-form.in_features // form.group_size)
    return form.out_features * max(1, form.experts) * groups * (4 if fine.scale_dtype == "float32" else 2)
