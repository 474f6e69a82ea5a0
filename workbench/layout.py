"""The tile layouts that int4 kernels read: their names, shapes and multiples; `workbench.packing` has the formulas."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from workbench.config import INNER_K_TILES
from workbench.errors import KernelError

Kind = Literal["cuda", "rocm", "cpu"]
CpuVariant = Literal["avx512", "avx2", "default", "neon"]
CPU_VARIANTS: tuple[CpuVariant, ...] = ("avx512", "avx2", "default", "neon")
# Rows in a block, and whether a full block's byte j pairs row j with row j + block/2 ("halves") or 2j with 2j+1.
_CPU_BLOCKS: dict[CpuVariant, tuple[int, bool]] = {
    "avx512": (64, True),
    "avx2": (32, True),
    "default": (32, False),
    "neon": (16, False),
}


@dataclass(frozen=True)
class Layout:
    """One device layout.

    Attributes:
        kind: "cuda", "rocm" or "cpu".
        inner_k_tiles: 2, 4 or 8 for "cuda" and "rocm"; None for "cpu".
        variant: Instruction set of the CPU build: "avx512", "avx2", "default" or "neon"; None otherwise.

    Raises:
        KernelError: for a layout that no kernel reads.
    """

    kind: Kind
    inner_k_tiles: int | None = None
    variant: CpuVariant | None = None

    def __post_init__(self) -> None:
        if self.kind == "cpu":
            good = self.variant in CPU_VARIANTS and self.inner_k_tiles is None
        else:
            good = self.kind in ("cuda", "rocm") and self.inner_k_tiles in INNER_K_TILES and self.variant is None
        if not good:
            raise KernelError(
                f"{self!r} is no layout of an int4 kernel.",
                allowed="cuda or rocm with inner_k_tiles 2, 4 or 8; cpu with variant avx512, avx2, default or neon",
            )

    def __str__(self) -> str:
        """Name the layout in a few words."""
        return f"cpu/{self.variant}" if self.kind == "cpu" else f"{self.kind}/inner_k_tiles={self.inner_k_tiles}"

    @classmethod
    def parse(cls, text: str) -> Layout:
        """Return the layout that `str` named."""
        kind, _, rest = text.partition("/")
        if kind == "cpu":
            return cls("cpu", variant=rest)  # type: ignore[arg-type]
        return cls(kind, int(rest.removeprefix("inner_k_tiles=")))  # type: ignore[arg-type]

    @property
    def n_multiple(self) -> int:
        """What N must be a multiple of."""
        return 8 if self.kind == "cuda" else 16

    @property
    def k_multiple(self) -> int:
        """What K must be a multiple of."""
        return 2 if self.inner_k_tiles is None else 16 * self.inner_k_tiles

    @property
    def cpu_block(self) -> tuple[int, bool]:
        """Rows in a block of a CPU layout, and whether byte j pairs row j with row j + block/2, not 2j with 2j+1."""
        assert self.variant is not None
        return _CPU_BLOCKS[self.variant]

    @property
    def packed_dtype(self) -> torch.dtype:
        """Dtype of the packed tensor."""
        return torch.uint8 if self.kind == "cpu" else torch.int32

    def packed_shape(self, n: int, k: int) -> tuple[int, ...]:
        """Shape of the packed tensor of codes [n, k]."""
        if self.inner_k_tiles is None:
            return (n, k // 2)
        return (n // 8, k // (16 * self.inner_k_tiles), 32, self.inner_k_tiles // 2)


def padded_shape(n: int, k: int, group_size: int, layout: Layout) -> tuple[int, int]:
    """Return the least [N, K] that holds [n, k] in whole groups and whole tiles of `layout`."""
    k_multiple = math.lcm(group_size, layout.k_multiple)
    return -(-n // layout.n_multiple) * layout.n_multiple, -(-k // k_multiple) * k_multiple
