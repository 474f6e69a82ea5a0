"""Second moments of a layer's input: what the calibrated solver knows of the activations.

They are symmetric: tile by tile, the upper half is computed and the lower one copied from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from workbench.errors import WeightError
from workbench.solvers.panels import Look, go_on, tiles

_ITEM = 4


@dataclass(eq=False)
class InputMoments:
    """The sum of x x^T over the tokens that a layer saw, collected token batch by token batch.

    Attributes:
        total: float32 [K, K], in squared activation units.
        tokens: Tokens that were added.
    """

    total: Tensor
    tokens: int = 0
    _begun: int = field(default=0, repr=False)  # tiles to which the tokens under way are added already

    @classmethod
    def empty(cls, in_features: int, device: torch.device | str = "cpu") -> InputMoments:
        """Return the moments of no token at all."""
        return cls(torch.zeros(in_features, in_features, dtype=torch.float32, device=device))

    @staticmethod
    def size_bytes(in_features: int) -> int:
        """Bytes that the moments of a layer take."""
        return in_features * in_features * _ITEM

    @torch.no_grad()
    def add(self, inputs: Tensor, look: Look = go_on) -> None:
        """Add tokens; when `look` stops that, the same tokens must be added again, which goes on where it stopped.

        Args:
            inputs: Any float dtype [..., K].
            look: Called before each tile of the sum; raises to stop.
        """
        rows = inputs.detach().reshape(-1, inputs.shape[-1]).to(self.total.device, torch.float32)
        for down, across in tiles(len(self.total))[self._begun :]:
            look()
            self.total[down, across].addmm_(rows[:, down].t(), rows[:, across])
            if down != across:
                self.total[across, down] = self.total[down, across].t()
            self._begun += 1
        self._begun = 0
        self.tokens += len(rows)

    def problem(self, in_features: int, min_tokens: int) -> str:
        """Say why these moments cannot guide a solver; "" when they can.

        Raises:
            WeightError: when they are of another width than the weight.
        """
        if self.total.shape != (in_features, in_features):
            raise WeightError(
                f"Statistics of {list(self.total.shape)} for a weight of {in_features} columns.",
                allowed=f"[{in_features}, {in_features}]",
                mend="collect them from the layer that the weight is of",
            )
        if self.tokens < min_tokens:
            return f"{self.tokens} tokens of the calibration text reached it, fewer than {min_tokens}"
        if not bool(torch.isfinite(self.total).all()):
            return "its inputs on the calibration text hold NaN or infinity (an overflow of float16?)"
        if not bool((self.total.diagonal() > 0).any()):
            return "its inputs on the calibration text are all 0"
        return ""
