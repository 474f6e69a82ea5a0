"""The calibration text of a session without any lane: its tokens, what is told of it, and how a script has it."""

import pytest

from tests.calibrated_models import Letters
from tests.session.stand_ins import toy
from workbench.calibration import Calibration
from workbench.demo import demo_calibration_text
from workbench.errors import ConfigError
from workbench.session.tokenized_text import DEMO_ORIGIN, TokenizedText

TEXT = "The module provides some words. " * 40


def holder(text="", tokenizer=None, told=None, path=None):
    told = [] if told is None else told
    made = TokenizedText(toy("a"), tokenizer or Letters(), on_state=told.append, loads_bytes=7)
    made.put(text, "here" if text else "", path)
    return made


def test_the_demo_model_begins_with_its_own_text_and_others_with_none(demo_source):
    demo = TokenizedText(demo_source, None, on_state=print, loads_bytes=0)
    assert (demo.text, demo.state.origin) == (demo_calibration_text(), DEMO_ORIGIN)
    assert demo.tokenizer_problem() is None
    assert demo.as_python("out") == "wb.demo_calibration_text()" and demo.as_file("out") is None
    other = TokenizedText(toy("a"), None, on_state=print, loads_bytes=7)
    assert (other.text, other.state.origin, other.state.loads_bytes) == ("", "", 7)
    assert not other.has_demo_text


def test_tokens_are_made_once_for_each_text_and_told():
    told = []
    held = holder(TEXT, told=told)
    made = held.prepared()
    assert made.ids.tolist() == Calibration.from_text(TEXT, Letters()).ids.tolist()
    assert held.prepared() is made and len(told) == 1
    assert (told[0].sequences, told[0].sequence_length, told[0].notes) == (*made.ids.shape, made.notes)
    stamp = held.stamp
    held.put(TEXT + "more", "here")
    assert held.stamp != stamp and held.state.sequences is None
    assert held.prepared() is not made


def test_what_is_found_of_a_text_that_was_replaced_meanwhile_is_not_told():
    class Replacing(Letters):
        def __call__(self, text, verbose=True):
            if text == TEXT:
                held.put("other " * 20, "there")
            return super().__call__(text)

    told = []
    held = holder(TEXT, Replacing(), told)
    assert held.prepared().tokens == len(TEXT) // 512 * 512
    assert told == [] and (held.state.origin, held.state.sequences) == ("there", None)


def test_without_a_text_or_a_tokenizer_nothing_is_made():
    with pytest.raises(ConfigError, match="no calibration text"):
        holder().prepared()
    with pytest.raises(ConfigError, match="no calibration text"):
        holder("  ").check()
    bare = TokenizedText(toy("a"), None, on_state=print, loads_bytes=0)
    bare.put(TEXT, "here")
    assert "came without a tokenizer" in str(bare.tokenizer_problem())
    with pytest.raises(ConfigError, match=r"came without a tokenizer.*wb\.Workbench\(model, tokenizer\)"):
        bare.prepared()


def test_a_script_reads_the_file_of_the_text_or_a_copy(tmp_path):
    file = tmp_path / "corpus.txt"
    file.write_text(TEXT, encoding="utf-8")
    held = holder(TEXT, path=file)
    assert held.as_file(tmp_path / "out") == file and str(file) in held.as_python(tmp_path / "out")
    file.write_text("another text", encoding="utf-8")
    copy = held.as_file(tmp_path / "out")
    assert copy == tmp_path / f"calibration-{held.stamp}.txt" and copy.read_text(encoding="utf-8") == TEXT
