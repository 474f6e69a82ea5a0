"""What tests of the command line share: a command that works, one that fails, a model and a checkpoint."""

from __future__ import annotations

import pytest

from tests.tiny_models import saved
from workbench.cli.main import main


@pytest.fixture
def fails(capsys):
    """Run a command that must fail; returns its one line."""

    def check(*arguments):
        assert main([str(argument) for argument in arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("workbench: ") and error.count("\n") == 1, error
        assert "Traceback" not in error
        return error

    return check


@pytest.fixture
def says(capsys):
    """Run a command that must work; returns what it printed."""

    def check(*arguments):
        assert main([str(argument) for argument in arguments]) == 0
        return capsys.readouterr().out

    return check


@pytest.fixture
def model(tmp_path):
    return saved("qwen2", tmp_path / "models")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "demo int4"
    assert main(["quantize", "demo", "--out", str(folder)]) == 0
    return folder
