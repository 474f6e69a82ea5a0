"""The CPU kernels that PyTorch does not have, compiled on the machine that runs them; without a compiler, none.

They are tried against plain torch before they are used, at each start of a process: a compiler or processor that
gives other results is found out, said, and left alone. WORKBENCH_NATIVE=0 in the environment turns them off.
"""

from __future__ import annotations

import ctypes
import os
import threading
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workbench.layout import CPU_VARIANTS, CpuVariant, Layout
from workbench.native.builder import CannotBuild, build
from workbench.packing import pack

VARIABLE = "WORKBENCH_NATIVE"
CHUNK = 256  # columns of K that a thread dequantizes at a time, for a block of 64 rows: 32 kB of its cache
FEW_ROWS, FEW_ROWS_TILES = (
    6,
    32,
)  # up to so many rows of activations, without and with a matrix unit, codes are multiplied
OWN_COPY_ROWS = 64  # up to so many rows of activations each thread packs a copy of them for itself
_DTYPES = {torch.bfloat16: 0, torch.float16: 1, torch.float32: 2}  # as in int4.c
_HAS_FUSED, _HAS_TILES = 1, 2
_FUSED_VARIANT: CpuVariant = "avx512"

_lock = threading.Lock()
_found: list[NativeKernels | None] = []
_note = ""


@dataclass(frozen=True)
class NativeKernels:
    """The functions of one loaded library.

    Attributes:
        library: The library, by ctypes; its functions take addresses and check nothing.
        fused: Whether `linear` is there (x86 with AVX-512 BF16).
        tiles: Whether `linear` uses the processor's matrix unit (AMX).
        compiler: Name and version of the compiler.
    """

    library: Any
    fused: bool
    tiles: bool
    compiler: str

    @property
    def kind(self) -> str:
        """Name what the library can do in a word: "amx", "avx512_bf16" or "dequantize"."""
        return ("amx" if self.tiles else "avx512_bf16") if self.fused else "dequantize"

    def dequantize(
        self, packed: Tensor, scales_and_zeros: Tensor, group_size: int, layout: Layout, first: int, out: Tensor
    ) -> None:
        """Write rows of a packed weight, transposed, into `out`.

        Args:
            packed: uint8 [N, K/2] in `layout`, checked by the caller as the op's arguments are.
            scales_and_zeros: bfloat16 [K/group_size, N, 2].
            group_size: Weights per group.
            layout: A CPU layout.
            first: The first row, a multiple of the layout's block.
            out: bfloat16 or float32 [K, rows], its rows contiguous.
        """
        size, halves = layout.cpu_block
        k, rows = out.shape
        self.library.workbench_dequantize(
            packed.data_ptr(),
            scales_and_zeros.data_ptr(),
            scales_and_zeros.shape[1],
            k,
            group_size,
            size,
            halves,
            first,
            rows,
            out.data_ptr(),
            _DTYPES[out.dtype],
            out.stride(0),
            torch.get_num_threads(),
        )

    @property
    def few_rows(self) -> int:
        """Up to so many rows of activations `linear` dequantizes no weight: it multiplies the codes."""
        return FEW_ROWS_TILES if self.tiles else FEW_ROWS

    def fits(self, layout: Layout | None) -> bool:
        """Say whether `linear` reads `layout`."""
        return self.fused and layout is not None and layout.variant == _FUSED_VARIANT

    def linear(self, x: Tensor, packed: Tensor, scales_and_zeros: Tensor, group_size: int, out_features: int) -> Tensor:
        """Multiply x [M, K] with a weight in the AVX-512 layout, each block dequantized in the cache and used there.

        Args:
            x: bfloat16, float16 or float32 [M, K], contiguous, M >= 1; K up to the padded K of the weight. Rounded to
                bfloat16 inside, accumulated in float32.
            packed: uint8 [N_padded, K_padded/2].
            scales_and_zeros: bfloat16 [K_padded/group_size, N_padded, 2].
            group_size: Weights per group.
            out_features: N, up to N_padded.

        Returns:
            [M, N] in x's dtype.
        """
        if x.shape[0] <= self.few_rows:
            return self._few(x, packed, scales_and_zeros, group_size, out_features)
        (m, k), (groups, n, _), threads = x.shape, scales_and_zeros.shape, torch.get_num_threads()
        k_padded, m_padded = groups * group_size, -(-m // 16) * 16
        result = torch.empty(m, out_features, dtype=x.dtype)
        own_copies = m <= OWN_COPY_ROWS
        packed_x = torch.empty((threads if own_copies else 1) * m_padded * k_padded, dtype=torch.bfloat16)
        scratch = torch.empty(threads * 64 * (2 * CHUNK + 4 * m_padded), dtype=torch.uint8)
        self.library.workbench_linear(
            x.data_ptr(),
            _DTYPES[x.dtype],
            m,
            k,
            packed.data_ptr(),
            scales_and_zeros.data_ptr(),
            n,
            k_padded,
            group_size,
            out_features,
            result.data_ptr(),
            packed_x.data_ptr(),
            own_copies,
            scratch.data_ptr(),
            CHUNK,
            self.tiles,
            threads,
        )
        return result

    def _few(self, x: Tensor, packed: Tensor, scales_and_zeros: Tensor, group_size: int, out_features: int) -> Tensor:
        """Do what `linear` does, for a decoding step: the codes are multiplied as they come from memory."""
        (m, k), (groups, n, _), threads = x.shape, scales_and_zeros.shape, torch.get_num_threads()
        result = torch.empty(m, out_features, dtype=x.dtype)
        size = self.library.workbench_few_bytes(m, groups * group_size, group_size)
        scratch = torch.empty(threads * size, dtype=torch.uint8)
        self.library.workbench_few(
            x.data_ptr(),
            _DTYPES[x.dtype],
            m,
            k,
            packed.data_ptr(),
            scales_and_zeros.data_ptr(),
            n,
            groups * group_size,
            group_size,
            out_features,
            result.data_ptr(),
            scratch.data_ptr(),
            self.tiles,
            threads,
        )
        return result


def native_kernels() -> NativeKernels | None:
    """Return the compiled kernels, built at the first call on a machine (a second or so); None where there are none."""
    if not _found:
        with _lock:
            if not _found:
                _found.append(_load())
    return _found[0]


def native_note() -> str:
    """Say in a sentence which compiled kernels are used, or why none are."""
    native_kernels()
    return _note


def _load() -> NativeKernels | None:
    global _note
    try:
        if os.environ.get(VARIABLE) == "0":
            raise CannotBuild(f"{VARIABLE}=0 turns them off")
        built = build()
        kernels = _checked(_opened(str(built.path), built.compiler))
    except (CannotBuild, OSError) as error:
        _note = f"no compiled CPU kernels: {error}; large batches are dequantized by plain torch operations, slower"
        return None
    _note = f"compiled CPU kernels ({kernels.kind}, by {kernels.compiler})"
    return kernels


def _opened(path: str, compiler: str) -> NativeKernels:
    library = ctypes.CDLL(path)
    features = int(library.workbench_features())
    address, number, flag = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    library.workbench_dequantize.restype = None
    library.workbench_dequantize.argtypes = [
        *(address, address, number, number, number, number, flag),
        *(number, number, address, flag, number, flag),
    ]
    if features & _HAS_FUSED:
        library.workbench_few.restype = None
        library.workbench_few.argtypes = [
            *(address, flag, number, number, address, address, number, number, number, number),
            *(address, address, flag, flag),
        ]
        library.workbench_few_bytes.restype = number
        library.workbench_few_bytes.argtypes = [number, number, number]
        library.workbench_linear.restype = None
        library.workbench_linear.argtypes = [
            *(address, flag, number, number, address, address, number, number, number, number),
            *(address, address, flag, address, number, flag, flag),
        ]
    return NativeKernels(library, bool(features & _HAS_FUSED), bool(features & _HAS_TILES), compiler)


def _checked(kernels: NativeKernels) -> NativeKernels:
    """Try every function on small weights against plain torch.

    Raises:
        CannotBuild: when a result differs.
    """
    generator = torch.Generator().manual_seed(0)
    n, k, group_size = 80, 128, 32  # a full block and a tail
    codes = torch.randint(0, 16, (n, k), generator=generator, dtype=torch.uint8)
    pairs = torch.randn(k // group_size, n, 2, generator=generator).to(torch.bfloat16)
    scale, zero = pairs.float().repeat_interleave(group_size, 0).unbind(-1)
    weight = torch.addcmul(zero, codes.t().float() - 8, scale)
    for variant in CPU_VARIANTS:
        layout = Layout("cpu", variant=variant)
        packed = pack(codes, layout)
        for dtype in (torch.bfloat16, torch.float32):
            out = torch.empty(k, n, dtype=dtype)
            kernels.dequantize(packed, pairs, group_size, layout, 0, out)
            if not torch.equal(out, weight.to(dtype)):
                raise CannotBuild(f"what {kernels.compiler} compiled dequantizes otherwise than torch")
    if kernels.fused:
        packed = pack(codes, Layout("cpu", variant=_FUSED_VARIANT))
        for m in (1, 2, 3, 4, 5, 6, 7, 49):
            x = torch.randn(m, k, generator=generator)
            factor = weight if m <= kernels.few_rows else weight.to(torch.bfloat16).float()
            wanted = x.to(torch.bfloat16).float() @ factor
            error = (kernels.linear(x, packed, pairs, group_size, n) - wanted).norm() / wanted.norm()
            if not float(error) < 1e-4:
                raise CannotBuild(f"what {kernels.compiler} compiled multiplies otherwise than torch")
    return kernels
