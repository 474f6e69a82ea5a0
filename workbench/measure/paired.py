"""Two models on the same tokens: differences window by window, whose interval leaves the texts' own spread out.

Tokens differ far more among each other than two models do on one of them. What a window says of the difference
hardly depends on how hard the window is, so the interval of a difference is far narrower than that of either side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from workbench.measure.divergence import TokenSums
from workbench.measure.intervals import mean_interval

Verdict = Literal["better", "worse", "the same"]


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval.

    Attributes:
        value: The number.
        low: Lower end; None where a single window gives no interval.
        high: Upper end; None where there is none.
    """

    value: float
    low: float | None = None
    high: float | None = None

    def through(self, rising: Callable[[float], float]) -> Estimate:
        """Return the estimate of a rising function of this number."""
        low, high = self.low, self.high
        if low is None or high is None:
            return Estimate(rising(self.value))
        return Estimate(rising(self.value), rising(low), rising(high))


@dataclass(frozen=True)
class WindowPair:
    """Sums over the predicted tokens of one window.

    Attributes:
        tokens: Number of tokens.
        reference_nats: Sum of -log p(token) of the original, in nats.
        nats: The same of the int4 model.
        kl: Sum of KL(original || int4), in nats.
        agree: Tokens for which both have the same most likely token.
    """

    tokens: int
    reference_nats: float
    nats: float
    kl: float
    agree: int

    @classmethod
    def of(cls, reference: TokenSums, model: TokenSums) -> WindowPair:
        """Join the sums of the original and of the int4 model."""
        return cls(model.tokens, reference.nats, model.nats, model.kl, model.agree)


@dataclass(frozen=True)
class Comparison:
    """An int4 model beside its original on the first windows of a text.

    Attributes:
        windows: What was measured, in the order of the text; at least one.
    """

    windows: tuple[WindowPair, ...]

    @property
    def tokens(self) -> int:
        """Tokens that were predicted."""
        return sum(one.tokens for one in self.windows)

    @property
    def reference_perplexity(self) -> float:
        """Perplexity of the original."""
        return _exp(math.fsum(one.reference_nats for one in self.windows) / self.tokens)

    @property
    def perplexity(self) -> float:
        """Perplexity of the int4 model."""
        return _exp(math.fsum(one.nats for one in self.windows) / self.tokens)

    @property
    def perplexity_ratio(self) -> Estimate:
        """Perplexity of the int4 model over that of the original: exp of the mean difference of the nats."""
        return self._mean([one.nats - one.reference_nats for one in self.windows]).through(_exp)

    @property
    def mean_kl(self) -> Estimate:
        """Mean KL(original || int4), in nats a token."""
        return self._mean([one.kl for one in self.windows])

    @property
    def agreement(self) -> float:
        """Share of the tokens where both have the same most likely token, 0 to 1."""
        return sum(one.agree for one in self.windows) / self.tokens

    def _mean(self, sums: Sequence[float]) -> Estimate:
        return mean_of(sums, [one.tokens for one in self.windows])


@dataclass(frozen=True)
class Change:
    """What a change of the recipe did, on the windows that were measured before and after it.

    Attributes:
        windows: Number of those windows.
        mean_kl: Mean KL now minus before, in nats a token; below zero is better.
        perplexity_ratio: Perplexity now over before; below one is better.
    """

    windows: int
    mean_kl: Estimate
    perplexity_ratio: Estimate

    @property
    def verdict(self) -> Verdict | None:
        """What the interval of the mean KL says; None without one."""
        low, high = self.mean_kl.low, self.mean_kl.high
        if low is None or high is None:
            return None
        return "better" if high < 0 else "worse" if low > 0 else "the same"


def change_between(before: Comparison, now: Comparison) -> Change:
    """Compare two recipes on the windows that both were measured on: the first of the same text."""
    pairs = list(zip(before.windows, now.windows, strict=False))
    counts = [new.tokens for _, new in pairs]
    kl = mean_of([new.kl - old.kl for old, new in pairs], counts)
    return Change(len(pairs), kl, mean_of([new.nats - old.nats for old, new in pairs], counts).through(_exp))


def mean_of(sums: Sequence[float], counts: Sequence[int]) -> Estimate:
    """Return the mean over tokens, with the interval from the spread of the windows (`intervals.mean_interval`).

    Args:
        sums: What was measured, summed over the tokens of each window.
        counts: Tokens of each window.
    """
    return Estimate(math.fsum(sums) / sum(counts), *(mean_interval(sums, counts) or ()))


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf
