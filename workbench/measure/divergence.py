"""Logits in, statistics of each token out: log-likelihood, divergence from a reference, agreement of the first choice.

The vocabulary is summed over for a few tokens at a time, so that little memory is needed beside the logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from workbench.errors import ModelError

_CHUNK_ELEMENTS = 1 << 22  # logits at a time: 16 MiB for each of some six float32 tensors


@dataclass(frozen=True)
class TokenSums:
    """Sums over the predicted tokens of a window.

    Attributes:
        tokens: Number of tokens.
        nats: Sum of -log q(token), in nats.
        kl: Sum of KL(reference || model), in nats; 0 without a reference.
        agree: Tokens for which model and reference have the same most likely token; 0 without a reference.
    """

    tokens: int
    nats: float
    kl: float = 0.0
    agree: int = 0


def token_sums(logits: Tensor, targets: Tensor, reference: Tensor | None = None) -> TokenSums:
    """Sum up how well a model predicts `targets` and how far it is from a reference at each of them.

    Softmax is in float32; sums over the vocabulary and over tokens are in float64. Per token, with p the reference's
    and q the model's distribution, KL(p || q) = sum_v p_v (log p_v - log q_v) (Kullback and Leibler 1951).

    Args:
        logits: Any float dtype [T, V], finite.
        targets: int64 [T], the tokens that came.
        reference: Any float dtype [T, V], finite; on any device.
    """
    targets = targets.to(logits.device)
    nats, kl, agree = [], [], []
    for rows in _chunks(logits):
        log_q = _log_probabilities(logits[rows])
        nats.append(-log_q.gather(-1, targets[rows, None])[:, 0].double())
        if reference is not None:
            base = reference[rows].to(logits.device)
            kl.append(_divergence(_log_probabilities(base), log_q))
            agree.append(base.argmax(-1) == logits[rows].argmax(-1))
    return TokenSums(len(targets), _sum(nats), _sum(kl), int(_sum(agree)))


def check_finite(logits: Tensor, name: str, first: int) -> None:
    """Refuse logits with NaN or infinity in them.

    Args:
        logits: Any float dtype [T, V].
        name: What the model is called in the error.
        first: Place in the text of the token that gave the first row.

    Raises:
        ModelError: naming the first token and value.
    """
    for rows in _chunks(logits):
        good = torch.isfinite(logits[rows])
        if not bool(good.all()):
            row, entry = (~good).nonzero()[0].tolist()
            value = logits[rows][row, entry].item()
            raise ModelError(
                f"The logits of {name} after token {first + rows.start + row} of the text hold {value}.",
                allowed="finite logits",
                mend="load the model in bfloat16 or float32 if it is float16, or leave its largest layers dense",
            )


def _chunks(logits: Tensor) -> list[slice]:
    size = max(1, _CHUNK_ELEMENTS // logits.shape[-1])
    return [slice(start, start + size) for start in range(0, len(logits), size)]


def _log_probabilities(logits: Tensor) -> Tensor:
    """Return log softmax, float32 [T, V], finite: what would be minus infinity is the least float32."""
    return functional.log_softmax(logits.float(), -1).clamp_(min=torch.finfo(torch.float32).min)


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return KL(p || q) of each row, float64 [T]."""
    return log_p.exp().mul_(log_p - log_q).sum(-1, dtype=torch.float64)


def _sum(parts: list[Tensor]) -> float:
    return float(torch.cat(parts).sum()) if parts else 0.0
