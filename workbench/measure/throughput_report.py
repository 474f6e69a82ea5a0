"""What a measurement of tokens per second found: one record for each model, and the table of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workbench.errors import ConfigError
from workbench.measure.timing import Environment
from workbench.printed import Printed
from workbench.records.record import Record


@dataclass(frozen=True)
class ModelThroughput(Record):
    """How fast one model reads a prompt and writes new tokens.

    Attributes:
        name: What the model was called.
        prefill_tokens_per_s: Tokens of the prompt over `prefill_ms`.
        prefill_ms: Median time from the prompt to the first new token, in milliseconds.
        prefill_p10_ms: 10th percentile, in milliseconds.
        prefill_p90_ms: 90th percentile, in milliseconds.
        prefill_runs: Timed prompts.
        decode_tokens_per_s: 1000 over `decode_ms`.
        decode_ms: Median time from one new token to the next, in milliseconds.
        decode_p10_ms: 10th percentile, in milliseconds.
        decode_p90_ms: 90th percentile, in milliseconds.
        decode_runs: Timed steps.
        weight_bytes: Bytes of all parameters and buffers, each counted once.
    """

    name: str
    prefill_tokens_per_s: float
    prefill_ms: float
    prefill_p10_ms: float
    prefill_p90_ms: float
    prefill_runs: int
    decode_tokens_per_s: float
    decode_ms: float
    decode_p10_ms: float
    decode_p90_ms: float
    decode_runs: int
    weight_bytes: int


@dataclass(frozen=True)
class ThroughputReport(Printed):
    """What was measured, and where.

    Attributes:
        models: One for each model, in the order given.
        prompt_tokens: Tokens of the prompt.
        new_tokens: Timed steps of decoding in each turn.
        environment: Machine and versions.
    """

    models: tuple[ModelThroughput, ...]
    prompt_tokens: int
    new_tokens: int
    environment: Environment

    def __getitem__(self, name: str) -> ModelThroughput:
        """Return the model of that name.

        Raises:
            ConfigError: when no model was called so.
        """
        for one in self.models:
            if one.name == name:
                return one
        raise ConfigError(f"No model is called {name!r}.", allowed=", ".join(one.name for one in self.models))

    def speedups(self, over: str) -> dict[str, tuple[float, float]]:
        """Return for each other model how many times faster than `over` it reads and writes: (prefill, decode)."""
        base = self[over]
        return {
            one.name: (base.prefill_ms / one.prefill_ms, base.decode_ms / one.decode_ms)
            for one in self.models
            if one.name != over
        }

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON types."""
        return {
            "environment": vars(self.environment),
            "prompt_tokens": self.prompt_tokens,
            "new_tokens": self.new_tokens,
            "models": [one.to_json() for one in self.models],
        }

    def __str__(self) -> str:
        """The models as a table."""
        width = max(len("model"), *(len(one.name) for one in self.models))
        where = self.environment
        lines = [
            f"{where.device_name}, torch {where.torch_version}, {where.threads} threads",
            f"{'model':<{width}} {'decode':>22} {f'prefill of {self.prompt_tokens}':>26} {'weights':>10}",
        ]
        lines += [
            f"{one.name:<{width}} {one.decode_tokens_per_s:>8.1f} tokens/s {one.decode_ms:>6.4g} ms"
            f" {one.prefill_tokens_per_s:>8.0f} tokens/s {one.prefill_ms:>6.4g} ms {one.weight_bytes / 1e6:>7.0f} MB"
            for one in self.models
        ]
        return "\n".join(lines)
