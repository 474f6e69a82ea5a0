"""Greedy continuations of one prompt by two models, token by token and side by side."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workbench.errors import ConfigError
from workbench.layers import model_device
from workbench.measure.causal import stoppable
from workbench.measure.divergence import check_finite


@dataclass(frozen=True)
class Answer:
    """What a model makes of a prompt.

    Attributes:
        ids: Tokens after the prompt, each the most likely one.
        shares: Probability of each of them, 0 to 1.
        ended: Whether the last one ends the text.
    """

    ids: tuple[int, ...] = ()
    shares: tuple[float, ...] = ()
    ended: bool = False


def first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    """Return the place of the first token that differs; None while one is the beginning of the other."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)


def room_for(model: nn.Module, ids: Tensor, count: int) -> int:
    """Return how many tokens can follow a prompt: `count`, or what the model's positions leave.

    Args:
        model: The model.
        ids: int64 [T], the prompt.
        count: Tokens wanted.

    Raises:
        ConfigError: when the prompt fills the model's context.
    """
    most = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if not isinstance(most, int) or most <= 0:
        return count
    if len(ids) >= most:
        raise ConfigError(
            f"The prompt has {len(ids):,} tokens.", allowed=f"up to {most - 1:,} for this model", mend="shorten it"
        )
    return min(count, most - len(ids))


def end_tokens(model: nn.Module, tokenizer: Any) -> frozenset[int]:
    """Return the tokens that end a text."""
    given = [
        getattr(getattr(model, "generation_config", None), "eos_token_id", None),
        getattr(getattr(model, "config", None), "eos_token_id", None),
        getattr(tokenizer, "eos_token_id", None),
    ]
    return frozenset(token for one in given for token in (one if isinstance(one, list) else [one]) if token is not None)


def iter_answers(
    models: Sequence[nn.Module], ids: Tensor, count: int, ends: frozenset[int], cancel: threading.Event | None = None
) -> Iterator[tuple[Answer, ...]]:
    """Yield the answers of all models after each token of each, in turn.

    Args:
        models: Causal language models.
        ids: int64 [T], the prompt, at least one token.
        count: Most tokens of an answer.
        ends: Tokens that end an answer.
        cancel: Set it to stop before the next layer of a model.

    Raises:
        Cancelled: when `cancel` was set.
        ModelError: for a model with NaN or infinity in its logits.
    """
    readers = [_Reader(model, ids) for model in models]
    with stoppable(models, cancel):
        yield from _answers(readers, count, ends)


def _answers(readers: Sequence[_Reader], count: int, ends: frozenset[int]) -> Iterator[tuple[Answer, ...]]:
    answers = [Answer() for _ in readers]
    for _ in range(count):
        for at, reader in enumerate(readers):
            if answers[at].ended:
                continue
            token, share = reader.next()
            before = answers[at]
            answers[at] = Answer((*before.ids, token), (*before.shares, share), token in ends)
            yield tuple(answers)
        if all(answer.ended for answer in answers):
            return


class _Reader:
    """Reads a text token by token; what a model keeps of it is used where that gives what reading all of it gives."""

    def __init__(self, model: nn.Module, ids: Tensor) -> None:
        self._model, self._ids, self._device = model, ids, model_device(model)
        self._past: Any = None
        self._keeps, self._checked = True, False

    @torch.no_grad()
    def next(self) -> tuple[int, float]:
        """Return the most likely token and its probability, and read it."""
        logits = self._logits().float()
        token = int(logits.argmax())
        self._ids = torch.cat([self._ids, torch.tensor([token])])
        return token, float(logits.softmax(-1)[token])

    def _logits(self) -> Tensor:
        if not self._keeps:
            return self._run(self._ids, use_cache=False)
        if self._past is None:
            logits = self._run(self._ids, use_cache=True)
            self._keeps = self._past is not None
            return logits
        logits = self._run(self._ids[-1:], past_key_values=self._past, use_cache=True)
        if not self._checked:
            self._checked, whole = True, self._run(self._ids, use_cache=False)
            self._keeps = torch.allclose(logits, whole, rtol=0.05, atol=0.05 * float(whole.float().std()))
            return whole
        return logits

    def _run(self, ids: Tensor, **kept: Any) -> Tensor:
        output = self._model(input_ids=ids[None].to(self._device), **kept)
        self._past = getattr(output, "past_key_values", None) if kept["use_cache"] else self._past
        logits: Tensor = output.logits[0, -1]
        check_finite(logits[None], "the model", len(self._ids) - 1)
        return logits
