"""Texts and their files: read to the character, written once, refused with the reason."""

from pathlib import Path

import pytest

from workbench.calibration_text import (
    MAX_FILE_BYTES,
    CalibrationState,
    check_text,
    read_text,
    text_as_python,
    text_file,
)
from workbench.errors import ConfigError


@pytest.mark.parametrize("text", ["plain\r\nlines\n", "Grüße 😀", "\ufeffmarked twice", ""])
def test_a_file_is_read_to_the_character(tmp_path, text):
    file = tmp_path / "text.txt"
    file.write_bytes(text.encode("utf-8-sig"))
    assert read_text(file) == text
    file.write_bytes(text.removeprefix("\ufeff").encode())
    assert read_text(str(file)) == text.removeprefix("\ufeff")


def test_files_that_cannot_be_used_are_refused_with_the_reason(tmp_path):
    (tmp_path / "latin.txt").write_bytes("Grüße".encode("latin-1"))
    with (tmp_path / "huge text").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    for path, said in (
        (tmp_path / "none.txt", "cannot be read: No such file"),
        (tmp_path, "is no file"),
        ("/dev/zero", "is no file"),
        (tmp_path / "latin.txt", "byte 2 is 0xfc"),
        (tmp_path / "huge text", r"head -c 4000000 '.*huge text' > part"),
    ):
        with pytest.raises(ConfigError, match=said):
            read_text(path)


@pytest.mark.parametrize("text", ["a\r\nb\n", "Grüße 😀", "\ufeffmarked", 'it\'s "quoted"'])
def test_the_expression_gives_the_text_back(tmp_path, text):
    folder = tmp_path / "new folder, it's new"
    for path in (None, tmp_path / "gone.txt"):
        expression = text_as_python(text_file(text, path, folder, "abc"))
        assert eval(expression, {"Path": Path}) == text
    assert [file.name for file in folder.iterdir()] == ["calibration-abc.txt"]


def test_a_file_that_holds_the_text_is_read_where_it_is_and_one_that_changed_is_not(tmp_path):
    file = tmp_path / "corpus.txt"
    file.write_bytes(b"some text")
    assert repr(str(file)) in text_as_python(text_file("some text", file, tmp_path / "out", "abc"))
    assert not (tmp_path / "out").exists()
    file.write_bytes(b"other text")
    assert "calibration-abc.txt" in text_as_python(text_file("some text", file, tmp_path / "out", "abc"))


def test_half_a_pair_is_refused_with_its_place():
    check_text("Grüße 😀")
    with pytest.raises(ConfigError, match=r"Character 2 .*half of a pair"):
        check_text("ab\ud83d c")


def test_tokens_are_known_when_the_text_was_looked_at():
    assert CalibrationState("a", 10).tokens is None
    assert CalibrationState("a", 10, None, 3, 512).tokens == 1536
