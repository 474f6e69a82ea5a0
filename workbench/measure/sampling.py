"""Rows that stand for a whole weight."""

from __future__ import annotations

import torch
from torch import Tensor


def sampled_rows(n: int, limit: int = 256) -> Tensor:
    """Return at most `limit` row indices, evenly spaced over n rows, int64 and increasing."""
    if n <= limit:
        return torch.arange(n)
    return torch.linspace(0, n - 1, limit, dtype=torch.float64).round().long()
