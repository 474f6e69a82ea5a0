"""What the GPU benchmarks share: the GPU they need, and copies of a weight beyond its L2."""

from __future__ import annotations

import sys

import torch

from workbench.measure.timing import cache_bytes

LEAST_CAPABILITY = (8, 0)
_CACHES = 4  # the copies of a weight together are so many times the L2
_FEWEST, _MOST = 3, 32


def require_gpu() -> None:
    """End the program, with the reason, where there is no NVIDIA GPU with bfloat16 products."""
    problem = ""
    if not torch.cuda.is_available():
        problem = "no GPU: torch sees none"
    elif torch.version.hip is not None:
        problem = "no NVIDIA GPU: this torch is built for ROCm"
    elif torch.cuda.get_device_capability() < LEAST_CAPABILITY:
        problem = f"{torch.cuda.get_device_name()} has no bfloat16 products: compute capability 8.0 or newer is needed"
    if problem:
        sys.exit(problem)


def copies_beyond_l2(held_bytes: int) -> int:
    """Return how many copies of `held_bytes` are together four times the L2, at least 3 and at most 32."""
    return max(_FEWEST, min(_MOST, -(-_CACHES * (cache_bytes("cuda") or 0) // max(1, held_bytes))))
