"""Pre-tokenizers of llama.cpp, each recognised by the very patterns of a tokenizer.json; no guess is made.

The patterns are those of the published tokenizers; which name stands for which was read in llama.cpp's
src/llama-vocab.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_END = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = r"|[^\r\n\p{L}\p{N}]?\p{L}+|"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_HEAD = r"[^\r\n\p{L}\p{N}]?"
_SLASHED = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"

GPT2 = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
LLAMA3 = _CONTRACTIONS + _WORDS + r"\p{N}{1,3}" + _END
QWEN2 = _CONTRACTIONS + _WORDS + r"\p{N}" + _END
QWEN35 = (
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = f"{_HEAD}{_UPPER}*{_LOWER}+|{_HEAD}{_UPPER}+{_LOWER}*" + r"|\p{N}" + _SLASHED
GPT4O = (
    f"{_HEAD}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_HEAD}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?" + r"|\p{N}{1,3}" + _SLASHED
)
DEEPSEEK3 = (
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^"""
    "\r\n"
    r"""\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+["""
    "\r\n"
    r"""]*|\s*["""
    "\r\n"
    r"""]+|\s+(?!\S)|\s+""",
)
DIGITS = r"\p{N}"
Steps = tuple[str, ...]

# (patterns that split in turn, whether whole words of the vocabulary are taken before merging) → tokenizer.ggml.pre
PRE_TOKENIZERS: dict[tuple[Steps, bool], str] = {
    ((LLAMA3,), True): "llama-bpe",
    ((LLAMA3,), False): "dbrx",
    ((QWEN2,), False): "qwen2",
    ((QWEN35,), False): "qwen35",
    ((GPT2,), False): "gpt-2",
    ((DIGITS, GPT2), False): "smollm",
    ((TEKKEN,), True): "tekken",
    ((GPT4O,), False): "gpt-4o",
    (DEEPSEEK3, False): "deepseek-v3",
}
# Others that llama.cpp splits with the same patterns: what a file may say, and what is read from it.
SAME: dict[str, str] = {
    "llama3": "llama-bpe",
    "llama-v3": "llama-bpe",
    "falcon3": "llama-bpe",
    "smaug-bpe": "dbrx",
    "deepseek-r1-qwen": "qwen2",
    "stablelm2": "qwen2",
    "phi-2": "gpt-2",
    "olmo": "gpt-2",
    "starcoder": "smollm",
    "refact": "smollm",
    "command-r": "smollm",
}

# Settings of a BPE model that llama.cpp does not know.
_NOT_KNOWN = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
# Normalizers that keep a text as it is; NFC is what the published tokenizers of Qwen have, which llama.cpp leaves out.
_KEEPS = (None, {"type": "NFC"}, {"type": "Sequence", "normalizers": []})


def split_steps(tokenizer: Mapping[str, Any]) -> Steps | None:
    """Return the patterns that a byte-level tokenizer.json splits text with, in turn; None for anything else."""
    given = tokenizer.get("pre_tokenizer") or {}
    steps = given.get("pretokenizers", []) if given.get("type") == "Sequence" else [given]
    found: list[str] = []
    for step in steps:
        pattern = _pattern(step)
        if pattern is None:
            return None
        found += [pattern] if pattern else []
    last = steps[-1] if steps else {}
    return tuple(found) if last.get("type") == "ByteLevel" else None


def counterpart(tokenizer: Mapping[str, Any]) -> str | None:
    """Return the tokenizer.ggml.pre of a byte-level tokenizer.json that llama.cpp does alike; None for any other."""
    model = tokenizer.get("model") or {}
    steps = split_steps(tokenizer)
    if model.get("type") != "BPE" or not steps or any(model.get(key) for key in _NOT_KNOWN):
        return None
    if tokenizer.get("normalizer") not in _KEEPS:
        return None
    return PRE_TOKENIZERS.get((steps, bool(model.get("ignore_merges"))))


def said(tokenizer: Mapping[str, Any]) -> str:
    """Name what a tokenizer.json is made of."""
    kinds = [f"{key} {(tokenizer.get(key) or {}).get('type', 'none')}" for key in ("model", "normalizer")]
    steps = split_steps(tokenizer)
    split = " then ".join(steps) if steps else (tokenizer.get("pre_tokenizer") or {}).get("type", "none")
    merges = ", whole words first" if (tokenizer.get("model") or {}).get("ignore_merges") else ""
    return f"{', '.join(kinds)}, split by {split}{merges}"


def pre_tokenizer_json(name: str) -> dict[str, Any]:
    """Return the `pre_tokenizer` of a tokenizer.json for a name that `PRE_TOKENIZERS` knows."""
    (steps, _), _ = next(item for item in PRE_TOKENIZERS.items() if item[1] == name)
    own = steps[-1] == GPT2  # ByteLevel brings this pattern
    split = [
        {"type": "Split", "pattern": {"Regex": step}, "behavior": "Isolated", "invert": False}
        for step in (steps[:-1] if own else steps)
    ]
    bytes_of = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": own}
    return {"type": "Sequence", "pretokenizers": [*split, bytes_of]} if split else bytes_of


def ignores_merges(name: str) -> bool:
    """Say whether whole words of the vocabulary are taken before merging."""
    return next(ignores for (_, ignores), known in PRE_TOKENIZERS.items() if known == name)


def _pattern(step: Mapping[str, Any]) -> str | None:
    """Return the pattern of one step, "" for one that does not split, None for one that is not known."""
    kind = step.get("type")
    if kind == "ByteLevel" and not step.get("add_prefix_space"):
        return GPT2 if step.get("use_regex", True) else ""
    if kind == "Digits" and step.get("individual_digits"):
        return DIGITS
    if kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
        pattern = step.get("pattern") or {}
        return pattern.get("Regex")
    return None
