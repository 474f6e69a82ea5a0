"""Launches of the Triton kernels; their arguments were checked by `workbench.triton.kernels`."""

from __future__ import annotations

import ctypes
import functools
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from workbench.triton.blocks import Blocks

_DEQUANTIZE_BLOCK = (32, 128)  # rows and columns of one program
_SUM_BLOCK = 256
_TOGETHER = 8  # blocks of M that go round before N advances
# Programmatic dependent launch: the next kernel is set up while this one runs. Before this driver, CUDA 12.3's, a graph
# could not capture it.
_EARLY_DRIVER = 12030
_EARLY_CAPABILITY = 9


def launch_dequantize(
    packed: Tensor, scales_and_zeros: Tensor, group_size: int, inner_k_tiles: int, start: int, out: Tensor
) -> None:
    """Write the rows of a weight [N, K] from `start` to `out` [rows, K]."""
    from workbench.triton import jit as triton_jit

    (rows, k), n = out.shape, packed.shape[0] * 8
    block_n, block_k = _DEQUANTIZE_BLOCK
    scales = scales_and_zeros.view(torch.int32)
    kernel: Any = triton_jit.dequantize_kernel[(-(-k // block_k), -(-rows // block_n))]
    with _on(packed.device):
        kernel(packed, scales, out, start, rows, n, k, group_size, inner_k_tiles, block_n, block_k, num_warps=4)


def launch_fused(
    x: Tensor,
    packed: Tensor,
    scales_and_zeros: Tensor,
    group_size: int,
    inner_k_tiles: int,
    sizes: Blocks,
    out: Tensor,
) -> None:
    """Write x [M, K] @ W^T, M at least 1, to `out` bfloat16 [M, N]."""
    (m, n), splits = out.shape, sizes.splits
    partial = out if splits == 1 else torch.empty(splits, m, n, dtype=torch.float32, device=x.device)
    scales, early = scales_and_zeros.view(torch.int32), _early(x.device)
    with _on(x.device):
        (_launch_few_rows if sizes.parts > 1 else _launch_blocks)(
            (x, packed, scales, partial), group_size, inner_k_tiles, sizes, early
        )
        if partial is not out:
            _launch_sum(partial, out, early)


def _launch_blocks(
    tensors: tuple[Tensor, ...], group_size: int, inner_k_tiles: int, sizes: Blocks, early: bool
) -> None:
    from workbench.triton import products as triton_products

    (m, k), n = tensors[0].shape, tensors[1].shape[0] * 8
    steps = k // sizes.k // sizes.splits
    blocks = (sizes.m, sizes.n, sizes.k, _TOGETHER, _swaps(tensors[0].device), early)
    kernel: Any = triton_products.fused_kernel[(-(-m // sizes.m) * -(-n // sizes.n), sizes.splits)]
    kernel(*tensors, m, n, k, steps, group_size, inner_k_tiles, *blocks, **_options(sizes, early))


def _launch_few_rows(
    tensors: tuple[Tensor, ...], group_size: int, inner_k_tiles: int, sizes: Blocks, early: bool
) -> None:
    from workbench.triton import products as triton_products

    (m, k), n = tensors[0].shape, tensors[1].shape[0] * 8
    step = sizes.k * sizes.parts
    steps = -(-k // (step * sizes.splits))
    blocks = (sizes.m, sizes.n, sizes.k, sizes.parts, steps * step * sizes.splits == k, early)
    kernel: Any = triton_products.few_rows_kernel[(-(-n // sizes.n), sizes.splits, -(-m // sizes.m))]
    kernel(*tensors, m, n, k, steps, group_size, inner_k_tiles, *blocks, **_options(sizes, early))


def _launch_sum(partial: Tensor, out: Tensor, early: bool) -> None:
    from workbench.triton import products as triton_products

    kernel: Any = triton_products.sum_splits_kernel[(-(-out.numel() // _SUM_BLOCK),)]
    kernel(partial, out, out.numel(), partial.shape[0], _SUM_BLOCK, early, **({"launch_pdl": True} if early else {}))


def _options(sizes: Blocks, early: bool) -> dict[str, Any]:
    """Return Triton's options of a launch."""
    found = {"num_warps": sizes.warps, "num_stages": sizes.stages}
    return {**found, "launch_pdl": True} if early else found


def _on(device: torch.device) -> AbstractContextManager[Any]:
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@functools.cache
def _early(device: torch.device) -> bool:
    """Say whether a kernel may be set up while the one before it runs."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device)[0] < _EARLY_CAPABILITY:
        return False
    return _driver_version() >= _EARLY_DRIVER


def _driver_version() -> int:
    """Return the newest CUDA that the driver knows, 1000 * major + 10 * minor; 0 where it does not say."""
    found = ctypes.c_int(0)
    try:
        failed = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(found))
    except (OSError, AttributeError):
        return 0
    return 0 if failed else found.value


@functools.cache
def _swaps(device: torch.device) -> bool:
    """Say whether products run on mma.sync, whose operands Triton fills in another order than the newer units'."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device)[0] not in (9, 10)
