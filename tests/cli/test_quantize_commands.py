"""`workbench quantize` and `generate`: what is made and said, and how little is left where it fails or is stopped."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import workbench.checkpoint.writer as writer
from tests.cli.commands import ROOT, SAFETENSORS, run
from tests.tiny_models import hushed, make, saved
from workbench.cli.main import main
from workbench.hf.loading import load_checkpoint


def test_from_demo_to_text_in_processes_of_their_own(says, tmp_path):
    out = tmp_path / "missing" / "parent" / "int4"
    made = run("quantize", "demo", "--out", out, "--hqq", "--group-size", 32)
    assert made.returncode == 0, made.stderr
    assert "weights become int4: " in made.stdout
    assert f"wrote {out}" in made.stdout and "of round-to-nearest's)" in made.stdout
    assert "100%" in made.stderr
    assert "whole (" in says("verify", out)
    told = run("generate", out, "The module provides", "--tokens", 12)
    assert told.returncode == 0 and told.stdout.startswith("The module provides") and told.stderr == ""
    shown = says("inspect", out)
    assert "LlamaForCausalLM, format 1.0" in shown and "made by int4-workbench" in shown


def test_every_setting_reaches_the_checkpoint(says, model, tmp_path):
    out = tmp_path / "int4"
    says("quantize", model, "--out", out, "--group-size", 32, "--domain", "int", "--preserve-zero", "no")
    loaded, _ = load_checkpoint(out)
    layer = loaded.model.layers[0].mlp.up_proj
    assert (layer.group_size, layer.domain) == (32, "int")
    says(
        "quantize", model, "--out", out, "--overwrite", "--include", "mlp", "--exclude", "down_proj", "--solver", "hqq"
    )
    names = set(load_checkpoint(out)[0].config.quantization_config.settings["modules"])
    assert {name.rsplit(".", 1)[-1] for name in names} == {"gate_proj", "up_proj"}


def test_the_tied_head_can_be_included(says, model, tmp_path):
    out = says("quantize", model, "--out", tmp_path / "int4", "--include", "lm_head", "--group-size", 32)
    assert "lm_head is untied" in out
    assert load_checkpoint(tmp_path / "int4")[0].config.tie_word_embeddings is False


def test_a_dry_run_writes_nothing(says, model, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    out = says("quantize", model, "--dry-run", "--out", tmp_path / "int4")
    assert "model.layers.0.mlp.up_proj" in out and "14 of 27 weights become int4" in out
    assert says("quantize", model, "--dry-run") == out
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "match"),
    [(["--tokens", "0"], "--tokens 0"), (["--tokens", "-3"], "--tokens -3")],
)
def test_generating_nothing(arguments, match, fails, checkpoint):
    assert match in fails("generate", checkpoint, "Hi", *arguments)
    assert "prompt is blank" in fails("generate", checkpoint, " ")


# --- the model --------------------------------------------------------------------------------------------------------


def test_a_missing_shard(fails, tmp_path):
    with hushed():
        make("qwen2").save_pretrained(tmp_path / "model", max_shard_size="40KB")
    next(iter(sorted((tmp_path / "model").glob("model-00002*")))).unlink()
    assert "model-00002-of" in fails("quantize", tmp_path / "model", "--out", tmp_path / "out")


def test_nan_weights_are_named_and_nothing_is_written(fails, model, tmp_path, capsys):
    tensors = load_file(model / SAFETENSORS)
    tensors["model.layers.1.mlp.down_proj.weight"][3, 5] = float("nan")
    save_file(tensors, model / SAFETENSORS, metadata={"format": "pt"})
    assert main(["quantize", str(model), "--out", str(tmp_path / "deep" / "out")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("workbench: model.layers.1.mlp.down_proj[3, 5] is nan") and "exclude pattern" in error
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def test_a_model_with_nothing_to_quantize(fails, tmp_path):
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1])
    with hushed():
        transformers.ResNetModel(config).save_pretrained(tmp_path / "convolutions")
    assert "has no linear layer" in fails("quantize", tmp_path / "convolutions", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_quantized_already_or_by_others(fails, checkpoint, model, tmp_path):
    assert "quantized already" in fails("quantize", checkpoint, "--out", tmp_path / "out")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    assert "has bits None. Allowed: 4" in fails("inspect", model)
    (model / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "hqq"}}))
    assert "quantized by hqq, whose format is not read here" in fails("inspect", model)


# --- the place to write to --------------------------------------------------------------------------------------------


def test_places_that_cannot_be_written(fails, model, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    quantize = ("quantize", model, "--overwrite", "--out")
    assert "no folder to write" in fails("quantize", model).lower()
    assert "is a file" in fails(*quantize, tmp_path / "file")
    assert "not written" in fails(*quantize, tmp_path / "file" / "out")
    assert "not empty" in fails("quantize", model, "--out", tmp_path / "full")
    assert "the model that is read" in fails(*quantize, model)
    assert "the model that is read" in fails(*quantize, tmp_path / "models")
    monkeypatch.chdir(tmp_path / "models")
    assert "holds the working folder" in fails(*quantize, tmp_path)
    assert "no checkpoint" in fails(*quantize, tmp_path / "full")
    assert (tmp_path / "full" / "thesis.txt").read_text() == (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("command", [["quantize"], ["export", "--format", "gguf"]], ids=["quantize", "export"])
def test_a_folder_that_is_there_is_refused_before_the_model_is_read(command, fails, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    error = fails(*command, tmp_path / "no such model", "--out", tmp_path / "full")
    assert "exists and is not empty" in error and "--overwrite" in error


def test_a_full_disk_is_said_before_the_work_and_while_writing(model, tmp_path, monkeypatch, capsys):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10))
    assert main(["quantize", str(model), "--out", str(tmp_path / "out")]) == 2
    assert "its disk has 10 B free" in capsys.readouterr().err
    monkeypatch.undo()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "save_file", full)
    assert main(["quantize", str(model), "--out", str(tmp_path / "out")]) == 2
    assert "the disk is full" in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """A folder of a model with many small layers, so that quantizing it takes seconds."""
    torch.manual_seed(0)
    return saved("qwen2", tmp_path_factory.mktemp("deep"), num_hidden_layers=100, layer_types=None)


@pytest.mark.parametrize("existing", [False, True])
def test_ctrl_c_in_the_middle_leaves_what_was_there(existing, deep, checkpoint, tmp_path):
    out = tmp_path / "out"
    if existing:
        shutil.copytree(checkpoint, out)
    command = [sys.executable, "-m", "workbench", "quantize", deep, "--out", out, "--overwrite", "--hqq"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    for line in process.stderr:
        if "model.layers." in line:
            break
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    assert error.splitlines()[-1] == "workbench: stopped; nothing was half-written"
    assert "Traceback" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["out"][:existing]
    assert not existing or main(["verify", str(out)]) == 0


def test_a_model_without_a_tokenizer_is_said_to_have_none(says, fails, model, tmp_path):
    out = tmp_path / "out"
    assert "note: the folder has no tokenizer" in says("quantize", model, "--out", out, "--group-size", 32)
    assert "has no tokenizer, or its model generates no text" in fails("generate", out, "Hi")
