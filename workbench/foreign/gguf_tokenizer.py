"""tokenizer.json of a GGUF file: byte-level BPE of a declared pre-tokenizer, or SentencePiece's BPE."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.errors import CheckpointError
from workbench.targets.gguf_pretokenizers import PRE_TOKENIZERS, SAME, ignores_merges, pre_tokenizer_json
from workbench.targets.gguf_tokenizer import BYTE, CONTROL, UNKNOWN, UNUSED, USER_DEFINED

_SPACE = "\u2581"
_IDS = {"bos": "bos_token_id", "eos": "eos_token_id", "unk": "unknown_token_id", "pad": "padding_token_id"}
_ADDED = (CONTROL, USER_DEFINED)


def tokenizer_problem(metadata: Mapping[str, Any]) -> str:
    """Say why a file's tokenizer cannot be written as a tokenizer.json, "" when it can."""
    tokens, types = metadata.get("tokenizer.ggml.tokens"), metadata.get("tokenizer.ggml.token_type")
    model, pre = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if not isinstance(tokens, list) or (types is not None and len(types) != len(tokens)):
        return "it has no list of tokens with their types"
    if model == "gpt2":
        known = SAME.get(str(pre), str(pre)) in PRE_TOKENIZERS.values()
        return (
            "" if known else f"its pre-tokenizer is {pre!r}, known are {', '.join([*PRE_TOKENIZERS.values(), *SAME])}"
        )
    if model == "llama":
        scores = metadata.get("tokenizer.ggml.scores")
        return "" if scores is not None and len(scores) == len(tokens) else "its tokens have no scores"
    return f"it is of the model {model!r}, known are gpt2 and llama"


def write_tokenizer(folder: Path, metadata: Mapping[str, Any]) -> None:
    """Write tokenizer.json, tokenizer_config.json and the chat template.

    Raises:
        CheckpointError: when tokens or merges contradict each other.
    """
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    types = list(metadata.get("tokenizer.ggml.token_type") or [1] * len(tokens))
    data = (
        _byte_level(metadata, tokens, types)
        if metadata["tokenizer.ggml.model"] == "gpt2"
        else _spaced(metadata, tokens, types)
    )
    data["added_tokens"] = [_added(index, tokens[index], kind) for index, kind in enumerate(types) if kind in _ADDED]
    special = {name: _token(metadata, key, tokens) for name, key in _IDS.items()}
    data["post_processor"] = _post_processor(metadata, special, tokens, data["post_processor"])
    settings: dict[str, Any] = {f"{name}_token": token for name, token in special.items() if token is not None}
    settings |= {"clean_up_tokenization_spaces": False, "tokenizer_class": "PreTrainedTokenizerFast"}
    template = metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    (folder / "tokenizer.json").write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _byte_level(metadata: Mapping[str, Any], tokens: list[str], types: Sequence[int]) -> dict[str, Any]:
    name = str(metadata["tokenizer.ggml.pre"])
    name = SAME.get(name, name)
    vocab = _vocabulary(tokens, types)
    merges = metadata.get("tokenizer.ggml.merges")
    if not isinstance(merges, list) or not all(_is_merge(one, vocab) for one in merges):
        raise CheckpointError("The file's merges do not fit its tokens.", mend="fetch the file again")
    bytes_of = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return _tokenizer(
        {"pre_tokenizer": pre_tokenizer_json(name), "post_processor": bytes_of, "decoder": bytes_of},
        {"ignore_merges": ignores_merges(name), "vocab": vocab, "merges": merges},
    )


def _spaced(metadata: Mapping[str, Any], tokens: list[str], types: Sequence[int]) -> dict[str, Any]:
    """SentencePiece's BPE as transformers writes it: spaces become ▁, unknown characters their bytes."""
    vocab = _vocabulary(tokens, types)
    joined = {token: index for token, index in vocab.items() if types[index] != USER_DEFINED}
    unknown = next((tokens[index] for index, kind in enumerate(types) if kind == UNKNOWN), None)
    prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    start = [{"type": "Prepend", "prepend": _SPACE}] if prefix else []
    back = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    return _tokenizer(
        {
            "normalizer": {"type": "Sequence", "normalizers": [*start, spaces]},
            "decoder": {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]},
        },
        {
            "unk_token": unknown,
            "fuse_unk": True,
            "byte_fallback": BYTE in types,
            "vocab": vocab,
            "merges": _merges(joined, metadata["tokenizer.ggml.scores"]),
        },
    )


def _tokenizer(steps: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tokenizer.json with these steps and these settings of its BPE, the rest as usual."""
    nothing = ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder")
    unset = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")
    off = ("fuse_unk", "byte_fallback", "ignore_merges")
    usual = {"type": "BPE", **dict.fromkeys(unset), **dict.fromkeys(off, False)}
    return {"version": "1.0", **dict.fromkeys(nothing), "added_tokens": [], **steps, "model": {**usual, **model}}


def _merges(vocab: Mapping[str, int], scores: Sequence[float]) -> list[list[str]]:
    """Return every pair of tokens that makes a third one, in the order in which SentencePiece would join them."""
    found = []
    for token, index in vocab.items():
        for cut in range(1, min(len(token), 64)):
            left, right = token[:cut], token[cut:]
            if left in vocab and right in vocab:
                found.append((-scores[index], index, vocab[left], vocab[right], left, right))
    return [[left, right] for *_, left, right in sorted(found)]


def _vocabulary(tokens: list[str], types: Sequence[int]) -> dict[str, int]:
    """Return token → id of all that are used: the added ones as well, which would get other ids without."""
    vocab: dict[str, int] = {}
    for index, token in enumerate(tokens):
        if types[index] == UNUSED:
            continue
        if vocab.setdefault(token, index) != index:
            raise CheckpointError(f"The file has the token {token[:64]!r} twice.", mend="fetch the file again")
    return vocab


def _is_merge(merge: str, vocab: Mapping[str, int]) -> bool:
    left, _, right = merge.partition(" ")
    return left in vocab and right in vocab and left + right in vocab


def _added(index: int, token: str, kind: int) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": token, **plain, "special": kind == CONTROL}


def _token(metadata: Mapping[str, Any], key: str, tokens: list[str]) -> str | None:
    index = metadata.get(f"tokenizer.ggml.{key}")
    return tokens[index] if type(index) is int and 0 <= index < len(tokens) else None


def _post_processor(
    metadata: Mapping[str, Any], special: Mapping[str, str | None], tokens: list[str], usual: Any
) -> Any:
    """Return what puts a beginning and an end around every text, where the file says so."""
    spaced = metadata["tokenizer.ggml.model"] == "llama"
    first = special["bos"] if metadata.get("tokenizer.ggml.add_bos_token", spaced) else None
    last = special["eos"] if metadata.get("tokenizer.ggml.add_eos_token", False) else None
    if first is None and last is None:
        return usual
    used = [token for token in (first, last) if token is not None]
    text: list[dict[str, Any]] = [{"Sequence": {"id": "A", "type_id": 0}}]
    before = [{"SpecialToken": {"id": first, "type_id": 0}}] if first is not None else []
    after = [{"SpecialToken": {"id": last, "type_id": 0}}] if last is not None else []
    ids = {token: {"id": token, "ids": [tokens.index(token)], "tokens": [token]} for token in used}
    pair = [*before, *text, *before, {"Sequence": {"id": "B", "type_id": 0}}, *after]
    return {
        "type": "TemplateProcessing",
        "single": [*before, *text, *after],
        "pair": pair,
        "special_tokens": ids,
    }
