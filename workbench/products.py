"""The int4 product by each path: it checks what the kernels leave unchecked, pads, casts and calls them.

PyTorch's op and our own kernels read out of bounds, corrupt neighbouring codes or end the process on bad input, without
a message. Each precondition is therefore checked here, in Python: those of x on every call, those of a weight once
before its first.
"""

from __future__ import annotations

import functools
import platform

import torch
from torch import Tensor
from torch.nn import functional

from workbench.choice import FLOATS, available_paths, chosen_path
from workbench.dequantize import blockwise_gradient, blockwise_linear
from workbench.errors import KernelError
from workbench.native import native_kernels, native_note
from workbench.packed import INT4_OPS, PackedWeight, readable_layout
from workbench.paths import PathName
from workbench.tiles import misfit
from workbench.triton.kernels import fused_linear

# The ops' offsets are 32-bit: on the CPU larger weights are split along N, on CUDA larger products take another path.
MAX_ELEMENTS_PER_CALL = 2**31 - 1
_SPLIT_ROWS = 64  # a multiple of every CPU layout's block of N


def product(x: Tensor, weight: PackedWeight, path: PathName | None = None) -> Tensor:
    """Return x @ W^T, [..., N] in x's dtype, for float x [..., K] whose dtype, shape and device were checked.

    Raises:
        KernelError: when a precondition about the weight does not hold, or this machine has no such path.
    """
    flat = x.ndim == 2  # a decoding step is not reshaped back and forth
    rows = x if flat else x.reshape(-1, weight.in_features)
    if rows.shape[0] == 0:
        return x.new_zeros((*x.shape[:-1], weight.out_features))
    result = _forward(rows, weight, path)
    return result if flat else result.view(*x.shape[:-1], weight.out_features)


def _forward(rows: Tensor, weight: PackedWeight, path: PathName | None) -> Tensor:
    check_packed(weight)
    chosen = path or chosen_path(weight, rows.shape[0], rows.dtype)
    if path is not None and path not in (paths := available_paths(rows.device, weight.layout)):
        raise KernelError(f"path={path!r} on {rows.device}.", allowed=", ".join(paths), mend=native_note())
    if chosen == "op" and (rows.device.type == "cpu" or rows.shape[0] * max(weight.padded) <= MAX_ELEMENTS_PER_CALL):
        return _op_path(rows, weight)
    if chosen == "fused":
        return _fused_path(rows, weight)
    return blockwise_linear(rows, weight, _product_dtype(rows, weight))


def _op_path(rows: Tensor, weight: PackedWeight) -> Tensor:
    packed, scales_and_zeros, group_size = weight.packed, weight.scales_and_zeros, weight.group_size
    n, k = weight.padded
    if rows.dtype == torch.bfloat16 and rows.shape[1] == k and n == weight.out_features and not rows.is_cuda:
        return _call_op(rows.contiguous(), packed, scales_and_zeros, group_size)  # a decoding step, in few instructions
    return _narrowed(_call_op(_widened(rows, weight), packed, scales_and_zeros, group_size), rows, weight)


def _widened(rows: Tensor, weight: PackedWeight) -> Tensor:
    """Return rows as the kernels take them: bfloat16 [M, K_padded], contiguous."""
    inside = rows if rows.dtype == torch.bfloat16 else rows.to(torch.bfloat16)
    if missing := weight.padded[1] - weight.in_features:
        inside = functional.pad(inside, (0, missing))
    inside = inside.contiguous()
    # The CUDA kernels read whole words: a view may start in the middle of one.
    return inside.clone() if inside.is_cuda and inside.data_ptr() % 16 else inside


def _narrowed(result: Tensor, rows: Tensor, weight: PackedWeight) -> Tensor:
    """Return a kernel's result [M, N_padded] as the caller wants it: [M, N] in rows' dtype."""
    if weight.padded[0] != weight.out_features:
        result = result[:, : weight.out_features].contiguous()
    return result if rows.dtype == torch.bfloat16 else result.to(rows.dtype)


def _call_op(x: Tensor, packed: Tensor, scales_and_zeros: Tensor, group_size: int) -> Tensor:
    """Run the op, split along N where its 32-bit offsets would overflow."""
    n, k = scales_and_zeros.shape[1], x.shape[1]
    op = INT4_OPS[x.device.type]
    if x.device.type != "cpu" or n * k <= MAX_ELEMENTS_PER_CALL:
        return op(x, packed, group_size, scales_and_zeros)
    step = max(_SPLIT_ROWS, MAX_ELEMENTS_PER_CALL // k // _SPLIT_ROWS * _SPLIT_ROWS)
    pieces = [
        op(x, packed[start : start + step], group_size, scales_and_zeros[:, start : start + step].contiguous())
        for start in range(0, n, step)
    ]
    return torch.cat(pieces, dim=1)


def _fused_path(rows: Tensor, weight: PackedWeight) -> Tensor:
    if rows.device.type != "cpu":
        assert weight.layout is not None and weight.layout.inner_k_tiles is not None
        parts = (weight.packed, weight.scales_and_zeros, weight.group_size, weight.layout.inner_k_tiles)
        return _narrowed(fused_linear(_widened(rows, weight), *parts), rows, weight)
    native = native_kernels()
    assert native is not None
    arguments = (weight.packed, weight.scales_and_zeros, weight.group_size, weight.out_features)
    if rows.dtype == torch.float64:
        return native.linear(rows.to(torch.float32).contiguous(), *arguments).to(torch.float64)
    return native.linear(rows.contiguous(), *arguments)


def _product_dtype(rows: Tensor, weight: PackedWeight) -> torch.dtype:
    """Return what the dequantizing path multiplies in: bfloat16 where the device is good at it."""
    if weight.layout is None:
        return rows.dtype
    return torch.bfloat16 if rows.dtype == torch.bfloat16 or _has_fast_bf16(rows.device.type) else torch.float32


@functools.cache
def _has_fast_bf16(device_type: str) -> bool:
    """Say whether a device multiplies bfloat16 by instructions of its own; without them float32 is faster."""
    if device_type != "cpu":
        return True
    if platform.machine().lower() in ("x86_64", "amd64"):
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) if torch.backends.mkldnn.is_available() else False


def gradient(grad: Tensor, weight: PackedWeight) -> Tensor:
    """Return grad @ W, [..., K] in grad's dtype, for float grad [..., N]: the gradient of the product for x.

    Raises:
        KernelError: when a precondition about the weight does not hold.
    """
    rows = grad.reshape(-1, weight.out_features)
    if rows.shape[0] == 0:
        return grad.new_zeros((*grad.shape[:-1], weight.in_features))
    check_packed(weight)
    wide = rows.dtype in (torch.float32, torch.float64) or weight.layout is None
    result = blockwise_gradient(rows, weight, rows.dtype if wide else torch.bfloat16)
    return result.view(*grad.shape[:-1], weight.in_features)


# --- checks ---------------------------------------------------------------------------------------------------------


def check_packed(weight: PackedWeight) -> None:
    """Check every precondition of the kernels about a packed weight, those that they leave unchecked too; once.

    Raises:
        KernelError: for the first precondition that does not hold.
    """
    if weight.is_checked:
        return
    packed, sz, layout = weight.packed, weight.scales_and_zeros, weight.layout
    n, k = weight.padded
    if packed.device != sz.device:
        raise KernelError(
            f"The packed weight is on {packed.device}, its scales on {sz.device}.",
            allowed="one device for both",
            mend="move the layer with .to(device), which repacks it",
        )
    if sz.dtype != torch.bfloat16 or sz.shape != (k // weight.group_size, n, 2) or not sz.is_contiguous():
        wanted = [k // weight.group_size, n, 2]
        raise misfit("scales_and_zeros", sz, f"a contiguous torch.bfloat16 {wanted}: [K/group_size, N, 2]")
    if layout is None:
        shape: tuple[int, ...] = (weight.out_features, -(-weight.in_features // 2))
        dtype = torch.uint8
    else:
        readable = readable_layout(packed.device.type, layout.inner_k_tiles or 8)
        if layout != readable:
            raise KernelError(
                f"The weight is packed for {layout}, but this process reads {readable}.",
                mend="load the checkpoint again (its codes are portable) or move the layer with .to(device)",
            )
        shape, dtype = layout.packed_shape(n, k), layout.packed_dtype
    if packed.dtype != dtype or packed.shape != shape or not packed.is_contiguous():
        raise misfit("packed", packed, f"a contiguous {dtype} {list(shape)}")
    if layout is not None and layout.kind == "cpu" and packed.untyped_storage().nbytes() != packed.numel():
        raise KernelError(
            f"packed is {list(shape)} cut out of {packed.untyped_storage().nbytes()} bytes.",
            allowed="a packed weight as a whole: its rows lie in blocks",
            mend="cut the codes, quantized_weight().part(rows), and pack them: Int4Linear(part)",
        )
    object.__setattr__(weight, "is_checked", True)


def check_activation(x: Tensor, weight: PackedWeight) -> None:
    """Check that x can be multiplied with a packed weight.

    Raises:
        KernelError: for a dtype that no linear layer takes, a shape or a device that does not fit.
    """
    if x.dtype not in FLOATS:
        raise misfit("The activation", x, "bfloat16, float16, float32 or float64", "cast it with x.to(torch.bfloat16)")
    if x.ndim == 0 or x.shape[-1] != weight.in_features:
        raise misfit("The activation", x, f"[..., {weight.in_features}]", "check which layer feeds this one")
    if x.device != weight.packed.device:
        raise KernelError(
            f"The activation is on {x.device}, the weight on {weight.packed.device}.",
            allowed="one device for both",
            mend=f"move the layer with .to({str(x.device)!r}), which repacks it",
        )
