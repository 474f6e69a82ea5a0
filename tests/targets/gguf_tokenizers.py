"""Small tokenizers: byte-level BPE for each pre-tokenizer that llama.cpp knows, and a SentencePiece model."""

from __future__ import annotations

import json
import struct

from tokenizers import Tokenizer, models, trainers
from tokenizers.pre_tokenizers import ByteLevel

from workbench.demo import demo_calibration_text
from workbench.targets.gguf_pretokenizers import pre_tokenizer_json


def trained(folder, pre: str, **changes):
    """Write a small byte-level tokenizer that splits as `pre` does."""
    folder.mkdir(exist_ok=True)
    one = Tokenizer(models.BPE(ignore_merges=changes.pop("ignore_merges", False)))
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        initial_alphabet=ByteLevel.alphabet(),
        special_tokens=["<s>", "</s>"],
        show_progress=False,
    )
    data = json.loads(one.to_str()) | {"pre_tokenizer": pre_tokenizer_json(pre)}
    one = Tokenizer.from_str(json.dumps(data))
    one.train_from_iterator([demo_calibration_text()[:20_000]], trainer)
    data = json.loads(one.to_str()) | changes
    (folder / "tokenizer.json").write_text(json.dumps(data))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<s>", "eos_token": {"__type": "AddedToken", "content": "</s>"}})
    )
    return folder


WORDS = ["▁the", "▁t", "he", "▁a", "th", "▁th", "at", "▁that"]  # the earlier, the sooner joined
LETTERS = ["▁", "t", "h", "e", "a"]


def varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def sentencepiece(folder, *, model_type: int = 2, charsmap: bytes = b"", squeezes: int = 0):
    """Write a tokenizer.model of a few words."""
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), *[(f"<0x{i:02X}>", 0.0, 6) for i in range(256)]]
    pieces += [(word, -float(rank), 1) for rank, word in enumerate([*WORDS, *LETTERS])]
    data = b"".join(
        field(1, field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + field(3, kind))
        for text, score, kind in pieces
    )
    data += field(2, field(3, model_type) + field(4, 1000))
    data += field(3, field(2, charsmap) + field(3, 1) + field(4, squeezes))
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.model").write_bytes(data)
    return folder
