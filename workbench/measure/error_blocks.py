"""A weight and its error block by block: no dense copy of either is made."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from workbench.affine import QuantizedWeight
from workbench.errors import ConfigError, WeightError
from workbench.solvers.row_blocks import iter_row_blocks

_Result = TypeVar("_Result")
# Dense float32 that is worked on at a time: what stays in a core's cache, or keeps a GPU busy.
_BLOCK_ELEMENTS, _BLOCK_ELSEWHERE = 1 << 17, 1 << 22


def each_block(
    work: Callable[[Tensor, Tensor], _Result],
    weight: Tensor,
    quantized: QuantizedWeight,
    cancel: threading.Event | None = None,
) -> Iterator[tuple[slice, _Result]]:
    """Yield (rows, `work(original, error)`) of blocks of rows, float32 [R, K], in order; on a CPU threads take blocks.

    A single thread works through a block that stays in its cache: shared among threads, each of the many short
    operations would wait for the slowest of them.
    """
    n, k = weight.shape
    on_cpu = weight.device.type == "cpu"
    step = max(1, (_BLOCK_ELEMENTS if on_cpu else _BLOCK_ELSEWHERE) // max(1, k))

    def part(start: int) -> tuple[slice, _Result]:
        rows = slice(start, min(n, start + step))
        original, error = error_in(weight, quantized, rows)
        check_finite(original, weight)
        return rows, work(original, error)

    if n <= step:  # no thread is started for a single group
        return iter([part(0)])
    return iter_row_blocks(part, n, step, weight.device, "the weight", cancel, None)


def error_in(weight: Tensor, quantized: QuantizedWeight, rows: slice) -> tuple[Tensor, Tensor]:
    """Return some rows of the original and their error, float32 [R, K] each."""
    original = weight[rows].float()
    return original, quantized.part(rows).dequantize().sub_(original)


def check_pair(weight: Tensor, quantized: QuantizedWeight) -> None:
    """Refuse a weight that is not of the quantized one's shape, or has no elements."""
    if weight.shape != quantized.shape:
        raise ConfigError(
            f"The weight is {list(weight.shape)}, the quantized one {list(quantized.shape)}.", allowed="one shape"
        )
    if weight.numel() == 0:
        raise WeightError(f"A weight of shape {list(weight.shape)} has no elements.", mend="leave this layer out")


def check_finite(part: Tensor, whole: Tensor | None = None) -> None:
    """Refuse a part of a weight that holds NaN or infinity, and name the first one of the whole."""
    low, high = torch.aminmax(part)  # NaN comes through; no copy is made
    if not bool(torch.isfinite(torch.stack((low, high)).float()).all()):
        weight = part if whole is None else whole
        at = torch.nonzero(~torch.isfinite(weight.float()))[0].tolist()
        raise WeightError(f"weight{at} is {weight[tuple(at)].item()}.", allowed="finite weights")
