"""What solvers share that take a weight block by block of rows: the walk over them, and the error of a bad weight."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TypeVar

import torch
from torch import Tensor

from workbench.errors import Cancelled, WeightError
from workbench.workers import in_order

_Result = TypeVar("_Result")


def iter_row_blocks(
    solve_rows: Callable[[int], _Result],
    rows: int,
    size: int,
    device: torch.device,
    name: str,
    cancel: threading.Event | None,
    progress: Callable[[float], None] | None,
) -> Iterator[_Result]:
    """Yield what `solve_rows` returns for the first row of each block, in order; on a CPU, threads take whole blocks.

    Args:
        solve_rows: Solves the rows that begin with a number.
        rows: Rows of the weight.
        size: Rows of a block.
        device: Where the weight is.
        name: What the weight is called in errors.
        cancel: Set it to stop between blocks.
        progress: Called with the share of rows done, 0 to 1, after each block.

    Raises:
        Cancelled: when `cancel` was set.
    """
    starts = range(0, rows, size)
    on_cpu = device.type == "cpu"
    with closing(in_order(solve_rows, starts) if on_cpu else (solve_rows(start) for start in starts)) as solved:
        for start in starts:
            look(cancel, name)
            yield next(solved)
            if progress is not None:
                progress(min(1.0, (start + size) / rows))


def look(cancel: threading.Event | None, name: str) -> None:
    """Stop where `cancel` is set.

    Raises:
        Cancelled: when it is.
    """
    if cancel is not None and cancel.is_set():
        raise Cancelled(f"Solving {name} was cancelled.", mend="start it again; nothing was changed")


def not_finite(name: str, row: int, column: int, value: Tensor, otherwise: str) -> WeightError:
    """Return the error of a weight that is NaN or infinite.

    Args:
        name: What the weight is called.
        row: Its row.
        column: Its column.
        value: The value, one element of any float dtype.
        otherwise: What can be done but to repair it.
    """
    what = f"{name}[{row}, {column}] is {value.item()}."
    return WeightError(what, allowed="finite weights", mend=f"repair the weight, or {otherwise}")
