"""The command line as a whole: help, the terminal, and what every command says of a model that it cannot open."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys

import pytest

from tests.cli.commands import ROOT, SAFETENSORS, run
from workbench.cli.main import _parser, main

COMMANDS = "lab quantize export targets import inspect report verify generate bench throughput tune".split()


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_is_readable(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: workbench") and "None" not in text
    assert max(map(len, text.splitlines())) <= 120


def test_the_readme_shows_every_command_as_one_types_it():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.findall(r"^(?:\| `)?(workbench [^`\n]+?)(?:` \||$)", text, re.MULTILINE)
    assert not any("#" in line for line in found)  # which zsh and cmd hand on as a word
    typed = [shlex.split(line)[1:] for line in found]
    commands = {_parser().parse_args(words).command.__name__.rstrip("_") for words in typed}
    assert commands == set(COMMANDS)


def test_help_and_version_load_nothing_heavy():
    code = (
        "import sys; from workbench.cli.main import main\n"
        "try: main(['--version'])\n"
        "finally: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout.splitlines()[0].startswith("int4-workbench 0.") and done.stdout.splitlines()[-1] == "False"


def test_a_terminal_that_knows_only_ascii_is_no_hindrance(model):
    done = run("inspect", model, env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert done.returncode == 0 and "?" in done.stdout


def test_a_reader_that_has_seen_enough_is_no_error(model):
    script = f"{sys.executable} -m workbench inspect {model} | head -n 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", script], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_no_command_lists_the_commands(capsys):
    assert main([]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("usage: workbench") and "open the workbench in JupyterLab" in said.err


@pytest.mark.parametrize(
    "arguments",
    [["quantise"], ["quantize"], ["quantize", "demo", "--group-size", "many"], ["bench", "--batch-sizes", "1,x"]],
)
def test_argparse_says_the_rest(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: workbench" in capsys.readouterr().err


def test_an_unknown_option_is_said_with_the_usage_of_its_own_command(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["quantize", "demo", "--grop-size", "32"])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and "usage: workbench quantize" in said and "--group-size GROUP_SIZE" in said
    assert "workbench quantize: error: unrecognized arguments: --grop-size 32" in said


@pytest.mark.parametrize("command", [["quantize", "--out", "OUT"], ["inspect"], ["lab"]])
def test_a_model_that_does_not_exist(command, fails, tmp_path):
    name, *rest = (str(tmp_path / "out") if part == "OUT" else part for part in command)
    error = fails(name, tmp_path / "no-such-model", *rest)
    assert "no-such-model' does not exist. Allowed: a model folder, a hub name such as 'org/name', or 'demo'" in error
    assert list(tmp_path.iterdir()) == []


def test_a_directory_without_config(fails, tmp_path):
    (tmp_path / "empty").mkdir()
    for command in (["quantize", tmp_path / "empty", "--out", tmp_path / "out"], ["inspect", tmp_path / "empty"]):
        assert "has no config.json" in fails(*command)
    for command in ("verify", "generate"):
        assert "config.json' does not exist" in fails(command, tmp_path / "empty", *(["Hi"] * (command == "generate")))
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


@pytest.mark.parametrize("content", [b"", b"not safetensors at all" * 40, None])
def test_a_file_that_is_no_safetensors_or_is_cut(content, fails, model, tmp_path):
    whole = (model / SAFETENSORS).read_bytes()
    (model / SAFETENSORS).write_bytes(whole[:-1] if content is None else content)
    for command in (["quantize", model, "--out", tmp_path / "out"], ["inspect", model], ["lab", model]):
        error = fails(*command)
        assert str(model / SAFETENSORS) in error and "no readable safetensors file" in error and "To mend it" in error
    assert not (tmp_path / "out").exists()
