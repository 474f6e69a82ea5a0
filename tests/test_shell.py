"""Command lines for a POSIX shell and for Windows."""

from __future__ import annotations

import shlex
import sys

import pytest

from workbench.shell import joined, quoted, with_document

WORDS = ["workbench", "quantize", "my model", "--recipe", "recipe.json", "--out", "it's"]


def test_a_posix_shell_reads_the_words_back(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    assert shlex.split(joined(WORDS)) == WORDS


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("demo-int4", "demo-int4"),
        (r"C:\models\llama", r"C:\models\llama"),
        (r"C:\my models\llama", r'"C:\my models\llama"'),
        ("it's", '"it\'s"'),
        ("a&b", '"a&b"'),
        ("", '""'),
    ],
)
def test_windows_knows_no_single_quotes(word, line, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    assert quoted(word) == line


def test_a_text_is_the_input_of_a_command_or_a_file_before_it(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    assert with_document(["run", "it.json"], "{\n}\n", "it.json") == "run /dev/stdin <<'RECIPE'\n{\n}\nRECIPE\n"
    monkeypatch.setattr(sys, "platform", "win32")
    said = with_document(["run", "it.json"], "{\n}\n", "it.json")
    assert said == "@'\n{\n}\n'@ | Set-Content it.json\nrun it.json\n"
