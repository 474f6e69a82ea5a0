"""A model that remembers its logits: the original predicts the same under every recipe, and is run once a window."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

HELD_BYTES = 256 * 2**20


class LogitsStore:
    """Logits by what was read, as many as fit; what comes after that is not held.

    Args:
        max_bytes: Most bytes of logits that are held.
    """

    def __init__(self, max_bytes: int = HELD_BYTES) -> None:
        self.max_bytes, self.held_bytes = max_bytes, 0
        self._held: dict[bytes, Tensor] = {}
        self._of: object = None
        self._lock = threading.Lock()

    def keep_for(self, model: object) -> None:
        """Let go of everything when the logits are to be those of other weights.

        Args:
            model: Stands for the weights.
        """
        with self._lock:
            if model != self._of:
                self._held, self._of, self.held_bytes = {}, model, 0

    def get(self, key: bytes) -> Tensor | None:
        """Return what was put, or None."""
        with self._lock:
            return self._held.get(key)

    def put(self, key: bytes, logits: Tensor) -> None:
        """Hold logits, any float dtype [1, T, V], if there is room."""
        size = logits.numel() * logits.element_size()
        with self._lock:
            if key not in self._held and self.held_bytes + size <= self.max_bytes:
                self._held[key] = logits
                self.held_bytes += size


class Remembered(nn.Module):
    """A causal language model that is run once for each window, as far as its logits fit a store.

    Attributes:
        model: The model itself.
        config: Its configuration, for whoever asks what the model takes.

    Args:
        model: `model(input_ids=int64 [1, T], use_cache=False).logits` is [1, T, vocabulary].
        store: Logits of that model from before.
    """

    def __init__(self, model: nn.Module, store: LogitsStore) -> None:
        super().__init__()
        self.model = model
        self.config = getattr(model, "config", None)
        self._store = store
        self.eval()

    def get_input_embeddings(self) -> Any:
        """Return the model's own, or None."""
        ask = getattr(self.model, "get_input_embeddings", None)
        return ask() if callable(ask) else None

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> Any:
        """Return an object whose `logits` are those of the model for int64 [1, T]."""
        key = input_ids.cpu().numpy().tobytes()
        known = self._store.get(key)
        if known is not None:
            return SimpleNamespace(logits=known)
        output = self.model(input_ids=input_ids, use_cache=use_cache)
        logits = getattr(output, "logits", None)
        if isinstance(logits, Tensor):
            self._store.put(key, logits.detach())
        return output
