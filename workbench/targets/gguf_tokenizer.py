"""A tokenizer as GGUF's metadata: byte-level BPE of a declared pre-tokenizer, or a SentencePiece model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.checkpoint.integrity import read_json
from workbench.errors import CheckpointError
from workbench.targets.companions import Companions
from workbench.targets.gguf_file import Value
from workbench.targets.gguf_pretokenizers import PRE_TOKENIZERS, counterpart, said
from workbench.targets.gguf_sentencepiece import read_sentencepiece
from workbench.targets.gguf_spaced import Spaced, spaced
from workbench.targets.target import Misfit

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # llama.h's llama_token_type
_SPECIAL = {"bos": "bos_token_id", "eos": "eos_token_id", "unk": "unknown_token_id", "pad": "padding_token_id"}
COUNTERPARTS = f"SentencePiece's BPE, and byte-level BPE split as {', '.join(PRE_TOKENIZERS.values())}"
_OTHER_TARGET = "export to another format, which keeps the tokenizer's own files"


def tokenizer_misfits(companions: Companions, config: Mapping[str, Any]) -> list[Misfit]:
    """Say why the tokenizer among these files cannot be written; [] when it can."""
    error = companions.problem("tokenizer as GGUF", lambda folder: tokenizer_metadata(folder, config))
    if error is None:
        return []
    what = error.what.removesuffix(".").replace("The tokenizer", "it", 1)
    return [Misfit(f"the tokenizer: {what}", error.allowed or "another", error.mend or _OTHER_TARGET)]


def tokenizer_metadata(folder: Path, config: Mapping[str, Any]) -> dict[str, Value]:
    """Return what a GGUF file says about the tokenizer in a folder.

    Args:
        folder: Holds tokenizer.model (SentencePiece) or tokenizer.json, and what stands beside them.
        config: The model's config.json: vocabulary size and special tokens.

    Raises:
        CheckpointError: when there is no tokenizer, it is damaged, llama.cpp has no declared counterpart of it, or it
            has more tokens than the model.
    """
    try:
        return _metadata(folder, config)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        what = f"{type(error).__name__}: {error}"[:120]
        raise CheckpointError(f"The tokenizer cannot be read ({what}).", mend="fetch its files again") from None


def _metadata(folder: Path, config: Mapping[str, Any]) -> dict[str, Value]:
    settings = _optional_json(folder / "tokenizer_config.json")
    tokenizer = _optional_json(folder / "tokenizer.json")
    if (folder / "tokenizer.model").is_file():
        found = _sentencepiece(folder / "tokenizer.model", tokenizer)
    elif tokenizer:
        found = _byte_level(tokenizer) if (told := spaced(tokenizer)) is None else _told(tokenizer, told)
    else:
        raise CheckpointError(
            "GGUF carries the tokenizer, and there is none.",
            allowed="tokenizer.json or tokenizer.model",
            mend="pass tokenizer=, or copy the tokenizer's files into the folder",
        )
    tokens = _padded(found, int(config["vocab_size"]))
    found |= _special(tokens, settings, config) | _ends(tokenizer, settings, tokens)
    if template := _chat_template(folder, settings):
        found["tokenizer.chat_template"] = Value("str", template)
    return found


def _byte_level(tokenizer: Mapping[str, Any]) -> dict[str, Value]:
    known = counterpart(tokenizer)
    if known is None:
        raise CheckpointError(
            f"The tokenizer has no declared counterpart in llama.cpp: {said(tokenizer)}.",
            allowed=COUNTERPARTS,
            mend=_OTHER_TARGET,
        )
    model = tokenizer["model"]
    names = {index: token for token, index in model["vocab"].items()}
    types = dict.fromkeys(names, NORMAL)
    _add_tokens(tokenizer, names, types)
    merges = [one if isinstance(one, str) else " ".join(one) for one in model.get("merges", [])]
    return {
        "tokenizer.ggml.model": Value("str", "gpt2"),
        "tokenizer.ggml.pre": Value("str", known),
        **_listed(names, types),
        "tokenizer.ggml.merges": Value("str", merges),
    }


def _sentencepiece(path: Path, tokenizer: Mapping[str, Any]) -> dict[str, Value]:
    pieces = read_sentencepiece(path)
    names, types = dict(enumerate(pieces.texts)), dict(enumerate(pieces.types))
    found = Spaced(names, types, dict(enumerate(pieces.scores)), pieces.adds_space)
    _add_tokens(tokenizer, names, types)
    return _spaced(found)


def _told(tokenizer: Mapping[str, Any], told: Spaced) -> dict[str, Value]:
    _add_tokens(tokenizer, told.names, told.types)
    return _spaced(told)


def _spaced(found: Spaced) -> dict[str, Value]:
    scores = [found.scores.get(index, -1000.0) for index in range(len(found.names))]
    return {
        "tokenizer.ggml.model": Value("str", "llama"),
        "tokenizer.ggml.pre": Value("str", "default"),
        **_listed(found.names, found.types),
        "tokenizer.ggml.scores": Value("f32", scores),
        "tokenizer.ggml.add_space_prefix": Value("bool", found.adds_space),
    }


def _listed(names: Mapping[int, str], types: Mapping[int, int]) -> dict[str, Value]:
    if sorted(names) != list(range(len(names))):
        raise CheckpointError("The tokenizer has gaps in its ids.", allowed="0, 1, 2, …", mend=_OTHER_TARGET)
    tokens = [names[index] for index in range(len(names))]
    kinds = [types[index] for index in range(len(names))]
    return {"tokenizer.ggml.tokens": Value("str", tokens), "tokenizer.ggml.token_type": Value("i32", kinds)}


def _add_tokens(tokenizer: Mapping[str, Any], names: dict[int, str], types: dict[int, int]) -> None:
    """Enter the tokens that are matched before anything is split."""
    for token in tokenizer.get("added_tokens") or []:
        index, special = int(token["id"]), bool(token.get("special"))
        if types.get(index) in (UNKNOWN, BYTE):
            continue
        names[index] = str(token["content"])
        types[index] = CONTROL if special else USER_DEFINED


def _padded(found: dict[str, Value], size: int) -> list[str]:
    """Give the model's last rows, which no token names, unused tokens; return all tokens."""
    tokens, types = found["tokenizer.ggml.tokens"].data, found["tokenizer.ggml.token_type"].data
    missing = size - len(tokens)
    if missing < 0:
        raise CheckpointError(
            f"The tokenizer has {len(tokens)} tokens and the model {size} rows of embeddings.",
            mend="use the tokenizer of this model, or resize the model's embeddings",
        )
    tokens += [f"[PAD{index}]" for index in range(len(tokens), size)]
    types += [UNUSED] * missing
    if "tokenizer.ggml.scores" in found:
        found["tokenizer.ggml.scores"].data.extend([-1000.0] * missing)
    return list(tokens)


def _special(tokens: list[str], settings: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Value]:
    """Return the ids of special tokens: those of the tokenizer, or else those of the model."""
    ids = {token: index for index, token in reversed(list(enumerate(tokens)))}
    found = {}
    for short, key in _SPECIAL.items():
        given = settings.get(f"{short}_token")
        text = given.get("content") if isinstance(given, Mapping) else given
        index = ids.get(text) if isinstance(text, str) else config.get(f"{short}_token_id")
        index = index[0] if isinstance(index, list) and index else index
        if isinstance(index, int) and 0 <= index < len(tokens):
            found[f"tokenizer.ggml.{key}"] = Value("u32", index)
    return found


def _ends(tokenizer: Mapping[str, Any], settings: Mapping[str, Any], tokens: list[str]) -> dict[str, Value]:
    """Say whether a beginning and an end are put around every text.

    Raises:
        CheckpointError: when something else is put there.
    """
    if not tokenizer:  # SentencePiece alone: transformers' defaults for Llama
        first, last = bool(settings.get("add_bos_token", True)), bool(settings.get("add_eos_token", False))
    else:
        before, after = _template(tokenizer.get("post_processor") or {})
        if len(before) > 1 or len(after) > 1:
            raise CheckpointError(
                f"The tokenizer puts {[*before, *after]} around every text.",
                allowed="one token before and one after",
                mend=_OTHER_TARGET,
            )
        first, last = bool(before), bool(after)
        _check_end("bos_token", before, settings)
        _check_end("eos_token", after, settings)
    return {"tokenizer.ggml.add_bos_token": Value("bool", first), "tokenizer.ggml.add_eos_token": Value("bool", last)}


def _check_end(key: str, found: list[str], settings: Mapping[str, Any]) -> None:
    given = settings.get(key)
    text = given.get("content") if isinstance(given, Mapping) else given
    if found and isinstance(text, str) and found != [text]:
        raise CheckpointError(
            f"The tokenizer puts {found[0]!r} around every text, and its {key} is {text!r}.",
            allowed="the same token",
            mend=_OTHER_TARGET,
        )


def _template(processor: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return the special tokens that a post-processor puts before and after a text."""
    kind = processor.get("type")
    if kind == "Sequence":
        found = [_template(one) for one in processor.get("processors", [])]
        return [token for before, _ in found for token in before], [token for _, after in found for token in after]
    if kind in (None, "ByteLevel"):
        return [], []
    if kind != "TemplateProcessing":
        raise CheckpointError(f"The tokenizer ends in {kind}.", allowed="TemplateProcessing", mend=_OTHER_TARGET)
    before: list[str] = []
    after: list[str] = []
    side = before
    for piece in processor.get("single", []):
        if "Sequence" in piece:
            side = after
        else:
            side.append(str(piece["SpecialToken"]["id"]))
    return before, after


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> str:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    given = settings.get("chat_template")
    if isinstance(given, list):  # several by name
        given = next((one.get("template") for one in given if one.get("name") == "default"), "")
    return given if isinstance(given, str) else ""


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
