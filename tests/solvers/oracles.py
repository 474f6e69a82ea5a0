"""Slow, one group at a time, written to be obviously right."""

from __future__ import annotations

import torch
from torch import Tensor


def rounded(value: float, dtype: torch.dtype) -> float:
    return float(torch.tensor(value, dtype=torch.float32).to(dtype))


def nearest(group: Tensor, domain: str, preserve_zero: bool, dtype: torch.dtype) -> tuple[list[int], float, float]:
    """Codes, scale and zero point of an ordinary group, by the table of formulas."""
    low, high = float(group.min()), float(group.max())
    if preserve_zero or domain == "int":
        low, high = min(low, 0.0), max(high, 0.0)
    if domain == "symmetric":
        scale = rounded(max(-low, high) / 7.5, dtype)
        return [clamp(round(float(w) / scale) + 8) for w in group], scale, 8.0
    scale = rounded((high - low) / 15, dtype)
    if domain == "int":
        zero = clamp(-round(low / scale))
        return [clamp(round(float(w) / scale) + zero) for w in group], scale, float(zero)
    zero_in_weights = rounded(low + 7.5 * (high - low) / 15 + scale / 2, dtype)
    return [clamp(round((float(w) - zero_in_weights) / scale) + 8) for w in group], scale, zero_in_weights


def clamp(code: float) -> int:
    return int(min(15, max(0, code)))


def hqq(group: Tensor, scale: float, start: float, domain: str, dtype: torch.dtype, options, shifts) -> float:
    """Best mean |error| of one group, in weight units, by the plain half-quadratic iteration in float64."""
    w = group.double()

    def judged(zero: float) -> tuple[float, Tensor, float]:
        middle = zero if domain == "int" else 8 - zero / scale
        codes = torch.round(w / scale + middle).clamp(0, 15)
        values = (codes - middle) * scale
        return float((w - values).abs().mean()), codes, middle

    def snap(middle: float) -> float:
        return float(clamp(round(middle))) if domain == "int" else rounded((8 - middle) * scale, dtype)

    candidates = [start]
    if domain == "float":
        candidates += [rounded(start + shift * scale, dtype) for shift in shifts]
    zero = min(candidates, key=lambda candidate: judged(candidate)[0])
    best = judged(zero)[0]
    beta = options.beta
    for _ in range(options.iters):
        _, codes, middle = judged(zero)
        residual = w - (codes - middle) * scale
        size = residual.abs()
        sparse = torch.sign(residual) * torch.relu(size - size ** (options.lp_norm - 1) / beta)
        zero = snap(float((codes - (w - sparse) / scale).mean()))
        best = min(best, judged(zero)[0])
        beta *= options.kappa
    return best
