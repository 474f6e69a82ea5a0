"""A quantized weight as named tensors: what stands in a state dict and in a file, free of any device's layout."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from workbench.affine import QuantizedWeight, all_finite, check_qparams, unpack_nibbles, zero_in_weight_units
from workbench.config import Domain
from workbench.errors import CheckpointError, WeightError


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


@dataclass(frozen=True, eq=False)
class PortableWeight:
    """A weight as it stands on disk: a device's layout is made from it without a byte for each code.

    Attributes:
        nibbles: uint8 [N, ceil(K/2)], even k in the low nibble.
        scale: bfloat16 or float32 [N, ceil(K/group_size)].
        zero: As in `QuantizedWeight`.
        in_features: K.
        group_size: Weights per group along K.
        domain: Where the zero point lives.
        solved_by: The form of the solver that found it; "" where nobody knows.

    Raises:
        WeightError: when a shape or dtype does not fit.
        ConfigError: when the group size or the domain is unknown.
    """

    nibbles: Tensor
    scale: Tensor
    zero: Tensor | None
    in_features: int
    group_size: int
    domain: Domain
    solved_by: str = ""

    def __post_init__(self) -> None:
        columns = (self.in_features + 1) // 2
        if self.nibbles.dtype != torch.uint8 or self.nibbles.ndim != 2 or self.nibbles.shape[1] != columns:
            raise WeightError(
                f"packed codes is {self.nibbles.dtype} {list(self.nibbles.shape)}.",
                allowed=f"uint8 [N, {columns}] for in_features={self.in_features}",
            )
        check_qparams(self.scale, self.zero, tuple(self.shape), self.group_size, self.domain)

    @property
    def shape(self) -> torch.Size:
        """Shape [N, K] of the weight."""
        return torch.Size((self.nibbles.shape[0], self.in_features))

    @property
    def device(self) -> torch.device:
        """Device of the codes."""
        return self.nibbles.device

    def zero_in_weight_units(self) -> Tensor:
        """Return the value of code 8 of each group, float32 [N, ceil(K/group_size)]."""
        return zero_in_weight_units(self.scale, self.zero, self.domain)

    def part(self, rows: slice) -> PortableWeight:
        """Return some rows, as views of this weight's tensors."""
        zero = None if self.zero is None else self.zero[rows]
        return replace(self, nibbles=self.nibbles[rows], scale=self.scale[rows], zero=zero)

    def quantized(self) -> QuantizedWeight:
        """Return the weight with a byte for each code."""
        codes = unpack_nibbles(self.nibbles, self.in_features)
        return QuantizedWeight(codes, self.scale, self.zero, self.group_size, self.domain, self.solved_by)


def portable_weight(
    tensors: dict[str, Tensor], *, in_features: int, group_size: int, domain: Domain, solved_by: str = ""
) -> PortableWeight:
    """Check a weight's tensors on disk and join them.

    Args:
        tensors: Name to tensor, of the dtypes and shapes that `portable_tensors` gives.
        in_features: K.
        group_size: Weights per group along K.
        domain: Where the zero point lives.
        solved_by: The form of the solver that found it; "" where nobody knows.

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
        if values is not None and not all_finite(values):
            raise CheckpointError(f"{name} holds NaN or infinity.", mend="the file is damaged: fetch or save it again")
    if domain == "int" and zero is not None and zero.numel() and int(zero.max()) > 15:
        raise CheckpointError(f"weight_zp holds {int(zero.max())}.", allowed="0 to 15", mend="the file is damaged")
    return PortableWeight(tensors["weight"], scale, zero, in_features, group_size, domain, solved_by)


def quantized_from_portable(
    tensors: dict[str, Tensor], *, in_features: int, group_size: int, domain: Domain, solved_by: str = ""
) -> QuantizedWeight:
    """Build a weight, with a byte for each code, from its tensors on disk.

    Args and what is raised are those of `portable_weight`.
    """
    given: dict[str, Any] = {"in_features": in_features, "group_size": group_size, "domain": domain}
    return portable_weight(tensors, solved_by=solved_by, **given).quantized()
