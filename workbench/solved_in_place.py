"""Solved layers that compute with their new weights while those after them are solved; the model is not changed."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from workbench.affine import QuantizedWeight
from workbench.offload import offloaded_values


class SolvedInPlace:
    """Solved layers that compute with their new weights, on this thread, until the end."""

    def __init__(self, layers: dict[str, nn.Module]) -> None:
        self._layers = layers
        self._weights: dict[str, QuantizedWeight] = {}
        self._dense: dict[str, Tensor] = {}
        self._before: dict[str, Any] = {}
        self._away: frozenset[str] = frozenset()
        self._owner = threading.get_ident()

    def __enter__(self) -> SolvedInPlace:
        return self

    def __exit__(self, *_: object) -> None:
        for name, before in self._before.items():
            own = vars(self._layers[name])
            if before is None:
                own.pop("forward", None)
            else:
                own["forward"] = before

    def put(self, name: str, weight: QuantizedWeight) -> None:
        """Let a layer compute with `weight` from now on."""
        layer = self._layers[name]
        original = layer.forward
        self._weights[name] = weight
        self._before[name] = vars(layer).get("forward")

        def forward(inputs: Tensor) -> Tensor:
            if threading.get_ident() != self._owner or name in self._away:
                return original(inputs)  # type: ignore[no-any-return]
            dense = self._dense.get(name)
            if dense is None:
                dense = self._dense[name] = self._weights[name].dequantize(layer.weight.dtype).to(inputs.device)  # type: ignore[arg-type]
            bias = offloaded_values(layer, "bias")
            return functional.linear(inputs, dense, None if bias is None else bias.to(inputs.device))

        vars(layer)["forward"] = forward

    @contextlib.contextmanager
    def away(self, names: Sequence[str]) -> Iterator[None]:
        """Within, some layers compute as they did before."""
        self._away = frozenset(names)
        try:
            yield
        finally:
            self._away = frozenset()

    def forget_dense(self, names: Sequence[str]) -> None:
        """Let go of dequantized weights; they are made anew when they are needed."""
        for name in names:
            self._dense.pop(name, None)
