"""A prompt on the original and on the int4 model: both answers as text, and where they part."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workbench.errors import ConfigError
from workbench.measure.causal import check_tokens
from workbench.measure.generation import Answer, end_tokens, first_difference, iter_answers, room_for

MAX_ANSWER = 512
MAX_PROMPT = 100_000  # characters: more than the context of any model that answers while a person waits


@dataclass(frozen=True)
class Answers:
    """A prompt, and what the original and the int4 model make of it so far.

    Attributes:
        prompt: The prompt.
        original: Text of the original's answer.
        int4: Text of the int4 model's answer.
        tokens: Tokens of both.
        wanted: Most tokens of an answer.
        agreed: Tokens before the first one that differs; all of them while none does.
        parted: (text, probability) of the first token that differs, of both; None while none does.
        label: The recipe in a line.
        done: Whether both have ended.
        notes: What a person must know.
    """

    prompt: str
    original: str
    int4: str
    tokens: tuple[tuple[int, ...], tuple[int, ...]]
    wanted: int
    agreed: int
    parted: tuple[tuple[str, float], tuple[str, float]] | None
    label: str
    done: bool = False
    notes: tuple[str, ...] = ()


def check_prompt(prompt: str, tokens: int) -> None:
    """Refuse a prompt or a length that cannot be answered.

    Raises:
        ConfigError: with what is allowed.
    """
    if not prompt.strip():
        raise ConfigError("The prompt is empty.", mend="type the beginning of a text")
    if len(prompt) > MAX_PROMPT:
        raise ConfigError(f"The prompt has {len(prompt):,} characters.", allowed=f"up to {MAX_PROMPT:,}")
    if type(tokens) is not int or not 1 <= tokens <= MAX_ANSWER:
        raise ConfigError(f"tokens={tokens!r}.", allowed=f"a whole number from 1 to {MAX_ANSWER}")


def prompt_ids(prompt: str, tokenizer: Any) -> Tensor:
    """Return the tokens of a prompt, int64 [T].

    Raises:
        ConfigError: when it has none.
    """
    ids = torch.tensor(tokenizer(prompt, verbose=False)["input_ids"], dtype=torch.int64)
    if len(ids) == 0:
        raise ConfigError(f"The prompt {prompt!r:.60} has no token.", mend="type the beginning of a text")
    return ids


def iter_prompt(
    models: tuple[nn.Module, nn.Module],
    prompt: str,
    ids: Tensor,
    wanted: int,
    tokenizer: Any,
    label: str,
    cancel: threading.Event,
) -> Iterator[Answers]:
    """Yield the answers after each token, and once more when both have ended.

    Args:
        models: The original and the int4 model.
        prompt: The prompt.
        ids: Its tokens, int64 [T].
        wanted: Most tokens of an answer.
        tokenizer: The model's own.
        label: The recipe in a line.
        cancel: Set it to stop before the next token.

    Raises:
        Cancelled: when `cancel` was set.
        ConfigError: when the prompt fills the model's context, or holds a token that the model does not know.
        ModelError: for a model with NaN or infinity in its logits.
    """
    check_tokens(models[0], "the model", ids)
    count = room_for(models[0], ids, wanted)
    notes = () if count == wanted else (f"{count} tokens at most: the model has no more positions",)
    steps = iter_answers(models, ids, count, end_tokens(models[0], tokenizer), cancel)
    given: tuple[Answer, ...] = ()
    for given in steps:
        yield _answers(given, prompt, count, tokenizer, label, False, notes)
    yield _answers(given, prompt, count, tokenizer, label, True, notes)


def _answers(
    given: Sequence[Answer], prompt: str, wanted: int, tokenizer: Any, label: str, done: bool, notes: tuple[str, ...]
) -> Answers:
    original, int4 = given
    at = first_difference(original.ids, int4.ids)
    parted = None
    if at is not None:
        pieces = [(tokenizer.decode([one.ids[at]]), one.shares[at]) for one in given]
        parted = (pieces[0], pieces[1])
    agreed = min(len(original.ids), len(int4.ids)) if at is None else at
    first, other = (str(tokenizer.decode(list(one.ids), skip_special_tokens=True)) for one in given)
    return Answers(prompt, first, other, (original.ids, int4.ids), wanted, agreed, parted, label, done, notes)
