"""How weights, errors and levels are spread, and what the error does to a layer's output; in blocks of rows."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.affine import QuantizedWeight
from workbench.measure.microscope import levels_of
from workbench.records.errors import Histogram
from workbench.solvers import InputMoments
from workbench.solvers.row_blocks import iter_row_blocks

BINS = 96
_BLOCK_WEIGHTS, _BLOCK_ELSEWHERE = 1 << 17, 1 << 20  # a core's cache; elsewhere, a GPU's worth of work
_BLOCK_PRODUCTS = 1 << 30  # multiplications of a block: some tens of milliseconds on two cores


@dataclass(frozen=True)
class Spread:
    """Weights, errors and levels of a layer, counted.

    Attributes:
        histogram: Counts of the weights and of the errors.
        levels: Levels of all groups in each bin of the weights; those beyond the largest |weight| are not counted.
        level_count: Levels in all, 16 of each group.
    """

    histogram: Histogram
    levels: tuple[int, ...]
    level_count: int


@dataclass(frozen=True)
class OutputError:
    """What the error of a weight does to the output of its layer.

    Attributes:
        relative: ||X (W - W')^T|| / ||X W^T||, over all tokens and output features (Frobenius norms).
        tokens: Tokens that the inputs X are of.
    """

    relative: float
    tokens: int


def iter_spread(
    weight: Tensor, quantized: QuantizedWeight, bins: int = BINS, error_limit: float | None = None
) -> Generator[float, None, Spread]:
    """Count weights, errors and levels; yields the share that is done, returns the counts.

    Args:
        weight: float [N, K], the original, finite.
        quantized: What is stored for it.
        bins: Bins of each histogram.
        error_limit: Largest |error|, where it is known.
    """
    low, high = torch.aminmax(weight)
    limit = max(abs(float(low)), abs(float(high))) or 1.0
    if error_limit is None:
        error_limit = float((quantized.dequantize() - weight.float()).abs().max())
    error_limit = error_limit or 1.0
    counts, errors, levels = (torch.zeros(bins, dtype=torch.float64) for _ in range(3))
    n, k = weight.shape
    step = max(1, (_BLOCK_WEIGHTS if weight.device.type == "cpu" else _BLOCK_ELSEWHERE) // max(1, k))

    def counted(start: int) -> tuple[Tensor, Tensor, Tensor]:
        part = quantized.part(slice(start, min(n, start + step)))
        original = weight[start : start + step].float()
        error = part.dequantize().sub_(original)
        pairs = (original, limit), (error, error_limit), (levels_of(part), limit)
        one, two, three = (_counted(values, bins, end) for values, end in pairs)
        return one, two, three

    blocks = iter_row_blocks(counted, n, step, weight.device, "the weight", None, None)
    for number, (one, two, three) in enumerate(blocks, 1):
        counts, errors, levels = counts + one, errors + two, levels + three
        yield min(1.0, number * step / n)
    histogram = Histogram(bins, limit, _whole(counts), error_limit, _whole(errors))
    return Spread(histogram, _whole(levels), 16 * quantized.scale.numel())


def iter_output_error(
    weight: Tensor, quantized: QuantizedWeight, moments: InputMoments
) -> Generator[float, None, OutputError]:
    """Measure the error of a layer's output; yields the share that is done, returns the error.

    With H = X^T X, ||X E^T||^2 is the sum of (E H) * E over all places.

    Args:
        weight: float [N, K], the original, finite.
        quantized: What is stored for it.
        moments: Of the layer's inputs.
    """
    n, k = weight.shape
    total = moments.total.to(weight.device)
    step = max(1, _BLOCK_PRODUCTS // (2 * k * k))
    noise = signal = 0.0
    for start in range(0, n, step):
        original = weight[start : start + step].float()
        error = quantized.part(slice(start, min(n, start + step))).dequantize() - original
        noise += float((error @ total * error).sum(dtype=torch.float64))
        signal += float((original @ total * original).sum(dtype=torch.float64))
        yield min(1.0, (start + step) / n)
    noise = max(noise, 0.0)
    relative = math.sqrt(noise / signal) if signal > 0 else (math.inf if noise > 0 else 0.0)
    return OutputError(relative, moments.tokens)


def _counted(values: Tensor, bins: int, limit: float) -> Tensor:
    return torch.histc(values.cpu().double(), bins, -limit, limit)


def _whole(counts: Tensor) -> tuple[int, ...]:
    return tuple(int(count) for count in counts)
