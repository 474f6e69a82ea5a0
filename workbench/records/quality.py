"""How well a model predicts a text."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.printed import Printed
from workbench.records.record import Record


@dataclass(frozen=True)
class Quality(Record, Printed):
    """How well a model predicts a text, and how far it is from a reference on the same tokens.

    Attributes:
        perplexity: exp(nats_per_token); infinite where that is too large for a float.
        nats_per_token: Mean negative log-likelihood of a token given those before it in its window, in nats.
        tokens: Tokens that were predicted: all but the first of each window.
        windows: Windows that were measured.
        window: Tokens of a window; the last one may be shorter.
        left_out: Tokens at the end that no window holds, since it would hold but one: 0 or 1.
        reference_perplexity: Perplexity of the reference; this and the fields below are None without one.
        mean_kl: Mean KL(reference || model) over the predicted tokens, in nats per token.
        kl_interval: Its 95 % interval, in nats per token, from the spread of the windows' means: both models saw the
            same tokens, so this is the spread of the difference and not of the texts. None for a single window.
        top1_agreement: Share of the predicted tokens where both hold the same token for the most likely, 0 to 1.
    """

    perplexity: float
    nats_per_token: float
    tokens: int
    windows: int
    window: int
    left_out: int = 0
    reference_perplexity: float | None = None
    mean_kl: float | None = None
    kl_interval: tuple[float, float] | None = None
    top1_agreement: float | None = None

    def __str__(self) -> str:
        """Say it in a line."""
        parts = [f"perplexity {self.perplexity:.3f}"]
        if self.mean_kl is not None:
            parts[0] += f" (reference {self.reference_perplexity:.3f})"
            spread = "" if self.kl_interval is None else " (95%: {:.5f} to {:.5f})".format(*self.kl_interval)
            parts.append(f"mean KL {self.mean_kl:.5f}{spread} nats a token")
            parts.append(f"the first choice agrees for {self.top1_agreement:.1%}")
        parts.append(f"{self.tokens:,} tokens in {self.windows} windows of {self.window}")
        if self.left_out:
            parts.append(f"{self.left_out} token at the end left out")
        return ", ".join(parts)
