"""A calibration text cut into sequences of tokens, all of one length, with what is to be said of the cut."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from workbench.errors import ConfigError

SEQUENCE_LENGTH = 512
MAX_SEQUENCES = 128
LEAST_TOKENS = 2


def text_sequences(
    text: str | Iterable[str],
    tokenizer: Any,
    *,
    sequence_length: int,
    max_sequences: int,
    positions: int | None,
) -> tuple[Tensor, tuple[str, ...]]:
    """Cut a text, or several one after the other, into sequences of tokens from its beginning.

    Args:
        text: The text.
        tokenizer: The model's own.
        sequence_length: Tokens of a sequence; a text that is shorter becomes one shorter sequence.
        max_sequences: Most sequences.
        positions: Tokens that the model takes at once: longer sequences are shortened to it; None for no limit.

    Returns:
        The tokens, int64 [S, T], and what a person must know of how they were cut.

    Raises:
        ConfigError: for an empty text, one of fewer than 2 tokens, or no tokenizer.
    """
    if tokenizer is None:
        raise ConfigError("A calibration text without a tokenizer.", mend="pass the model's own, tokenizer=tokenizer")
    for name, value in (("sequence_length", sequence_length), ("max_sequences", max_sequences)):
        least = LEAST_TOKENS if name == "sequence_length" else 1
        if type(value) is not int or value < least:
            raise ConfigError(f"{name}={value!r}.", allowed=f"a whole number from {least}")
    ids = _tokens(text, tokenizer)
    length, shortened = _within(sequence_length, positions, len(ids))
    cut, notes = _cut(ids, length, max_sequences)
    return cut, shortened + notes


def _tokens(text: str | Iterable[str], tokenizer: Any) -> Tensor:
    whole = text if isinstance(text, str) else "\n\n".join(text)
    if not whole.strip():
        raise ConfigError("The calibration text is empty.", mend="give some thousand words of what the model will see")
    ids = torch.tensor(tokenizer(whole, verbose=False)["input_ids"], dtype=torch.int64)
    if len(ids) < LEAST_TOKENS:
        raise ConfigError(
            f"The calibration text has {len(ids)} token.",
            allowed=f"at least {LEAST_TOKENS}",
            mend="give some thousand words of what the model will see",
        )
    return ids


def _within(length: int, positions: int | None, tokens: int) -> tuple[int, tuple[str, ...]]:
    """Return how long the sequences of a text of so many tokens can be, and what is to be said of it."""
    if positions is None or not LEAST_TOKENS <= positions < min(length, tokens):
        return length, ()
    return positions, (f"sequences of {positions:,} tokens instead of {length:,}: the model has no more positions",)


def _cut(ids: Tensor, length: int, most: int) -> tuple[Tensor, tuple[str, ...]]:
    if len(ids) < length:
        return ids[None], (f"the text has {len(ids)} tokens, fewer than a sequence of {length}: one shorter sequence",)
    count = len(ids) // length
    used = min(count, most)
    notes = []
    if len(ids) > used * length:
        notes.append(f"{used * length} of the text's {len(ids)} tokens are used: {used} sequences of {length}")
    return ids[: used * length].view(used, length), tuple(notes)
