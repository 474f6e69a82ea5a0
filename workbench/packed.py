"""A quantized weight in the layout of one device, and the table of the devices whose int4 op reads such a layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from workbench.affine import QuantizedWeight, all_finite, group_count, unpack_nibbles
from workbench.config import GROUP_SIZES
from workbench.device_layout import required_layout
from workbench.errors import KernelError
from workbench.layout import Layout, padded_shape
from workbench.packing import pack, pack_nibbles, unpack
from workbench.paths import PathName
from workbench.portable import PortableWeight

Op = Callable[[Tensor, Tensor, int, Tensor], Tensor]

# Device type -> the op that multiplies its layout. Every other device dequantizes.
INT4_OPS: dict[str, Op] = {
    "cpu": torch.ops.aten._weight_int4pack_mm_for_cpu,
    "cuda": torch.ops.aten._weight_int4pack_mm,
}


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """A quantized weight in one device's layout. It lives inside a linear layer and never reaches a file.

    Attributes:
        packed: Codes in the layout of `layout`; without a layout, uint8 [N, ceil(K/2)], even k in the low nibble.
        scales_and_zeros: bfloat16 [K_padded/group_size, N_padded, 2], scale first; the zero is the value of code 8.
        layout: Device layout, or None where no int4 op exists and the weight is dequantized.
        out_features: N before padding.
        in_features: K before padding.
        group_size: Weights per group along K.
        padded: [N, K] as the kernel sees them.
        choices: Paths that were chosen for this weight, by batch, dtype and generation of the tables.
        is_checked: Whether the kernels' preconditions were found to hold; with other tensors it is another object.

    Raises:
        KernelError: for a group size that no kernel has.
    """

    packed: Tensor
    scales_and_zeros: Tensor
    layout: Layout | None
    out_features: int
    in_features: int
    group_size: int
    padded: tuple[int, int] = field(init=False)
    is_checked: bool = field(init=False, default=False)
    choices: dict[tuple[int, torch.dtype, int], PathName] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.group_size not in GROUP_SIZES:
            raise KernelError(f"group_size={self.group_size!r}.", allowed="256, 128, 64 or 32")
        n, k, size = self.out_features, self.in_features, self.group_size
        padded = (n, group_count(k, size) * size) if self.layout is None else padded_shape(n, k, size, self.layout)
        object.__setattr__(self, "padded", padded)

    def codes(self) -> Tensor:
        """Return the exact codes, uint8 [N, K]."""
        if self.layout is None:
            return unpack_nibbles(self.packed, self.in_features)
        codes = unpack(self.packed, self.layout, *self.padded)
        return codes[: self.out_features, : self.in_features].contiguous()

    def scale(self) -> Tensor:
        """Return the scales as the kernel reads them, bfloat16 [N, ceil(K/group_size)]."""
        return self._qparam(0)

    def zero(self) -> Tensor:
        """Return the values of code 8 as the kernel reads them, bfloat16 [N, ceil(K/group_size)]."""
        return self._qparam(1)

    def quantized(self) -> QuantizedWeight:
        """Return what the kernel multiplies with as a portable weight of the float domain."""
        return QuantizedWeight(self.codes(), self.scale(), self.zero(), self.group_size, "float")

    def _qparam(self, index: int) -> Tensor:
        groups = group_count(self.in_features, self.group_size)
        return self.scales_and_zeros[:groups, : self.out_features, index].t().contiguous()


def kernel_layout(device: torch.device | str, inner_k_tiles: int = 8) -> Layout | None:
    """Return the layout that the int4 op of `device` reads in this process, or None where it has no op."""
    device = torch.device(device)
    return readable_layout(device.type, inner_k_tiles) if has_kernel(device) else None


def has_kernel(device: torch.device) -> bool:
    """Say whether the int4 op runs on `device` (CUDA needs compute capability 8.0 or newer)."""
    if device.type == "cuda" and torch.version.hip is None:
        return torch.cuda.is_available() and torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type in INT4_OPS


_READABLE: dict[tuple[str, int], Layout] = {}


def readable_layout(device_type: str, inner_k_tiles: int) -> Layout:
    """Return the layout that this process's op reads, remembered in a form that torch.compile can trace."""
    key = (device_type, inner_k_tiles)
    if key not in _READABLE:
        _READABLE[key] = required_layout(device_type, inner_k_tiles)
    return _READABLE[key]


def padding_note(n: int, k: int, group_size: int, device: torch.device | str, inner_k_tiles: int = 8) -> str:
    """Say what the layout of `device` pads for a weight [n, k]; "" for nothing."""
    layout = kernel_layout(device, inner_k_tiles)
    if layout is None:
        return ""
    n_padded, k_padded = padded_shape(n, k, group_size, layout)
    parts = [f"N {n}→{n_padded}"] * (n_padded != n) + [f"K {k}→{k_padded}"] * (k_padded != k)
    return ", ".join(parts)


def padding_bits(n: int, k: int, group_size: int, device: torch.device | str, inner_k_tiles: int = 8) -> float:
    """Return what the padding of `device`'s layout costs in memory: bits for each weight of [n, k]."""
    layout = kernel_layout(device, inner_k_tiles)
    if layout is None:
        return 0.0
    n_padded, k_padded = padded_shape(n, k, group_size, layout)
    codes = 4 * (n_padded * k_padded - n * k)
    qparams = 32 * (n_padded * (k_padded // group_size) - n * group_count(k, group_size))  # two bfloat16 a group
    return (codes + qparams) / (n * k)


def pack_weight(
    weight: QuantizedWeight | PortableWeight, device: torch.device | str, inner_k_tiles: int = 8
) -> PackedWeight:
    """Make the layout of `device` from a weight [N, K]; pads carry code 8 and scale 0.

    Raises:
        KernelError: when a code, a scale or a zero cannot be held by the kernel.
    """
    device = torch.device(device)
    n, k = weight.shape
    if n == 0 or k == 0:
        raise KernelError(f"A weight of shape {[n, k]} has no elements.", mend="leave this layer unquantized")
    layout = kernel_layout(device, inner_k_tiles)
    n_padded, k_padded = n, group_count(k, weight.group_size) * weight.group_size
    if layout is not None:
        n_padded, k_padded = padded_shape(n, k, weight.group_size, layout)
    packed = _packed_codes(weight, device, layout, (n_padded, k_padded))
    groups = k_padded // weight.group_size
    qparams = torch.zeros(groups, n_padded, 2, dtype=torch.bfloat16, device=device)
    real = group_count(k, weight.group_size)
    qparams[:real, :n, 0] = _finite_bf16(weight.scale, "scale").to(device).t()
    qparams[:real, :n, 1] = _finite_bf16(weight.zero_in_weight_units(), "zero").to(device).t()
    return PackedWeight(packed, qparams, layout, n, k, weight.group_size)


def _packed_codes(
    weight: QuantizedWeight | PortableWeight, device: torch.device, layout: Layout | None, padded: tuple[int, int]
) -> Tensor:
    n, k = weight.shape
    if isinstance(weight, PortableWeight):
        nibbles = weight.nibbles.to(device)
        if layout is None:
            return nibbles
        if layout.kind == "cpu" and padded == (n, k):
            return pack_nibbles(nibbles, layout)
        codes = unpack_nibbles(nibbles, k)
    elif layout is None:
        return weight.to(device).packed_codes()
    else:
        codes = weight.codes.to(device)
    if padded != (n, k):
        codes = functional.pad(codes, (0, padded[1] - k, 0, padded[0] - n), value=8)
    return pack(codes, layout)


def _finite_bf16(values: Tensor, name: str) -> Tensor:
    rounded = values.to(torch.bfloat16)
    if not rounded.is_meta and not all_finite(rounded):
        row, group = torch.nonzero(~torch.isfinite(rounded))[0].tolist()
        raise KernelError(
            f"{name}[{row}, {group}] = {values[row, group].item()} is not finite in bfloat16.",
            allowed="finite values up to 3.39e38",
            mend="quantize this weight again from its original",
        )
    return rounded
