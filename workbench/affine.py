"""Affine quantization: the portable result of every solver, and torchao 0.11's primitives.

One convention everywhere: codes q in 0..15, groups of `group_size` along in_features (K). By domain,

    float:      w = (q - 8) * scale + zero     zero in weight units
    int:        w = (q - zp) * scale           zp an integer code 0..15
    symmetric:  w = (q - 8) * scale
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from workbench.config import DOMAINS, GROUP_SIZES, SCALE_DTYPES, Domain
from workbench.errors import ConfigError, WeightError
from workbench.primitives import choose_qparams_affine, dequantize_affine, quantize_affine

__all__ = [
    "MID_POINT",
    "QUANT_MAX",
    "QUANT_MIN",
    "QuantizedWeight",
    "choose_qparams_affine",
    "dequantize_affine",
    "group_count",
    "quantize_affine",
    "unpack_nibbles",
]

QUANT_MIN = 0
QUANT_MAX = 15
MID_POINT = 8


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """An int4 weight without any device layout: what solvers make and everything downstream reads.

    Attributes:
        codes: uint8 [N, K], values 0..15.
        scale: bfloat16 or float32 [N, ceil(K/group_size)], in weight units per code.
        zero: float domain: like `scale`, in weight units, the value of code 8; int domain: uint8
            [N, ceil(K/group_size)], the code whose value is 0; symmetric: None.
        group_size: Weights per group along K; the last group of a row is short when K does not divide.
        domain: "float", "int" or "symmetric".
        solved_by: The form of the solver that found it, for instance "refined/1"; "" where nobody knows.

    Raises:
        WeightError: when a shape or dtype does not fit.
        ConfigError: when the group size or the domain is unknown.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor | None
    group_size: int
    domain: Domain
    solved_by: str = ""

    def __post_init__(self) -> None:
        if self.codes.dtype != torch.uint8 or self.codes.ndim != 2:
            raise _misfit("codes", self.codes, "uint8 [N, K]")
        check_qparams(self.scale, self.zero, tuple(self.codes.shape), self.group_size, self.domain)

    def __repr__(self) -> str:
        """Say what it holds, without the numbers, which are many."""
        form = f"group_size={self.group_size}, domain={self.domain!r}, scales {self.scale.dtype}"
        by = f", by {self.solved_by}" if self.solved_by else ""
        return f"QuantizedWeight({list(self.shape)}, {form}, {self.bits_per_weight:.2f} bits{by}, on {self.device})"

    @property
    def shape(self) -> torch.Size:
        """Original shape [N, K] = [out_features, in_features]."""
        return self.codes.shape

    @property
    def device(self) -> torch.device:
        """Device of the codes."""
        return self.codes.device

    @property
    def size_bytes(self) -> int:
        """Bytes that the portable form takes on disk: packed codes, scales and zero points."""
        n, k = self.shape
        zero = 0 if self.zero is None else self.zero.numel() * self.zero.element_size()
        return n * ((k + 1) // 2) + self.scale.numel() * self.scale.element_size() + zero

    @property
    def bits_per_weight(self) -> float:
        """Bits per weight, scales and zero points included."""
        return 8.0 * self.size_bytes / max(1, self.codes.numel())

    def zero_in_weight_units(self) -> Tensor:
        """Return the value of code 8 of each group, float32 [N, ceil(K/group_size)]: the kernels' convention.

        Float: the zero itself; int: (8 - zp) * scale; symmetric: 0.
        """
        return zero_in_weight_units(self.scale, self.zero, self.domain)

    def minimum(self) -> Tensor:
        """Return the value of code 0 of each group, float32 [N, ceil(K/group_size)]: the convention of GGUF and MLX."""
        return self.zero_in_weight_units() - MID_POINT * self.scale.float()

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the weights [N, K], computed in float32 and rounded once to `dtype`."""
        (n, k), groups = self.shape, self.scale.shape[1]
        codes = functional.pad(self.codes, (0, missing)) if (missing := groups * self.group_size - k) else self.codes
        steps = codes.float().view(n, groups, self.group_size)
        scale, zero = self.scale.float()[..., None], None if self.zero is None else self.zero.float()[..., None]
        if zero is not None and self.domain == "float":
            values = torch.addcmul(zero, steps.sub_(MID_POINT), scale, out=steps)
        else:
            values = steps.sub_(MID_POINT if zero is None else zero).mul_(scale)
        whole = values.to(dtype).view(n, groups * self.group_size)[:, :k]
        # Inductor's code for the CPU (torch 2.13) reads scales out of bounds when this copy is fused into the product.
        return whole if torch.compiler.is_compiling() else whole.contiguous()

    def part(self, rows: slice, groups: slice = slice(None)) -> QuantizedWeight:
        """Return some rows, and of them some groups, as views of this weight's tensors."""
        first, stop, _ = groups.indices(self.scale.shape[1])
        columns = slice(first * self.group_size, stop * self.group_size)
        zero = None if self.zero is None else self.zero[rows, groups]
        return replace(self, codes=self.codes[rows, columns], scale=self.scale[rows, groups], zero=zero)

    def packed_codes(self) -> Tensor:
        """Return the codes two to a byte, uint8 [N, ceil(K/2)], even k in the low nibble (the order on disk).

        Raises:
            WeightError: when a code or an integer zero point is above 15.
        """
        codes = self.codes
        _check_four_bits("codes", codes)
        if self.domain == "int" and self.zero is not None:
            _check_four_bits("zero", self.zero)
        if codes.shape[1] % 2:
            codes = functional.pad(codes, (0, 1))
        return codes[:, 0::2] | (codes[:, 1::2] << 4)

    @classmethod
    def from_packed(
        cls,
        packed: Tensor,
        scale: Tensor,
        zero: Tensor | None,
        *,
        in_features: int,
        group_size: int,
        domain: Domain,
        solved_by: str = "",
    ) -> QuantizedWeight:
        """Build from codes two to a byte: `packed` uint8 [N, ceil(in_features/2)], even k in the low nibble."""
        if packed.dtype != torch.uint8 or packed.ndim != 2 or packed.shape[1] != (in_features + 1) // 2:
            raise _misfit("packed codes", packed, f"uint8 [N, {(in_features + 1) // 2}] for in_features={in_features}")
        return cls(unpack_nibbles(packed, in_features), scale, zero, group_size, domain, solved_by)

    def to(self, device: torch.device | str) -> QuantizedWeight:
        """Return the same weight on another device."""
        zero = None if self.zero is None else self.zero.to(device)
        return replace(self, codes=self.codes.to(device), scale=self.scale.to(device), zero=zero)


_EXPONENTS = {torch.bfloat16: (torch.int16, 0x7F80), torch.float32: (torch.int32, 0x7F800000)}


def all_finite(values: Tensor) -> bool:
    """Say whether no value is NaN or infinity; of the dtypes of scales by their exponents, in half of the time."""
    if values.dtype not in _EXPONENTS or not values.is_contiguous():
        return bool(torch.isfinite(values).all())
    whole, exponent = _EXPONENTS[values.dtype]
    return not bool((values.view(whole).bitwise_and(exponent) == exponent).any())


def check_qparams(scale: Tensor, zero: Tensor | None, shape: tuple[int, ...], group_size: int, domain: Domain) -> None:
    """Refuse scales and zero points that do not belong to codes of a shape [N, K].

    Raises:
        WeightError: when a shape or dtype does not fit.
        ConfigError: when the group size or the domain is unknown.
    """
    if domain not in DOMAINS:
        raise ConfigError(f"domain={domain!r} is unknown.", allowed=", ".join(DOMAINS))
    if group_size not in GROUP_SIZES:
        raise ConfigError(f"group_size={group_size!r} is not supported.", allowed="256, 128, 64 or 32")
    n, k = shape
    groups = (n, group_count(k, group_size))
    if scale.dtype not in SCALE_DTYPES or scale.shape != groups:
        raise _misfit("scale", scale, f"bfloat16 or float32 {list(groups)}")
    wanted = {"float": scale.dtype, "int": torch.uint8, "symmetric": None}[domain]
    if (wanted is None) != (zero is None):
        raise WeightError(f"The {domain} domain {'has no' if wanted is None else 'needs a'} zero point.")
    if zero is not None and (zero.dtype != wanted or zero.shape != groups):
        raise _misfit("zero", zero, f"{wanted} {list(groups)}")


def zero_in_weight_units(scale: Tensor, zero: Tensor | None, domain: Domain) -> Tensor:
    """Return the value of code 8 of each group, float32 like `scale`: see `QuantizedWeight.zero_in_weight_units`."""
    if zero is None:
        return torch.zeros_like(scale, dtype=torch.float32)
    return (MID_POINT - zero.float()) * scale.float() if domain == "int" else zero.float()


def group_count(in_features: int, group_size: int) -> int:
    """Number of groups in a row of `in_features` weights, a short last one included."""
    return -(-in_features // group_size)


def unpack_nibbles(packed: Tensor, in_features: int) -> Tensor:
    """Return uint8 codes [N, in_features] from uint8 bytes [N, ceil(in_features/2)], even k in the low nibble."""
    codes = torch.stack((packed & 15, packed >> 4), dim=-1)
    return codes.view(packed.shape[0], -1)[:, :in_features].contiguous()


def _check_four_bits(name: str, values: Tensor) -> None:
    if values.is_meta or not values.numel() or int(values.max()) <= QUANT_MAX:
        return
    row, column = torch.nonzero(values > QUANT_MAX)[0].tolist()
    raise WeightError(
        f"{name}[{row}, {column}] is {int(values[row, column])}.", allowed="0 to 15", mend="clamp the codes to 4 bits"
    )


def _misfit(name: str, tensor: Tensor, allowed: str) -> WeightError:
    return WeightError(f"{name} is {tensor.dtype} {list(tensor.shape)}.", allowed=allowed)
