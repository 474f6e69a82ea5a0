"""Dequantizing and multiplying with Triton from the CUDA tile layout: checks, and whether a GPU can.

Triton is imported when a kernel is first wanted; without it, on other devices and for ROCm's layout, whose bytes
differ, `triton_available` says no and `triton_note` why, and the torch operations of `workbench.cuda_paths` are used.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import torch
from torch import Tensor

from workbench.errors import KernelError
from workbench.layout import Layout
from workbench.packing import pack
from workbench.tiles import check_rows, check_weight, dequantize_plain, misfit
from workbench.triton.blocks import Blocks, choose_blocks
from workbench.triton.launch import launch_dequantize, launch_fused

LEAST_CAPABILITY = (8, 0)  # bfloat16 products
_LONGEST_PROBLEM = 300  # characters
_found: dict[int, str] = {}  # by GPU, what its trial found
OUT_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def dequantize_rows(
    packed: Tensor,
    scales_and_zeros: Tensor,
    group_size: int,
    inner_k_tiles: int,
    start: int,
    rows: int,
    out: Tensor,
) -> Tensor:
    """Write some rows of a weight [N, K], dequantized, to `out`: (q - 8) * scale + zero in float32, rounded once.

    Args:
        packed: int32 [N/8, K/(16 I), 32, I/2], the CUDA tile layout.
        scales_and_zeros: bfloat16 [K/group_size, N, 2], scale first.
        group_size: 256, 128, 64 or 32, dividing K.
        inner_k_tiles: I: 2, 4 or 8.
        start: First row, a multiple of 8.
        rows: Number of rows, a multiple of 8.
        out: bfloat16, float16 or float32 [rows, K], contiguous.

    Returns:
        `out`.

    Raises:
        KernelError: for input that does not fit, or on a device that Triton does not run on.
    """
    layout = Layout("cuda", inner_k_tiles)
    n, k = check_weight(packed, scales_and_zeros, group_size, layout)
    check_rows(start, rows, n, layout)
    if out.dtype not in OUT_DTYPES or tuple(out.shape) != (rows, k) or not out.is_contiguous():
        raise misfit("out", out, f"a contiguous bfloat16, float16 or float32 {[rows, k]}")
    _check_device(packed, out)
    if rows == 0:
        return out
    launch_dequantize(packed, scales_and_zeros, group_size, inner_k_tiles, start, out)
    return out


def fused_linear(
    x: Tensor,
    packed: Tensor,
    scales_and_zeros: Tensor,
    group_size: int,
    inner_k_tiles: int,
    *,
    blocks: Blocks | None = None,
) -> Tensor:
    """Return x @ W^T, the weight dequantized to bfloat16 in registers, summed in float32, rounded once to bfloat16.

    A weight is (q - 8) * scale + zero by one fused multiply-add, rounded once to bfloat16.

    Args:
        x: bfloat16 [M, K], contiguous; M may be 0.
        packed: int32 [N/8, K/(16 I), 32, I/2], the CUDA tile layout.
        scales_and_zeros: bfloat16 [K/group_size, N, 2], scale first.
        group_size: 256, 128, 64 or 32, dividing K.
        inner_k_tiles: I: 2, 4 or 8.
        blocks: Block sizes; None chooses them by shape and GPU.

    Returns:
        bfloat16 [M, N]. The same input gives the same bits, whatever else runs.

    Raises:
        KernelError: for input that does not fit, or on a device that Triton does not run on.
    """
    n, k = check_weight(packed, scales_and_zeros, group_size, Layout("cuda", inner_k_tiles))
    if x.dtype != torch.bfloat16 or x.ndim != 2 or x.shape[1] != k or not x.is_contiguous():
        raise misfit("x", x, f"a contiguous bfloat16 [M, {k}]")
    _check_device(packed, x)
    m = x.shape[0]
    out = torch.empty(m, n, dtype=x.dtype, device=x.device)
    if m == 0:
        return out
    sizes = blocks or choose_blocks(m, n, k, inner_k_tiles, **gpu_facts(x.device))
    launch_fused(x, packed, scales_and_zeros, group_size, inner_k_tiles, sizes, out)
    return out


def triton_available(device: torch.device | str) -> bool:
    """Say whether the kernels of this module run on `device`; the first call tries them there, in a second or two."""
    return _problem(torch.device(device)) == ""


def triton_note(device: torch.device | str = "cuda") -> str:
    """Say in a phrase whether Triton is used on `device`, and if not, why."""
    problem = _problem(torch.device(device))
    return f"no Triton: {problem}" if problem else f"Triton {_version()}"


def _check_device(packed: Tensor, other: Tensor) -> None:
    if other.device != packed.device:
        raise KernelError(
            f"The packed weight is on {packed.device}, the other tensor on {other.device}.",
            allowed="one device for both",
        )
    if packed.device.type != "cuda" and not _interpreting():
        raise KernelError(
            f"Triton does not run on {packed.device}.", allowed="cuda", mend="use workbench.kernels.int4_linear"
        )


# --- what there is to run on -----------------------------------------------------------------------------------------


def _version() -> str:
    import triton

    return str(triton.__version__)


def _interpreting() -> bool:
    """Whether Triton runs its kernels on the CPU, one operation at a time (it reads this when it is imported)."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def gpu_facts(device: torch.device) -> dict[str, Any]:
    """Return what `choose_blocks` asks about a GPU."""
    if device.type != "cuda":
        return {"processors": 1, "large": False}
    found = torch.cuda.get_device_properties(device)
    return {"processors": found.multi_processor_count, "large": found.major == 9}


def _problem(device: torch.device) -> str:
    """Say what keeps Triton from running on `device`; "" for nothing."""
    if device.type != "cuda":
        return f"it does not run on {device.type}"
    if torch.version.hip is not None:
        return "ROCm's layout is dequantized by torch operations"
    if not torch.cuda.is_available():
        return "there is no GPU"
    if torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
        return f"the GPU is older than compute capability {LEAST_CAPABILITY[0]}.{LEAST_CAPABILITY[1]}"
    try:
        import triton  # noqa: F401
    except ImportError:
        return "it is not installed (torch for CUDA on Linux brings it)"
    index = torch.cuda.current_device() if device.index is None else device.index
    if torch.cuda.is_current_stream_capturing():
        return _found.get(index, "")  # nothing can be tried while a graph is captured
    _found[index] = _trial(index)
    return _found[index]


@functools.cache
def _trial(index: int) -> str:
    """Try the kernels, once for each GPU of the process; say what is wrong, "" for nothing."""
    try:
        return "" if _is_right(torch.device("cuda", index)) else "its kernels gave wrong values here"
    except Exception as error:  # a compiler, a linker or a driver can raise anything
        return f"its kernels do not run here ({type(error).__name__}: {error})".replace("\n", " ")[:_LONGEST_PROBLEM]


def _is_right(device: torch.device) -> bool:
    """Dequantize and multiply with numbers whose sums are exact, and compare with torch operations, to the bit."""
    layout, (n, k, m) = Layout("cuda", 8), (64, 1024, 80)
    codes = (torch.arange(n * k, device=device).view(n, k) * 7 // 5 % 16).to(torch.uint8)
    pairs = (2.0 ** (torch.arange(8 * n * 2, device=device).view(8, n, 2) % 3)).to(torch.bfloat16)
    packed = pack(codes, layout)
    ours, plain = (torch.empty(n, k, dtype=torch.bfloat16, device=device) for _ in range(2))
    dequantize_rows(packed, pairs, 128, 8, 0, n, ours)
    dequantize_plain(packed, pairs, 128, layout, 0, plain)
    x = (torch.arange(m * k, device=device).view(m, k) * 11 // 3 % 5 - 2).to(torch.bfloat16)
    exact = (x.double() @ plain.double().t()).to(torch.bfloat16)
    if not torch.equal(ours, plain):
        return False
    return all(torch.equal(fused_linear(x[:rows], packed, pairs, 128, 8), exact[:rows]) for rows in (3, m))
