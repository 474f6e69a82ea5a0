"""A weight in the tile layout of a GPU: what it must look like, and rows of it dequantized by plain operations."""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.affine import QuantizedWeight
from workbench.config import GROUP_SIZES
from workbench.errors import KernelError
from workbench.layout import Layout
from workbench.packing import unpack

_TILE_ROWS = 8  # rows to an index of the packed tensor, on ROCm too
_WEIGHTS_AT_A_TIME = 2**22  # 16 MB in float32


def check_weight(packed: Tensor, scales_and_zeros: Tensor, group_size: int, layout: Layout) -> tuple[int, int]:
    """Return [N, K] of a weight in the CUDA or ROCm layout.

    Args:
        packed: int32 [N/8, K/(16 I), 32, I/2], contiguous.
        scales_and_zeros: bfloat16 [K/group_size, N, 2], contiguous, scale first.
        group_size: 256, 128, 64 or 32.
        layout: Whose tiles `packed` holds.

    Raises:
        KernelError: when a dtype, a shape, a device or strides do not fit.
    """
    sz = scales_and_zeros
    if group_size not in GROUP_SIZES:
        raise KernelError(f"group_size={group_size!r}.", allowed="256, 128, 64 or 32")
    if sz.dtype != torch.bfloat16 or sz.ndim != 3 or sz.shape[2] != 2 or not sz.is_contiguous() or 0 in sz.shape:
        raise misfit("scales_and_zeros", sz, "a contiguous bfloat16 [K/group_size, N, 2] with elements")
    if sz.storage_offset() % 2:
        raise KernelError("scales_and_zeros starts in the middle of a word of its storage.", mend="pass its .clone()")
    n, k = sz.shape[1], sz.shape[0] * group_size
    if n % layout.n_multiple or k % layout.k_multiple:
        raise KernelError(
            f"A weight {[n, k]} does not fill whole tiles of {layout}.",
            allowed=f"N a multiple of {layout.n_multiple}, K of {layout.k_multiple}",
        )
    shape = layout.packed_shape(n, k)
    if packed.dtype != layout.packed_dtype or tuple(packed.shape) != shape or not packed.is_contiguous():
        raise misfit("packed", packed, f"a contiguous {layout.packed_dtype} {list(shape)}")
    if packed.device != sz.device:
        raise KernelError(f"packed is on {packed.device}, its scales on {sz.device}.", allowed="one device for both")
    return n, k


def check_rows(start: int, rows: int, n: int, layout: Layout) -> None:
    """Refuse a range of rows that does not end on tiles of a weight [n, K].

    Raises:
        KernelError: with what is allowed.
    """
    step = layout.n_multiple
    if start % step or rows % step or not 0 <= start <= start + rows <= n:
        raise KernelError(f"start={start}, rows={rows}.", allowed=f"multiples of {step}, within 0 to {n}")


def dequantize_plain(
    packed: Tensor, scales_and_zeros: Tensor, group_size: int, layout: Layout, start: int, out: Tensor
) -> Tensor:
    """Write rows of a weight, dequantized, to `out` [rows, K]: by torch operations, a bounded part at a time.

    (q - 8) * scale + zero is computed in float32 and rounded once to out's dtype.

    Args:
        packed: int32 [N/8, K/(16 I), 32, I/2].
        scales_and_zeros: bfloat16 [K/group_size, N, 2], scale first.
        group_size: 256, 128, 64 or 32, dividing K.
        layout: Whose tiles `packed` holds.
        start: First row; it and the number of rows are multiples of the layout's.
        out: A float dtype [rows, K].

    Returns:
        `out`.
    """
    rows, k = out.shape
    step = max(1, _WEIGHTS_AT_A_TIME // k // layout.n_multiple) * layout.n_multiple
    for first in range(0, rows, step):
        count = min(step, rows - first)
        at = start + first
        codes = unpack(packed[at // _TILE_ROWS : (at + count) // _TILE_ROWS], layout, count, k)
        scale, zero = (scales_and_zeros[:, at : at + count, i].t() for i in (0, 1))
        part = QuantizedWeight(codes, scale, zero, group_size, "float").dequantize(out.dtype)
        out[first : first + count] = part
    return out


def misfit(name: str, tensor: Tensor, allowed: str, mend: str | None = None) -> KernelError:
    """Return the error for a tensor of the wrong dtype, shape or strides."""
    contiguous = "" if tensor.is_contiguous() else ", not contiguous"
    return KernelError(f"{name} is {tensor.dtype} {list(tensor.shape)}{contiguous}.", allowed=allowed, mend=mend)
