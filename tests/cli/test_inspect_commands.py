"""`workbench inspect` and `verify`: what a folder holds, and whether it is whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.cli.commands import SAFETENSORS
from workbench.cli.main import main


def test_inspect_shows_a_checkpoint_a_model_and_the_demo(says, checkpoint, model):
    table = says("inspect", checkpoint)
    assert "model.layers.0.mlp.down_proj" in table and " float " in table and "bfloat16" in table
    assert "14 of 27 weights become int4" in says("inspect", model)
    assert "lm_head" in says("inspect", "demo") and "tied to model.embed_tokens" in says("inspect", "demo")


def test_inspect_prints_json_for_both(says, checkpoint, model):
    assert json.loads(says("inspect", checkpoint, "--json"))["quant_method"] == "int4_workbench"
    data = json.loads(says("inspect", model, "--json", "--group-size", 32))
    assert len(data["rows"]) == 27 and data["after_bytes"] < data["before_bytes"]


def test_a_damaged_checkpoint_is_said_place_by_place(checkpoint, tmp_path, capsys):
    copy = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    data = bytearray((copy / SAFETENSORS).read_bytes())
    data[-1] ^= 1
    (copy / SAFETENSORS).write_bytes(data)
    assert main(["verify", str(copy)]) == 2
    out, error = capsys.readouterr()
    assert out.count("damaged: ") == 1 and "model.safetensors" in out
    last = error.splitlines()[-1]  # after the progress
    assert last.startswith("workbench: ") and "is damaged in 1 of " in last


def test_only_a_file_beside_the_weights_can_be_accepted(checkpoint, tmp_path, capsys):
    copy = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    (copy / "README.md").write_text("mine")
    assert main(["verify", str(copy)]) == 2
    assert f"or accept what you changed yourself: workbench verify {copy} --accept." in capsys.readouterr().err
    (copy / SAFETENSORS).write_bytes((copy / SAFETENSORS).read_bytes()[:-1] + b"?")
    assert main(["verify", str(copy)]) == 2
    assert "--accept" not in capsys.readouterr().err


def test_a_setting_for_what_is_int4_already_is_refused(checkpoint, fails):
    error = fails("inspect", checkpoint, "--group-size", 32, "--hqq")
    assert "--group-size, --hqq with what is int4 already" in error and "leave the settings away" in error


def test_a_file_that_is_no_checkpoint_is_said_to_be_one(fails, tmp_path):
    (tmp_path / "text.txt").write_text("words")
    error = fails("import", tmp_path / "text.txt", "--out", tmp_path / "out")
    assert "text.txt' is a file. Allowed: a checkpoint folder, or a GGUF file" in error and "damaged" not in error
