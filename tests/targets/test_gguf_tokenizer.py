"""Tokenizers as GGUF's metadata and back: a text keeps its tokens, and what has no counterpart is refused."""

from __future__ import annotations

import itertools
import json

import pytest
from tokenizers import Tokenizer

from tests.targets.gguf_tokenizers import WORDS, sentencepiece, trained
from workbench.demo import demo_path
from workbench.errors import CheckpointError
from workbench.foreign.gguf_tokenizer import tokenizer_problem, write_tokenizer
from workbench.targets.companions import Companions
from workbench.targets.gguf_pretokenizers import PRE_TOKENIZERS, split_steps
from workbench.targets.gguf_sentencepiece import read_sentencepiece
from workbench.targets.gguf_tokenizer import tokenizer_metadata, tokenizer_misfits

CONFIG = {"vocab_size": 600}
TEXT = "Hello, World's 1234567 tokens!\n\n  x = café * 漢字;\tIt'S over."
BEGIN = {"TemplateProcessing": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]}


def plain(metadata) -> dict:
    return {key: value.data for key, value in metadata.items()}


@pytest.mark.parametrize("pre, ignore", [(name, ignore) for (_, ignore), name in PRE_TOKENIZERS.items()])
def test_each_declared_pre_tokenizer_is_recognised_and_comes_back(tmp_path, pre, ignore):
    folder = trained(tmp_path / "one", pre, ignore_merges=ignore)
    metadata = plain(tokenizer_metadata(folder, CONFIG))
    assert metadata["tokenizer.ggml.pre"] == pre and metadata["tokenizer.ggml.model"] == "gpt2"
    assert metadata["tokenizer.ggml.bos_token_id"] == 0 and metadata["tokenizer.ggml.eos_token_id"] == 1
    assert metadata["tokenizer.ggml.add_bos_token"] is False
    assert metadata["tokenizer.ggml.tokens"][500:] == [f"[PAD{index}]" for index in range(500, 600)]
    assert metadata["tokenizer.ggml.token_type"][:3] == [3, 3, 1] and metadata["tokenizer.ggml.token_type"][-1] == 5
    assert tokenizer_problem(metadata) == ""
    write_tokenizer(tmp_path, metadata)
    one, other = (Tokenizer.from_file(str(path / "tokenizer.json")) for path in (folder, tmp_path))
    assert one.encode("<s>" + TEXT).ids == other.encode("<s>" + TEXT).ids
    assert other.decode(other.encode(TEXT).ids) == TEXT


def test_the_demo_model_s_tokenizer_is_that_of_qwen2():
    metadata = plain(tokenizer_metadata(demo_path(), {"vocab_size": 4096}))
    assert metadata["tokenizer.ggml.pre"] == "qwen2" and len(metadata["tokenizer.ggml.tokens"]) == 4096
    assert metadata["tokenizer.ggml.eos_token_id"] == metadata["tokenizer.ggml.padding_token_id"] == 0


def test_a_beginning_that_is_always_put_is_told(tmp_path):
    begin = {"type": "TemplateProcessing", "single": BEGIN["TemplateProcessing"], "pair": [], "special_tokens": {}}
    folder = trained(tmp_path / "one", "qwen2", post_processor=begin)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    metadata = plain(tokenizer_metadata(folder, CONFIG))
    assert metadata["tokenizer.ggml.add_bos_token"] is True and metadata["tokenizer.ggml.add_eos_token"] is False
    assert metadata["tokenizer.chat_template"] == "{{ messages }}"
    write_tokenizer(tmp_path, metadata)
    again = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert again.encode("Hello").ids[0] == 0 and again.encode("Hello", add_special_tokens=False).ids[0] != 0
    assert (tmp_path / "chat_template.jinja").read_text() == "{{ messages }}"


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"pre_tokenizer": {"type": "Whitespace"}}, "split by Whitespace.*allowed|Allowed: SentencePiece"),
        ({"normalizer": {"type": "Lowercase"}}, "normalizer Lowercase"),
        ({"ignore_merges": True}, "whole words first"),
        ({"post_processor": {"type": "BertProcessing"}}, "ends in BertProcessing"),
    ],
)
def test_what_has_no_counterpart_is_refused(tmp_path, changes, said):
    folder = trained(tmp_path / "one", "qwen2", **changes)
    with pytest.raises(CheckpointError, match=said):
        tokenizer_metadata(folder, CONFIG)


def test_no_tokenizer_and_one_that_is_too_large(tmp_path):
    with pytest.raises(CheckpointError, match=r"GGUF carries the tokenizer, and there is none.*pass tokenizer="):
        tokenizer_metadata(tmp_path, CONFIG)
    with pytest.raises(CheckpointError, match="500 tokens and the model 400 rows"):
        tokenizer_metadata(trained(tmp_path / "one", "qwen2"), {"vocab_size": 400})


def test_an_unknown_split_has_no_steps():
    assert split_steps({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}) is None
    assert split_steps({"pre_tokenizer": None}) is None
    removed = {"type": "Split", "pattern": {"Regex": "x"}, "behavior": "Removed", "invert": False}
    assert split_steps({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [removed]}}) is None
    assert "its pre-tokenizer is 'mine'" in tokenizer_problem(
        {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "mine", "tokenizer.ggml.tokens": ["a"]}
    )


# --- SentencePiece --------------------------------------------------------------------------------------------------


def joined(text: str, scores: dict[str, float]) -> list[str]:
    """SentencePiece's BPE: join the two neighbours whose joined token has the highest score, until none is known."""
    parts = list("▁" + text.replace(" ", "▁"))
    while True:
        pairs = [(scores[a + b], -i) for i, (a, b) in enumerate(itertools.pairwise(parts)) if a + b in scores]
        if not pairs:
            return parts
        at = -max(pairs)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


def test_a_sentencepiece_model_becomes_a_tokenizer_that_joins_the_same(tmp_path):
    folder = sentencepiece(tmp_path / "one")
    metadata = plain(tokenizer_metadata(folder, {"vocab_size": 300, "bos_token_id": 1, "eos_token_id": 2}))
    assert metadata["tokenizer.ggml.model"] == "llama" and metadata["tokenizer.ggml.add_bos_token"] is True
    assert metadata["tokenizer.ggml.token_type"][:4] == [2, 3, 3, 6]
    write_tokenizer(tmp_path, metadata)
    one = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    scores = {word: -float(rank) for rank, word in enumerate(WORDS)}
    for text in ("that the hat", "the thatthe ta", "  a", "hehe that"):
        assert one.encode(text).tokens == ["<s>", *joined(text, scores)]
        assert one.decode(one.encode(text).ids) == text
    assert one.encode("é").tokens == ["<s>", "▁", "<0xC3>", "<0xA9>"]


def test_the_same_vocabulary_is_told_from_a_tokenizer_json_alone(tmp_path):
    first = plain(tokenizer_metadata(sentencepiece(tmp_path / "one"), {"vocab_size": 272}))
    write_tokenizer(tmp_path, first)
    second = plain(tokenizer_metadata(tmp_path, {"vocab_size": 272}))
    assert second["tokenizer.ggml.tokens"] == first["tokenizer.ggml.tokens"]
    assert second["tokenizer.ggml.token_type"] == first["tokenizer.ggml.token_type"]
    order = [sorted(WORDS, key=lambda word, m=m: -m["tokenizer.ggml.scores"][m["tokenizer.ggml.tokens"].index(word)])
             for m in (first, second)]  # fmt: skip
    joinable = [word for word in WORDS if word in order[0]]
    assert [w for w in order[0] if w in joinable] == [w for w in order[1] if w in joinable] == WORDS
    data = json.loads((tmp_path / "tokenizer.json").read_text())
    data["model"]["merges"] = data["model"]["merges"][1:]  # a split is left out: no scores can say that
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match="has no declared counterpart"):
        tokenizer_metadata(tmp_path, {"vocab_size": 272})


@pytest.mark.parametrize("changes", [{"model_type": 1}, {"charsmap": b"xx"}, {"squeezes": 1}])
def test_other_sentencepiece_models_are_refused(tmp_path, changes):
    with pytest.raises(CheckpointError, match=r"tokenizer.model (has|changes).*a BPE model"):
        read_sentencepiece(sentencepiece(tmp_path / "one", **changes) / "tokenizer.model")


def test_a_damaged_sentencepiece_model_is_refused(tmp_path):
    path = sentencepiece(tmp_path / "one") / "tokenizer.model"
    data = path.read_bytes()
    for cut in (0, 3, 100, len(data) - 2):
        path.write_bytes(data[:cut])
        with pytest.raises(CheckpointError):
            read_sentencepiece(path)


# --- before an export begins ----------------------------------------------------------------------------------------


def test_a_tokenizer_that_cannot_be_written_is_a_misfit_before_anything_runs(tmp_path):
    trained(tmp_path / "one", "qwen2", pre_tokenizer={"type": "Whitespace"})
    copies = []

    def write_files(folder):
        copies.append(folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).write_bytes((tmp_path / "one" / name).read_bytes())

    companions = Companions(write_files)
    for _ in range(3):  # asked for every change of a recipe, looked at once
        [misfit] = tokenizer_misfits(companions, CONFIG)
    assert "the tokenizer: it has no declared counterpart in llama.cpp" in misfit.what and not misfit.change
    assert "split by Whitespace" in misfit.what and "qwen2" in misfit.allowed
    assert len(copies) == 1 and not copies[0].exists()


def test_one_that_can_be_written_is_none(tmp_path):
    folder = trained(tmp_path / "one", "qwen2")
    companions = Companions(lambda to: (to / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes()))
    assert tokenizer_misfits(companions, CONFIG) == []


@pytest.mark.parametrize(
    "damage",
    [
        {"model": {"type": "BPE", "merges": []}},
        {"model": [1]},
        {"added_tokens": [{"id": "x"}]},
        {"pre_tokenizer": 3},
        {"post_processor": {"type": "TemplateProcessing", "single": [{"x": 1}]}},
    ],
)
def test_a_damaged_tokenizer_is_refused_in_words(damage, tmp_path):
    folder = trained(tmp_path / "one", "qwen2", **damage)
    with pytest.raises(CheckpointError, match="tokenizer"):
        tokenizer_metadata(folder, CONFIG)
