"""How rows of a weight in a GPU's tiles become dense: by Triton where it runs, else by torch operations."""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.layout import Layout
from workbench.tiles import check_rows, check_weight, dequantize_plain, misfit
from workbench.triton.kernels import OUT_DTYPES, dequantize_rows, triton_available, triton_note


def dequantize_tiles(
    packed: Tensor, scales_and_zeros: Tensor, group_size: int, layout: Layout, start: int, out: Tensor
) -> Tensor:
    """Write rows of a weight [N, K] to `out`: (q - 8) * scale + zero in float32, rounded once to out's dtype.

    Both ways give the same bits; plain operations take some 50 MB at most beside `out`.

    Args:
        packed: int32 [N/8, K/(16 I), 32, I/2].
        scales_and_zeros: bfloat16 [K/group_size, N, 2], scale first.
        group_size: 256, 128, 64 or 32, dividing K.
        layout: The CUDA or ROCm layout.
        start: First row, a multiple of 8 (ROCm: 16).
        out: A float dtype [rows, K], contiguous, rows a multiple of 8 (ROCm: 16).

    Returns:
        `out`.

    Raises:
        KernelError: for input that does not fit.
    """
    n, k = check_weight(packed, scales_and_zeros, group_size, layout)
    if out.ndim != 2 or out.shape[1] != k or not out.is_floating_point() or not out.is_contiguous():
        raise misfit("out", out, f"a contiguous float [rows, {k}]")
    rows = out.shape[0]
    check_rows(start, rows, n, layout)
    if out.dtype in OUT_DTYPES and layout.kind == "cuda" and triton_available(packed.device):
        assert layout.inner_k_tiles is not None
        return dequantize_rows(packed, scales_and_zeros, group_size, layout.inner_k_tiles, start, rows, out)
    return dequantize_plain(packed, scales_and_zeros, group_size, layout, start, out)


def has_fused_path(device: torch.device | str, layout: Layout | None) -> bool:
    """Say whether the fused kernel multiplies a weight in `layout` on `device`."""
    return layout is not None and layout.kind == "cuda" and triton_available(device)


def tiles_note(device: torch.device | str = "cuda") -> str:
    """Say in a phrase how weights are dequantized on a GPU."""
    device = torch.device(device)
    used = triton_note(device)
    return f"dequantized by {used}" if triton_available(device) else f"dequantized by torch operations ({used})"
