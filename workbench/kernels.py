"""The only caller of PyTorch's int4 ops: it pads, casts and checks everything that the ops leave unchecked.

The ops read out of bounds, corrupt neighbouring codes or end the process on bad input, without a message.
Each precondition is therefore checked here, in Python, on every call; it costs microseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from workbench.affine import QuantizedWeight, group_count, unpack_nibbles
from workbench.config import GROUP_SIZES
from workbench.errors import KernelError
from workbench.packing import Layout, pack, padded_shape, required_layout, unpack

MAX_ELEMENTS_PER_CALL = 2**31 - 1  # the CPU op's offsets are 32-bit: larger weights are split along N
_SPLIT_ROWS = 64  # a multiple of every CPU layout's block of N
_FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)

Op = Callable[[Tensor, Tensor, int, Tensor], Tensor]

# Device type -> the op that multiplies its layout. Every other device dequantizes.
_OPS: dict[str, Op] = {
    "cpu": torch.ops.aten._weight_int4pack_mm_for_cpu,
    "cuda": torch.ops.aten._weight_int4pack_mm,
}


_READABLE: dict[tuple[str, int], Layout] = {}


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
    """

    packed: Tensor
    scales_and_zeros: Tensor
    layout: Layout | None
    out_features: int
    in_features: int
    group_size: int
    padded: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
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

    def dequantize(self, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        """Return the weights that the kernel multiplies with, [N, K], rounded once to `dtype`."""
        return QuantizedWeight(self.codes(), self.scale(), self.zero(), self.group_size, "float").dequantize(dtype)

    def _qparam(self, index: int) -> Tensor:
        groups = group_count(self.in_features, self.group_size)
        return self.scales_and_zeros[:groups, : self.out_features, index].t().contiguous()


def kernel_layout(device: torch.device | str, inner_k_tiles: int = 8) -> Layout | None:
    """Return the layout that the int4 op of `device` reads in this process, or None where it has no op."""
    device = torch.device(device)
    return _readable_layout(device.type, inner_k_tiles) if has_kernel(device) else None


def has_kernel(device: torch.device) -> bool:
    """Say whether the int4 op runs on `device` (CUDA needs compute capability 8.0 or newer)."""
    if device.type == "cuda" and torch.version.hip is None:
        return torch.cuda.is_available() and torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type in _OPS


def device_note(device: torch.device | str) -> str:
    """Say in a phrase how weights run on `device`."""
    device = torch.device(device)
    if has_kernel(device):
        return f"int4 op of {device.type}, bfloat16 inside"
    return f"{device.type} has no int4 op here ({', '.join(_OPS)} have): weights are dequantized at every call"


def padding_note(n: int, k: int, group_size: int, device: torch.device | str, inner_k_tiles: int = 8) -> str:
    """Say what the layout of `device` pads for a weight [n, k]; "" for nothing."""
    layout = kernel_layout(device, inner_k_tiles)
    if layout is None:
        return ""
    n_padded, k_padded = padded_shape(n, k, group_size, layout)
    parts = [f"N {n}→{n_padded}"] * (n_padded != n) + [f"K {k}→{k_padded}"] * (k_padded != k)
    return ", ".join(parts)


def pack_weight(weight: QuantizedWeight, device: torch.device | str, inner_k_tiles: int = 8) -> PackedWeight:
    """Make the layout of `device` from a portable weight [N, K]; pads carry code 8 and scale 0.

    Raises:
        KernelError: when a code, a scale or a zero cannot be held by the kernel.
    """
    device = torch.device(device)
    n, k = weight.shape
    if n == 0 or k == 0:
        raise KernelError(f"A weight of shape {[n, k]} has no elements.", mend="leave this layer unquantized")
    layout = kernel_layout(device, inner_k_tiles)
    codes = weight.codes.to(device)
    if layout is None:
        packed = weight.to(device).packed_codes()
        n_padded, k_padded = n, group_count(k, weight.group_size) * weight.group_size
    else:
        n_padded, k_padded = padded_shape(n, k, weight.group_size, layout)
        if (n_padded, k_padded) != (n, k):
            codes = functional.pad(codes, (0, k_padded - k, 0, n_padded - n), value=8)
        packed = pack(codes, layout)
    groups = k_padded // weight.group_size
    qparams = torch.zeros(groups, n_padded, 2, dtype=torch.bfloat16, device=device)
    real = group_count(k, weight.group_size)
    qparams[:real, :n, 0] = _finite_bf16(weight.scale, "scale").to(device).t()
    qparams[:real, :n, 1] = _finite_bf16(weight.zero_in_weight_units(), "zero").to(device).t()
    return PackedWeight(packed, qparams, layout, n, k, weight.group_size)


def int4_linear(x: Tensor, weight: PackedWeight) -> Tensor:
    """Multiply x @ W.T with the int4 op of x's device, or by dequantizing where there is none.

    Args:
        x: float [..., K]; float16, float32 and float64 are cast to bfloat16 inside and the result cast back.
        weight: The packed weight [N, K], on the same device.

    Returns:
        [..., N] in x's dtype (autocast's, under autocast). Its gradient with respect to x is defined.

    Raises:
        KernelError: when a precondition of the op does not hold.
    """
    _check_activation(x, weight)
    if not x.is_meta and torch.is_autocast_enabled(device_type := x.device.type) and x.dtype != torch.float64:
        x = x.to(torch.get_autocast_dtype(device_type))
    flat = x.ndim == 2  # a decoding step is not reshaped back and forth
    rows = x if flat else x.reshape(-1, weight.in_features)
    if rows.shape[0] == 0:
        return x.new_zeros((*x.shape[:-1], weight.out_features)) + x.sum() * 0
    if x.requires_grad and torch.is_grad_enabled():
        result = _differentiable(rows, weight)
    else:
        result = _forward(rows, weight)
    return result if flat else result.view(*x.shape[:-1], weight.out_features)


class _Int4Linear(torch.autograd.Function):
    """The forward of the op with the gradient for x that the op does not record."""

    generate_vmap_rule = True

    @staticmethod
    def forward(rows: Tensor, weight: PackedWeight) -> Tensor:
        return _forward(rows, weight)

    @staticmethod
    def setup_context(
        ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, PackedWeight], output: Tensor
    ) -> None:
        ctx.weight = inputs[1]  # type: ignore[attr-defined]

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        weight: PackedWeight = ctx.weight  # type: ignore[attr-defined]
        dtype = grad.dtype if grad.dtype in (torch.float32, torch.float64) else torch.bfloat16
        return (grad.to(dtype) @ weight.dequantize(dtype)).to(grad.dtype), None


_differentiable: Callable[[Tensor, PackedWeight], Tensor] = _Int4Linear.apply


def _forward(rows: Tensor, weight: PackedWeight) -> Tensor:
    if weight.layout is None:
        return functional.linear(rows, weight.dequantize(rows.dtype))
    n_padded, k_padded = weight.padded
    inside = rows if rows.dtype == torch.bfloat16 else rows.to(torch.bfloat16)
    if k_padded != weight.in_features:
        inside = functional.pad(inside, (0, k_padded - weight.in_features))
    result = _call_op(inside.contiguous(), weight.packed, weight.scales_and_zeros, weight.group_size, weight.layout)
    if n_padded != weight.out_features:
        result = result[:, : weight.out_features].contiguous()
    return result if rows.dtype == torch.bfloat16 else result.to(rows.dtype)


def _call_op(x: Tensor, packed: Tensor, scales_and_zeros: Tensor, group_size: int, layout: Layout) -> Tensor:
    """Check what the op reads and run it, split along N where its 32-bit offsets would overflow."""
    k = x.shape[1]
    n = scales_and_zeros.shape[1] if scales_and_zeros.ndim == 3 else -1
    check_op_arguments(x, packed, scales_and_zeros, group_size, layout)
    op = _OPS[x.device.type]
    if x.device.type != "cpu" or n * k <= MAX_ELEMENTS_PER_CALL:
        return op(x, packed, group_size, scales_and_zeros)
    step = max(_SPLIT_ROWS, MAX_ELEMENTS_PER_CALL // k // _SPLIT_ROWS * _SPLIT_ROWS)
    pieces = [
        op(
            x,
            packed[start : start + step],
            group_size,
            scales_and_zeros[:, start : start + step].contiguous(),
        )
        for start in range(0, n, step)
    ]
    return torch.cat(pieces, dim=1)


def check_op_arguments(x: Tensor, packed: Tensor, scales_and_zeros: Tensor, group_size: int, layout: Layout) -> None:
    """Check every precondition of the int4 op, those that it leaves unchecked too.

    Args:
        x: bfloat16 [M, K], contiguous, M >= 1.
        packed: Codes in `layout`, on x's device.
        scales_and_zeros: bfloat16 [K/group_size, N, 2], contiguous, on x's device.
        group_size: 256, 128, 64 or 32, dividing K.
        layout: The layout in which `packed` was made; it must be the one that this process's op reads.

    Raises:
        KernelError: for the first precondition that does not hold.
    """
    if group_size not in GROUP_SIZES:
        raise KernelError(f"group_size={group_size!r}.", allowed="256, 128, 64 or 32")
    if x.dtype != torch.bfloat16 or x.ndim != 2 or not x.is_contiguous() or x.shape[0] == 0:
        raise _bad("x", x, "a contiguous bfloat16 [M, K] with M >= 1")
    m_k = x.shape[1]
    sz = scales_and_zeros
    if sz.dtype != torch.bfloat16 or sz.ndim != 3 or sz.shape[2] != 2 or not sz.is_contiguous():
        raise _bad("scales_and_zeros", sz, "a contiguous bfloat16 [K/group_size, N, 2]")
    groups, n, _ = sz.shape
    if groups * group_size != m_k or n == 0:
        raise _bad(
            "scales_and_zeros",
            sz,
            f"{m_k / group_size:g} groups for K={m_k} at group_size={group_size}, N >= 1",
        )
    if packed.device != x.device or sz.device != x.device:
        raise KernelError(
            f"x is on {x.device}, the packed weight on {packed.device}, its scales on {sz.device}.",
            allowed="one device for all three",
            mend="move the layer with .to(device), which repacks it",
        )
    readable = _readable_layout(x.device.type, layout.inner_k_tiles or 8)
    if layout != readable:
        raise KernelError(
            f"The weight is packed for {layout}, but this process reads {readable}.",
            mend="load the checkpoint again (its codes are portable) or move the layer with .to(device)",
        )
    shape, dtype = layout.packed_shape(n, m_k), layout.packed_dtype
    if packed.dtype != dtype or tuple(packed.shape) != shape or not packed.is_contiguous():
        raise _bad("packed", packed, f"a contiguous {dtype} {list(shape)}")


def _readable_layout(device_type: str, inner_k_tiles: int) -> Layout:
    """Return the layout that this process's op reads, remembered in a form that torch.compile can trace."""
    key = (device_type, inner_k_tiles)
    if key not in _READABLE:
        _READABLE[key] = required_layout(device_type, inner_k_tiles)
    return _READABLE[key]


def _check_activation(x: Tensor, weight: PackedWeight) -> None:
    if x.dtype not in _FLOATS:
        raise _bad("The activation", x, "bfloat16, float16, float32 or float64", "cast it with x.to(torch.bfloat16)")
    if x.ndim == 0 or x.shape[-1] != weight.in_features:
        raise _bad("The activation", x, f"[..., {weight.in_features}]", "check which layer feeds this one")
    if x.device != weight.packed.device:
        raise KernelError(
            f"The activation is on {x.device}, the weight on {weight.packed.device}.",
            allowed="one device for both",
            mend=f"move the layer with .to({str(x.device)!r}), which repacks it",
        )


def _finite_bf16(values: Tensor, name: str) -> Tensor:
    rounded = values.to(torch.bfloat16)
    if not rounded.is_meta and not bool(torch.isfinite(rounded).all()):
        row, group = torch.nonzero(~torch.isfinite(rounded))[0].tolist()
        raise KernelError(
            f"{name}[{row}, {group}] = {values[row, group].item()} is not finite in bfloat16.",
            allowed="finite values up to 3.39e38",
            mend="quantize this weight again from its original",
        )
    return rounded


def _bad(name: str, tensor: Tensor, allowed: str, mend: str | None = None) -> KernelError:
    contiguous = "" if tensor.is_contiguous() else ", not contiguous"
    return KernelError(f"{name} is {tensor.dtype} {list(tensor.shape)}{contiguous}.", allowed=allowed, mend=mend)
