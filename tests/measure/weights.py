"""Random weights, and what is stored for them."""

from __future__ import annotations

import torch

from workbench.config import Int4WeightOnlyConfig
from workbench.solvers import quantize_weight

DOMAINS = ["float", "int", "symmetric"]


def quantized(weight, domain="float", group_size=32):
    return quantize_weight(weight, Int4WeightOnlyConfig(group_size=group_size), domain=domain)


def some_weight(n, k, seed=0):
    return torch.randn(n, k, generator=torch.Generator().manual_seed(seed)) * 0.05 + 0.01
