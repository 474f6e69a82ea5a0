"""SentencePiece's BPE told from a tokenizer.json: scores that join the same tokens as the merges do, or a refusal.

SentencePiece (and llama.cpp after it) joins the two neighbours whose joined token has the highest score, whichever two
they are; a tokenizer.json lists merges by rank. Both agree when the merges of a token follow each other and none of
its splits is left out: then minus the place of a token among those with merges is its score.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_SPACE = "\u2581"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
NORMAL, UNKNOWN, BYTE = 1, 2, 6


@dataclass(frozen=True)
class Spaced:
    """A vocabulary, as a SentencePiece model would have it.

    Attributes:
        names: Id → token.
        types: Id → normal, unknown or byte.
        scores: Id → score.
        adds_space: Whether a space is put before every text.
    """

    names: dict[int, str]
    types: dict[int, int]
    scores: dict[int, float]
    adds_space: bool


def spaced(tokenizer: Mapping[str, Any]) -> Spaced | None:
    """Return the vocabulary of a tokenizer.json that does as SentencePiece's BPE; None for any other."""
    model = tokenizer.get("model") or {}
    adds_space = _adds_space(tokenizer)
    unknown = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")
    if model.get("type") != "BPE" or not model.get("byte_fallback") or adds_space is None:
        return None
    if any(model.get(key) for key in unknown):
        return None
    vocab: dict[str, int] = model["vocab"]
    ranks = _ranks(vocab, [_pair(one) for one in model.get("merges", [])])
    if ranks is None:
        return None
    names = {index: token for token, index in vocab.items()}
    types = {index: _type(token, model.get("unk_token")) for index, token in names.items()}
    scores = {index: -float(ranks.get(token, len(ranks) + index)) for index, token in names.items()}
    return Spaced(names, types, scores, adds_space)


def _ranks(vocab: Mapping[str, int], merges: list[tuple[str, str]]) -> dict[str, int] | None:
    """Return the place of each token among those with merges; None when scores cannot stand for the merges."""
    ranks: dict[str, int] = {}
    last = ""
    for left, right in merges:
        token = left + right
        if token != last and token in ranks:
            return None
        ranks.setdefault(token, len(ranks))
        last = token
    splits = sum(1 for token in vocab for cut in range(1, len(token)) if token[:cut] in vocab and token[cut:] in vocab)
    return ranks if splits == len(set(merges)) == len(merges) else None


def _adds_space(tokenizer: Mapping[str, Any]) -> bool | None:
    """Say whether a space is put before a text; None when spaces are not handled as SentencePiece does."""
    normalizer, split = tokenizer.get("normalizer") or {}, tokenizer.get("pre_tokenizer")
    steps = normalizer.get("normalizers", []) if normalizer.get("type") == "Sequence" else [normalizer]
    prepend = {"type": "Prepend", "prepend": _SPACE}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    if split is None and steps in ([prepend, replace], [replace]):
        return bool(steps[0] == prepend)
    if not normalizer and isinstance(split, Mapping) and split.get("type") == "Metaspace":
        if split.get("replacement") == _SPACE and split.get("split") is False:
            return {"always": True, "first": True, "never": False}.get(str(split.get("prepend_scheme")))
    return None


def _pair(merge: Any) -> tuple[str, str]:
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left, right


def _type(token: str, unknown: str | None) -> int:
    if token == unknown:
        return UNKNOWN
    return BYTE if _BYTE.fullmatch(token) else NORMAL
