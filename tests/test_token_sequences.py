"""A text becomes sequences of tokens of one length, from its beginning; what was shortened or left out is said."""

from __future__ import annotations

import pytest
import torch

from tests.calibrated_models import Letters
from workbench.errors import ConfigError
from workbench.token_sequences import text_sequences

TEXT = "The module provides some words, and then the same words again. " * 20


def cut(text, **settings):
    return text_sequences(
        text, Letters(), **{"sequence_length": 50, "max_sequences": 128, "positions": None, **settings}
    )


def test_the_first_sequences_are_taken_and_the_rest_is_told():
    letters = Letters()(TEXT)["input_ids"]
    ids, notes = cut(TEXT, max_sequences=3)
    assert ids.dtype == torch.int64 and ids.tolist() == [letters[:50], letters[50:100], letters[100:150]]
    assert notes == (f"150 of the text's {len(letters)} tokens are used: 3 sequences of 50",)


def test_a_text_that_fits_needs_no_note_and_a_short_one_is_told():
    assert cut("a" * 100)[1] == ()
    ids, notes = cut("a" * 30)
    assert ids.shape == (1, 30)
    assert notes == ("the text has 30 tokens, fewer than a sequence of 50: one shorter sequence",)


@pytest.mark.parametrize(("positions", "length"), [(None, 50), (50, 50), (40, 40), (2, 2), (1, 50)])
def test_sequences_are_no_longer_than_the_positions_of_the_model(positions, length):
    ids, notes = cut("a" * 200, positions=positions)
    assert ids.shape == (200 // length, length)
    said = (f"sequences of {length} tokens instead of 50: the model has no more positions",) if length < 50 else ()
    assert notes == said


def test_several_texts_follow_each_other():
    assert cut(["ab", "cd"])[0][0].tolist() == Letters()("ab\n\ncd")["input_ids"]


@pytest.mark.parametrize("text", ["", "  \n\t ", [], ["", ""]])
def test_an_empty_text_is_refused(text):
    with pytest.raises(ConfigError, match=r"The calibration text is empty\. To mend it: give some thousand words"):
        cut(text)


def test_one_token_is_too_few():
    with pytest.raises(ConfigError, match=r"has 1 token\..*at least 2"):
        cut("a")


@pytest.mark.parametrize(
    ("name", "value"), [("sequence_length", 1), ("sequence_length", 64.0), ("max_sequences", 0), ("max_sequences", "3")]
)
def test_lengths_that_cannot_be_are_refused(name, value):
    with pytest.raises(ConfigError, match=rf"{name}={value!r}.*a whole number from"):
        cut(TEXT, **{name: value})
