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


def group_errors(weight: Tensor, values: Tensor, group_size: int, norm: float = 2.0) -> Tensor:
    """Sum of |w - w_r|^norm of each group of each row, float64 [N, groups], in units of each group's largest |w|."""
    weight, values = weight.double(), values.double()
    sums = []
    for own, ours in zip(weight.split(group_size, 1), values.split(group_size, 1), strict=True):
        unit = own.abs().amax(1, keepdim=True).clamp(min=1e-300)
        sums.append(((own - ours).abs() / unit).pow(norm).sum(1))
    return torch.stack(sums, 1)


def finest_mse(group: Tensor, domain: str, dtype: torch.dtype, steps: int = 120) -> float:
    """Smallest mean squared error of one group over a fine grid of storable scales and zero points."""
    w = group.double()
    low, high = float(w.min()), float(w.max())
    largest = max(-low, high)
    best = float("inf")
    for share in torch.linspace(0.45, 1.1, steps).tolist():
        if domain == "float":
            scale = rounded(share * (high - low) / 15, dtype)
            middles = [low + (high - low) / 2 + (shift / 40 + 0.5) * scale for shift in range(-60, 61)]
            zeros = torch.tensor([rounded(middle, dtype) for middle in middles], dtype=torch.float64)
            offsets = 8 - zeros / scale
        elif domain == "int":
            offsets = torch.arange(16, dtype=torch.float64)
            scale = None
        else:
            offsets = torch.tensor([8.0], dtype=torch.float64)
            scale = rounded(share * largest / 7.5, dtype)
        for offset in offsets.tolist():
            s = rounded(share * largest / max(offset, 15 - offset), dtype) if scale is None else scale
            codes = torch.round(w / s + offset).clamp(0, 15)
            best = min(best, float((w - (codes - offset) * s).square().mean()))
    return best


KINDS = (
    "constant",
    "one outlier",
    "all but one equal",
    "two clusters",
    "denormal",
    "1e30",
    "3e38",
    "alternating",
    "zeros",
    "random",
    "far from zero",
)


def adversarial(kind: str, length: int, generator: torch.Generator) -> Tensor:
    """A group of weights that formulas break on, float32 [length]."""

    def random() -> Tensor:
        return torch.randn(length, generator=generator)

    value = float(torch.randn(1, generator=generator))
    if kind == "constant":
        return torch.full((length,), value)
    if kind == "one outlier":
        group = random() * 0.01
        group[-1] = 50 * value
        return group
    if kind == "all but one equal":
        group = torch.full((length,), value)
        group[0] = -3 * value
        return group
    if kind == "two clusters":
        return torch.where(random() > 0, 1.0, -0.3) + 0.001 * random()
    if kind == "far from zero":
        return 1000 * value * (1 + 1e-4 * random())
    if kind == "alternating":
        return value * (1 - 2 * (torch.arange(length) % 2))
    if kind == "zeros":
        return torch.zeros(length)
    factor = {"denormal": 1e-40, "1e30": 1e30, "3e38": 3e38, "random": 0.02}[kind]
    return (random().clamp(-1, 1) if kind == "3e38" else random()) * factor


def row_errors(weight: Tensor, values: Tensor, total: Tensor) -> Tensor:
    """(w - w_r) H (w - w_r)^T of each row, float64 [N], one row at a time."""
    difference, h = weight.double() - values.double(), total.double()
    return torch.stack([row @ h @ row for row in difference])


def damped_upper(total: Tensor, damping: float) -> Tensor:
    """Upper triangular U with (H + damping * mean diagonal)^-1 = U^T U, float64."""
    h = total.double()
    dead = torch.diag((h.diagonal() <= 0).double())
    inverse = torch.linalg.inv(h + h.diagonal().mean() * (damping * torch.eye(len(h)).double() + dead))
    return torch.linalg.cholesky((inverse + inverse.t()) / 2, upper=True)


def feedback(row: Tensor, scale: list[float], zero: list[float], group_size: int, upper: Tensor) -> list[float]:
    """Unrounded codes of a row, rounded column by column with the errors fed back (GPTQ), float64.

    Args:
        row: The weights [K].
        scale: Of each group.
        zero: Of each group, the value of code 8.
        group_size: Columns of a group.
        upper: U [K, K].
    """
    rest, found = row.double().clone(), []
    for j in range(len(rest)):
        s, z = scale[j // group_size], zero[j // group_size]
        unrounded = float((rest[j] - z) / s) + 8
        error = (float(rest[j]) - ((clamp(round(unrounded)) - 8) * s + z)) / float(upper[j, j])
        for later in range(j + 1, len(rest)):
            rest[later] -= error * upper[j, later]
        found.append(unrounded)
    return found


MOMENTS = (
    "plain",
    "correlated",
    "singular",
    "rank 1",
    "dead channels",
    "huge",
    "tiny",
    "one dominates",
    "few tokens",
    "equal channels",
)


def activations(kind: str, tokens: int, width: int, generator: torch.Generator) -> Tensor:
    """Inputs of a layer on which a solver may break, float32 [tokens, width]."""
    plain = torch.randn(tokens, width, generator=generator)
    factor = {"huge": 1e15, "tiny": 1e-15}.get(kind, 1.0)
    if kind == "correlated":
        return plain @ torch.randn(width, width, generator=generator) * 0.1 + 3 * plain[:, :1]
    if kind == "singular":
        return plain[:, : max(1, width // 3)] @ torch.randn(max(1, width // 3), width, generator=generator)
    if kind == "rank 1":
        return plain[:, :1] * torch.randn(1, width, generator=generator)
    if kind == "dead channels":
        plain[:, torch.rand(width, generator=generator) < 0.4] = 0
        plain[:, 0] = 1.0
    if kind == "one dominates":
        plain[:, width // 2] *= 1e4
    if kind == "few tokens":
        return plain[: max(1, width // 4)]
    if kind == "equal channels":
        return plain[:, :1].expand(tokens, width).contiguous()
    return plain * factor
