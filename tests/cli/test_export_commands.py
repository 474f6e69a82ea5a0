"""`workbench export`, `targets` and `import`: other engines' formats, there and back."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch

import workbench.checkpoint.writer as writer
from tests.cli.commands import SAFETENSORS
from tests.tiny_models import saved
from workbench.cli.main import main
from workbench.export_formats import EXPORT_FORMATS
from workbench.targets import NATIVE, TARGETS


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model of the int domain as compressed-tensors."""
    folder = tmp_path_factory.mktemp("exported")
    model = saved("qwen2", folder / "models", torch.bfloat16)
    settings = ["--group-size", "32", "--domain", "int"]
    assert main(["export", str(model), "--format", "compressed-tensors", "--out", str(folder / "ct"), *settings]) == 0
    return folder / "ct"


def test_an_export_says_all_that_a_person_needs(says, model, tmp_path):
    out = says("export", model, "--format", "mlx", "--out", tmp_path / "mlx", "--group-size", 32, "--exclude", "k_proj")
    lines = out.splitlines()
    assert "weights become int4: " in lines[0] and "mlx: rounded: " in out and "of round-to-nearest's)" in out
    assert f"wrote {tmp_path / 'mlx'} (mlx): " in out and "max |Δw|" in out
    assert lines[lines.index("load it (Python):") + 1] == "    from mlx_lm import load"
    assert "whole (" in says("verify", tmp_path / "mlx")
    (tmp_path / "mlx" / "README.md").write_text("# Mine\n")
    assert "README.md accepted as changed" in says("verify", tmp_path / "mlx", "--accept")
    assert "whole (" in says("verify", tmp_path / "mlx")
    shown = says("inspect", tmp_path / "mlx")
    assert shown.startswith("qwen2 as mlx, made by int4-workbench") and "12 int4 modules" in shown
    assert json.loads(says("inspect", tmp_path / "mlx", "--json"))["target"] == "mlx"


def test_a_checkpoint_goes_to_another_library_and_back_code_by_code(says, exported, tmp_path):
    shown = says("inspect", exported)
    assert "model.layers.0.mlp.up_proj" in shown and "compressed-tensors, 14 int4 modules" in shown
    assert " stored, " in shown and " as native" in shown
    assert f"convert it: workbench import {exported} --out DIR" in shown
    held = json.loads(says("inspect", exported, "--json"))
    assert held["quant_method"] == "compressed-tensors" and len(held["modules"]) == 14
    assert held["stored_bytes"] == (exported / SAFETENSORS).stat().st_size
    assert f"wrote {tmp_path / 'native'} (native): " in says("import", exported, "--out", tmp_path / "native")
    assert "whole (" in says("verify", tmp_path / "native") and " int " in says("inspect", tmp_path / "native")
    says("export", tmp_path / "native", "--format", "compressed-tensors", "--out", tmp_path / "again")
    assert (tmp_path / "again" / SAFETENSORS).read_bytes() == (exported / SAFETENSORS).read_bytes()


def test_a_gguf_file_is_looked_at_by_itself_or_in_its_folder(says, tmp_path):
    says("export", "demo", "--format", "gguf", "--out", tmp_path / "gguf", "--include", "layers.0.mlp")
    [file] = (tmp_path / "gguf").glob("*.gguf")
    assert says("inspect", file) == says("inspect", tmp_path / "gguf")
    assert "gguf, 3 int4 modules" in says("inspect", file)
    assert json.loads(says("inspect", file, "--json"))["quant_method"] == "gguf"


def test_the_table_of_formats_is_printed_and_json(says, model, exported):
    assert list(EXPORT_FORMATS) == [NATIVE, *TARGETS]
    assert {name: target.engines for name, target in TARGETS.items()}.items() <= EXPORT_FORMATS.items()
    table = says("targets", model, "--group-size", 32)
    assert "compressed-tensors" in table and "zero_point_domain float in 14 layers: it holds int" in table
    rows = json.loads(says("targets", exported, "--json"))
    assert [row["format"] for row in rows] == list(EXPORT_FORMATS)
    assert {row["fit"] for row in rows} <= {"exact", "rounded", "refused"}
    assert next(row for row in rows if row["format"] == "compressed-tensors")["fit"] == "exact"


def test_the_help_names_the_formats_and_what_loads_them(capsys):
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert all([name, engines] in lines for name, engines in EXPORT_FORMATS.items())


def test_an_unknown_format_is_refused_before_anything_is_read(fails, tmp_path):
    error = fails("export", tmp_path / "nowhere", "--format", "onnx", "--out", tmp_path / "out")
    assert "format='onnx' is no export target" in error and "native, compressed-tensors, gguf, mlx" in error


def test_a_format_that_cannot_hold_the_recipe_says_what_would(fails, says, model, tmp_path):
    out = ("--format", "gptq", "--out", tmp_path / "out")
    error = fails("export", model, *out, "--group-size", 32)
    assert "gptq cannot hold zero_point_domain float in 14 layers" in error and "Allowed: int or symmetric" in error
    assert "To mend it: quantize these layers again from the original weights with domain='int'" in error
    assert [path.name for path in tmp_path.iterdir()] == ["models"]
    assert "(gptq)" in says("export", model, *out, "--group-size", 32, "--domain", "int")


def test_an_export_calibrates_on_the_text(says, model, tmp_path, capsys):
    (tmp_path / "text.txt").write_text("The module provides a class for paths. " * 70)
    rest = ("--format", "native", "--out", tmp_path / "out", "--include", "layers.0.mlp.up_proj")
    assert main(["export", str(model), *map(str, rest), "--solver", "calibrated"]) == 2
    assert "there is no calibration text" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()
    out = says("export", "demo", *rest, "--solver", "calibrated", "--calibration", tmp_path / "text.txt")
    assert "mean squared output error" in out and "wrote " in out
    assert out.count("tokens are used") == 1


def test_places_that_an_export_or_import_cannot_have(fails, says, exported, model, tmp_path):
    shutil.copytree(exported, tmp_path / "ct")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    export = ("export", model, "--format", "mlx", "--group-size", 32, "--out")
    assert "exists and is not empty" in fails(*export, tmp_path / "ct")
    assert "no checkpoint" in fails(*export, tmp_path / "mine", "--overwrite")
    assert "the model that is read" in fails(*export, model, "--overwrite")
    assert "the model that is read" in fails("import", tmp_path / "ct", "--out", tmp_path / "ct", "--overwrite")
    assert (model / SAFETENSORS).exists() and (tmp_path / "mine" / "thesis.txt").exists()
    assert "(mlx)" in says(*export, tmp_path / "ct", "--overwrite")


def test_what_is_int4_already_takes_no_recipe_and_what_is_dense_is_no_import(fails, exported, model, tmp_path):
    again = ("export", exported, "--format", "mlx", "--out", tmp_path / "out")
    assert "int4 already" in fails(*again, "--group-size", 32)
    assert "dense ones are quantized, not imported" in fails("import", model, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_int4_folder_of_another_library_says_how_it_comes_in(fails, exported, tmp_path):
    error = fails("quantize", exported, "--out", tmp_path / "out")
    assert "is quantized already, by compressed-tensors" in error
    assert f"workbench import {exported} --out DIR" in error and "wb.import_checkpoint(" in error
    assert f"workbench import {exported} --out DIR" in fails("generate", exported, "Hi")


def test_a_damaged_export_is_named_file_by_file(fails, exported, tmp_path):
    copy = Path(shutil.copytree(exported, tmp_path / "ct"))
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    (copy / "more.bin").write_bytes(b"x")
    error = fails("verify", copy)
    assert "config.json: has " in error and "more.bin: not in the record" in error


@pytest.mark.parametrize("format", ["native", "mlx"])
def test_ctrl_c_in_an_export_leaves_nothing(format, model, tmp_path, monkeypatch, capsys):
    add = writer.ShardWriter.add

    def interrupted(self, tensors):
        if any(".mlp." in name for name in tensors):
            signal.raise_signal(signal.SIGINT)
        add(self, tensors)

    monkeypatch.setattr(writer.ShardWriter, "add", interrupted)
    command = ["export", str(model), "--format", format, "--out", str(tmp_path / "out"), "--group-size", "32"]
    assert main(command) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "workbench: stopped; nothing was half-written"
    assert [path.name for path in tmp_path.iterdir()] == ["models"]
