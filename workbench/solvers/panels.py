"""Matrix work on the inputs of a layer, in panels of columns: between two of them, work that is not wanted can stop.

A panel is so wide that a matrix product gives each of its elements the very bits that the whole product would: MKL
takes the same kernel for it. The lower factor of H = L L^T is found from the left to the right, panel by panel: its
own square is factorized, what stands below is divided by that, and the rest loses the product (the "right-looking"
form of Golub and Van Loan, "Matrix Computations", 4.2). Up to `FACTOR_PANEL` columns that is one call of LAPACK.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

Look = Callable[[], None]

LEAST_PANEL = 768  # columns; narrower ones are rounded otherwise by MKL, and cost more
FACTOR_PANEL = 4096  # columns that are factorized in one call


def go_on() -> None:
    """Look at nothing: the work is not to be stopped."""


def panels(size: int, start: int = 0) -> list[slice]:
    """Cut `size` columns from `start` on evenly into panels of at least `LEAST_PANEL`, one where there are fewer."""
    count = max(1, size // LEAST_PANEL)
    return [slice(start + size * i // count, start + size * (i + 1) // count) for i in range(count)]


def tiles(size: int) -> list[tuple[slice, slice]]:
    """Return (rows, columns) of the tiles that cover the upper triangle of a symmetric matrix [size, size]."""
    cut = panels(size)
    return [(rows, columns) for number, rows in enumerate(cut) for columns in cut[number:]]


def product(left: Tensor, right: Tensor, look: Look = go_on) -> Tensor:
    """Multiply two matrices.

    Args:
        left: float32 [n, K].
        right: float32 [K, M].
        look: Called before each panel; raises to stop.

    Returns:
        float32 [n, M].
    """
    found = left.new_empty(left.shape[0], right.shape[1])
    for columns in panels(right.shape[1]):
        look()
        torch.mm(left, right[:, columns], out=found[:, columns])
    return found


def cholesky_(matrix: Tensor, look: Look = go_on) -> Tensor | None:
    """Return the lower L with matrix = L L^T, in the place of the matrix; None when it is not positive definite.

    Args:
        matrix: float32 [K, K], of which the lower triangle is read; overwritten.
        look: Called before each panel; raises to stop.
    """
    for own, below in _squares(len(matrix)):
        look()
        factor, failed = torch.linalg.cholesky_ex(matrix[own, own])
        if int(failed):
            return None
        matrix[own, own] = factor
        for rows in below:
            look()
            matrix[rows, own] = torch.linalg.solve_triangular(factor, matrix[rows, own].t(), upper=False).t()
        for number, rows in enumerate(below):
            for columns in below[: number + 1]:
                look()
                matrix[rows, columns].addmm_(matrix[rows, own], matrix[columns, own].t(), alpha=-1)
    return matrix.tril_()


def lower_inverse(lower: Tensor, look: Look = go_on) -> Tensor:
    """Return the inverse of a lower triangular matrix, float32 [K, K].

    Args:
        lower: float32 [K, K].
        look: Called before each panel; raises to stop.
    """
    found = torch.zeros_like(lower)
    for columns in panels(len(lower)):
        column = found[:, columns]
        column[columns].fill_diagonal_(1)
        for own, below in _squares(len(lower)):
            if own.stop <= columns.start:
                continue  # above the diagonal all is 0
            look()
            column[own] = torch.linalg.solve_triangular(lower[own, own], column[own], upper=False)
            for rows in below:
                look()
                column[rows].addmm_(lower[rows, own], column[own], alpha=-1)
    return found


def _squares(size: int) -> Iterator[tuple[slice, list[slice]]]:
    """Yield the squares on the diagonal that are factorized in one call, each with the panels of rows below it."""
    for start in range(0, size, FACTOR_PANEL):
        stop = min(size, start + FACTOR_PANEL)
        yield slice(start, stop), panels(size - stop, stop) if stop < size else []
