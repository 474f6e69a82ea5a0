"""A quantized weight as named tensors: what stands in a state dict and in a file, free of any device's layout."""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.affine import QuantizedWeight
from workbench.config import Domain
from workbench.errors import CheckpointError


def portable_names(domain: Domain) -> tuple[str, ...]:
    """Names of a module's tensors on disk: codes, scale and, by domain, the zero point."""
    zero = {"float": ("weight_zero",), "int": ("weight_zp",), "symmetric": ()}[domain]
    return ("weight", "weight_scale", *zero)


def portable_tensors(weight: QuantizedWeight, prefix: str = "") -> dict[str, Tensor]:
    """Return a weight's tensors as they stand on disk.

    `weight` uint8 [N, ceil(K/2)] (even k in the low nibble), `weight_scale` [N, ceil(K/g)] and, by domain,
    `weight_zero` like the scale or `weight_zp` uint8 [N, ceil(K/g)].
    """
    values = (weight.packed_codes(), weight.scale, weight.zero)
    return {
        prefix + name: value
        for name, value in zip(portable_names(weight.domain), values, strict=False)
        if value is not None
    }


def quantized_from_portable(
    tensors: dict[str, Tensor], *, in_features: int, group_size: int, domain: Domain, solved_by: str = ""
) -> QuantizedWeight:
    """Build a weight from its tensors on disk (see `portable_tensors`).

    Raises:
        WeightError: when a shape or dtype does not fit.
        CheckpointError: when a tensor is missing, an integer zero point is above 15, or a scale is not finite.
    """
    for name in portable_names(domain):
        if name not in tensors:
            raise CheckpointError(f"{name!r} is missing.", allowed=", ".join(portable_names(domain)))
    scale = tensors["weight_scale"]
    zero = tensors.get(portable_names(domain)[-1]) if domain != "symmetric" else None
    for name, values in (("weight_scale", scale), ("weight_zero", zero if domain == "float" else None)):
        if values is not None and not bool(torch.isfinite(values).all()):
            raise CheckpointError(f"{name} holds NaN or infinity.", mend="the file is damaged: fetch or save it again")
    if domain == "int" and zero is not None and zero.numel() and int(zero.max()) > 15:
        raise CheckpointError(f"weight_zp holds {int(zero.max())}.", allowed="0 to 15", mend="the file is damaged")
    return QuantizedWeight.from_packed(
        tensors["weight"],
        scale,
        zero,
        in_features=in_features,
        group_size=group_size,
        domain=domain,
        solved_by=solved_by,
    )
