"""Groups of weights in their own coordinates: the grids that can be stored there, their errors, and least squares.

For codes q, the scale s and the value b of code 0 that minimize sum h (w - s q - b)^2 solve two linear equations in
the sums of h q, h q^2 and h q w; for a scale and base, the best codes are the nearest ones. Each half-step lowers the
error, so the two are done in turn (Lloyd's algorithm on an evenly spaced grid). Scale and zero point are rounded to
what is stored within each step.

Another norm than 2 is reached by weighting each error with |error|^(norm - 2) (iteratively reweighted least squares).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.affine import MID_POINT, QUANT_MAX
from workbench.config import Domain
from workbench.solvers.rtn import GroupParams, stored_scale, stored_zero

_LEAST_ERROR = 1e-3  # codes; below it the weights of another norm than 2 grow no further


@dataclass(frozen=True, eq=False)
class Grid:
    """Candidate grids of groups: what is stored, and the same in group coordinates.

    Attributes:
        stored_scale: float32 [C, 1], weight units per code.
        stored_zero: float32 [C, 1], as `GroupParams.zero`; None in the symmetric domain.
        scale: float32 [C, 1], group coordinates per code.
        base: float32 [C, 1], group coordinate of code 0.
    """

    stored_scale: Tensor
    stored_zero: Tensor | None
    scale: Tensor
    base: Tensor

    def where(self, mask: Tensor, other: Grid) -> Grid:
        """Return this grid for the groups where `mask`, bool [C, 1], is true, and the other for the rest."""
        zero = None
        if self.stored_zero is not None and other.stored_zero is not None:
            zero = torch.where(mask, self.stored_zero, other.stored_zero)
        pairs = ((self.stored_scale, other.stored_scale), (self.scale, other.scale), (self.base, other.base))
        scale, inner, base = (torch.where(mask, one, two) for one, two in pairs)
        return Grid(scale, zero, inner, base)


@dataclass(frozen=True, eq=False)
class Space:
    """Group coordinates, x = (w - center) / unit, and what can be stored in them.

    Attributes:
        center: float32 [C, 1], weight units; 0 in the int and symmetric domains.
        unit: float32 [C, 1], weight units.
        domain: Where the zero point lives.
        preserve_zero: Whether a float zero point leaves 0 within its grid.
        dtype: dtype in which scales and float zero points are stored.
    """

    center: Tensor
    unit: Tensor
    domain: Domain
    preserve_zero: bool
    dtype: torch.dtype

    def storable(self, scale: Tensor, before: Grid) -> Tensor:
        """Return what is stored for a wanted scale, float32 [C, 1]; one that is none leaves the scale before.

        Args:
            scale: float32 [C, 1], group coordinates per code.
            before: The grids that it is to follow.

        Returns:
            Weight units per code, float32 [C, 1].
        """
        return stored_scale(scale * self.unit, before.stored_scale, self.dtype)

    def grid(self, kept: Tensor, base: Tensor, zero_code: Tensor) -> Grid:
        """Return the storable grid nearest to a wanted one, whose stored scale is given.

        Args:
            kept: float32 [C, 1], the stored scale, weight units per code.
            base: float32 [C, 1], wanted group coordinate of code 0; the float domain alone looks at it.
            zero_code: float32 [C, 1], the code whose value is 0; the other domains alone look at it.
        """
        scale = kept / self.unit
        if self.domain != "float":
            zero = zero_code if self.domain == "int" else None
            return Grid(kept, zero, scale, -zero_code * scale)
        wanted = (base + MID_POINT * scale) * self.unit + self.center
        zero = stored_zero(wanted, kept, self.preserve_zero, self.dtype)
        return Grid(kept, zero, scale, (zero - self.center) / self.unit - MID_POINT * scale)

    def of(self, params: GroupParams) -> Grid:
        """Return round-to-nearest's grid in group coordinates."""
        scale = params.scale / self.unit
        if self.domain == "float" and params.zero is not None:
            base = (params.zero - self.center) / self.unit - MID_POINT * scale
            return Grid(params.scale, params.zero, scale, base)
        code = torch.full_like(scale, MID_POINT) if params.zero is None else params.zero
        return Grid(params.scale, params.zero, scale, -code * scale)


class Groups:
    """The weights of groups in group coordinates, and the sums that every step needs; buffers are made once.

    Args:
        x: float32 [C, L].
        weights: float32, broadcastable to [C, L]: how much each error counts; None counts all alike.
        norm: Exponent of the error, > 0.
    """

    def __init__(self, x: Tensor, weights: Tensor | None, norm: float) -> None:
        self.x, self.weights, self.norm = x, weights, norm
        self._codes, self._work = torch.empty_like(x), torch.empty_like(x)
        self._sum = x.sum(1, keepdim=True)

    def assign(self, grid: Grid) -> Tensor:
        """Return the nearest codes, float32 [C, L], valid until the next call; `_work` holds the unrounded ones."""
        inverse = 1 / grid.scale
        torch.mul(self.x, inverse, out=self._work).sub_(grid.base * inverse)
        return torch.round(self._work, out=self._codes).clamp_(0, QUANT_MAX)

    def error(self, grid: Grid) -> Tensor:
        """Return sum h |x - x_r|^norm of each group, float32 [C, 1]."""
        codes = self.assign(grid)
        error = self._work.sub_(codes)
        if self.norm == 2:
            powers = error.mul_(error)
        else:
            powers = error.abs_() if self.norm == 1 else error.abs_().pow_(self.norm)
        if self.weights is not None:
            powers = powers.mul_(self.weights)
        return powers.sum(1, keepdim=True) * (grid.scale if self.norm == 1 else grid.scale.pow(self.norm))

    def step(self, grid: Grid, space: Space, zero_code: Tensor) -> Grid:
        """Return the grid of least squares for the codes that are nearest under `grid`, as it is stored.

        Args:
            grid: Where the step begins.
            space: What can be stored.
            zero_code: float32 [C, 1], the code whose value is 0, which stays (int and symmetric domains).
        """
        codes = self.assign(grid)
        h = self._step_weights(codes)
        if h is None:
            n, sum_x = torch.full_like(grid.base, self.x.shape[1]), self._sum
            hq = codes
        else:
            n, sum_x = h.sum(1, keepdim=True), torch.mul(h, self.x).sum(1, keepdim=True)
            hq = torch.mul(codes, h)
        q = hq.sum(1, keepdim=True)
        qx = torch.mul(hq, self.x, out=self._work).sum(1, keepdim=True)
        qq = torch.mul(hq, codes, out=self._work).sum(1, keepdim=True)
        if space.domain == "float":
            scale = (n * qx - q * sum_x) / (n * qq - q * q)
            kept = space.storable(scale, grid)
            return space.grid(kept, (sum_x - kept / space.unit * q) / n, zero_code)
        scale = (qx - zero_code * sum_x) / (qq - 2 * zero_code * q + zero_code * zero_code * n)
        return space.grid(space.storable(scale, grid), scale, zero_code)

    def _step_weights(self, codes: Tensor) -> Tensor | None:
        """Return what each weight counts in a step, float32, broadcastable to [C, L]; None for all alike."""
        if self.norm == 2:
            return self.weights
        size = self._work.sub_(codes).abs_().clamp_(min=_LEAST_ERROR)
        factor = size.pow(self.norm - 2)
        return factor if self.weights is None else factor.mul_(self.weights)
