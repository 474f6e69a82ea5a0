"""The command line: what each command prints and writes, and one clear line with code 2 for all bad input."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import workbench.checkpoint.writer as writer
import workbench.records.record as record
from tests.tiny_models import hushed, make, saved
from workbench.cli.main import _parser, main
from workbench.config import Int4WeightOnlyConfig
from workbench.export_formats import EXPORT_FORMATS
from workbench.hf.loading import load_checkpoint
from workbench.measure import speed
from workbench.measure.candidates import present_paths
from workbench.measure.speed import SpeedReport
from workbench.options import RefinedOptions
from workbench.recipe.recipe import Choice, Recipe, Rule
from workbench.targets import NATIVE, TARGETS

pytestmark = pytest.mark.usefixtures("quick_roofline")
ROOT = Path(__file__).parents[2]
SAFETENSORS = "model.safetensors"


def run(*arguments, **settings):
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "workbench", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, **settings)


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


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "demo int4"
    assert main(["quantize", "demo", "--out", str(folder)]) == 0
    return folder


# --- what works -----------------------------------------------------------------------------------------------------


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


def test_a_recipe_file_is_followed(says, model, tmp_path):
    recipe = Recipe(default=Choice(Int4WeightOnlyConfig(group_size=32), domain="symmetric")).with_rule("k_proj", None)
    recipe.save(tmp_path / "recipe.json")
    says("quantize", model, "--out", tmp_path / "int4", "--recipe", tmp_path / "recipe.json")
    loaded, _ = load_checkpoint(tmp_path / "int4")
    assert loaded.int4_recipe == recipe
    assert loaded.model.layers[0].mlp.up_proj.domain == "symmetric"
    assert "left out by pattern 'k_proj'" in says("inspect", model, "--recipe", tmp_path / "recipe.json")


def test_a_recipe_goes_from_file_to_checkpoint_and_back_unchanged(says, model, tmp_path):
    options = RefinedOptions(norm=1.5)
    recipe = Recipe(
        None,
        (
            Rule("layers.0.mlp", Choice(Int4WeightOnlyConfig(group_size=32, use_hqq=True))),
            Rule("re:.*mlp\\.up_proj", Choice(Int4WeightOnlyConfig(group_size=64), "refined", "int", options)),
            Rule("*.k_proj", None),
            Rule("fqn:re:.*\\.self_attn\\..*", Choice(domain="symmetric")),
        ),
    )
    recipe.save(tmp_path / "first.json")
    says("quantize", model, "--out", tmp_path / "int4", "--recipe", tmp_path / "first.json")
    written = json.loads((tmp_path / "int4" / "config.json").read_text())["quantization_config"]["recipe"]
    assert Recipe.from_json(written) == recipe
    loaded, _ = load_checkpoint(tmp_path / "int4")
    assert loaded.int4_recipe == recipe
    with hushed():
        loaded.save_pretrained(tmp_path / "again")
    load_checkpoint(tmp_path / "again")[0].int4_recipe.save(tmp_path / "second.json")
    assert (tmp_path / "second.json").read_bytes() == (tmp_path / "first.json").read_bytes()
    layers = loaded.model.layers
    assert (layers[0].mlp.up_proj.group_size, layers[1].mlp.up_proj.group_size) == (32, 64)
    assert layers[1].self_attn.q_proj.domain == "symmetric" and not hasattr(layers[1].self_attn.k_proj, "domain")


def test_a_preset_is_named_in_place_of_a_file(says, model, tmp_path, monkeypatch):
    (tmp_path / "small").write_text("a file that is called like a preset is ./small")
    monkeypatch.chdir(tmp_path)
    says("quantize", model, "--out", "int4", "--recipe", "small")
    assert load_checkpoint("int4")[0].int4_recipe == Recipe.preset("small")
    assert "g32 float refined" in says("inspect", "demo", "--recipe", "accurate")


def test_a_dry_run_writes_nothing(says, model, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    out = says("quantize", model, "--dry-run", "--out", tmp_path / "int4")
    assert "model.layers.0.mlp.up_proj" in out and "14 of 27 weights become int4" in out
    assert says("quantize", model, "--dry-run") == out
    assert sorted(tmp_path.rglob("*")) == before


def test_inspect_shows_a_checkpoint_a_model_and_the_demo(says, checkpoint, model):
    table = says("inspect", checkpoint)
    assert "model.layers.0.mlp.down_proj" in table and " float " in table and "bfloat16" in table
    assert "14 of 27 weights become int4" in says("inspect", model)
    assert "lm_head" in says("inspect", "demo") and "tied to model.embed_tokens" in says("inspect", "demo")


def test_inspect_prints_json_for_both(says, checkpoint, model):
    assert json.loads(says("inspect", checkpoint, "--json"))["quant_method"] == "int4_workbench"
    data = json.loads(says("inspect", model, "--json", "--group-size", 32))
    assert len(data["rows"]) == 27 and data["after_bytes"] < data["before_bytes"]


BENCH = ["bench", "-n", 64, "-k", 96, "--group-size", 32]


def test_a_benchmark_is_printed_and_written(says, tmp_path):
    out = says(*BENCH, "--batch-sizes", "1,4", "--dtypes", "bfloat16,float32", "--json", tmp_path / "b.json")
    lines = out.splitlines()
    assert lines[1].startswith("64 x 96, group size 32") and lines[2].startswith("roofline: ")
    assert out.count("chose") == out.count("int4 is ") == 2 and {"bfloat16", "float32"} <= set(lines)
    assert any(line.startswith("note: path by batch size") for line in lines)
    report = SpeedReport.from_json(json.loads((tmp_path / "b.json").read_text()))
    assert {point.batch for point in report.points} == {1, 4}
    assert {point.path for point in report.points} == set(present_paths("cpu"))
    assert set(report.roofline.matmul_gflop_per_s) == {"bfloat16", "float32"}


def test_a_benchmark_of_some_paths_as_csv(says, tmp_path):
    out = says(*BENCH, "--batch-sizes", "3", "--paths", "dense, op", "--csv", tmp_path / "b.csv")
    assert "dequantize " not in out and "chose" not in out
    rows = (tmp_path / "b.csv").read_text().splitlines()
    assert rows[0].startswith("device,device_name,path,dtype") and len(rows) == 3


def test_a_benchmark_says_when_nothing_compiles(says, monkeypatch):
    monkeypatch.setattr(speed, "compiler_problem", lambda device: "no compiler")
    out = says(*BENCH, "--batch-sizes", "1", "--compiled", "--paths", "int4")
    assert "note: nothing is measured compiled: torch.compile does not work here (no compiler)" in out


def test_a_benchmark_measures_batch_sizes_up_to_2048_when_none_are_given(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(speed.LinearBench, "run", lambda self, cancel: asked.append(self.batch_sizes) or iter(()))
    assert main(["bench"]) == 0
    assert asked == [(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--paths", "int5"], "no path 'int5'"),
        (["--paths", ","], "No path to measure"),
        (["--dtypes", "int8"], "'int8'"),
        (["--dtypes", ""], "No dtype"),
        (["--batch-sizes", "0,4"], "batch_sizes=[0, 4]"),
        (["--json", "no/such/folder/b.json"], "cannot be written"),
    ],
)
def test_a_benchmark_that_cannot_be_is_refused(fails, arguments, said):
    assert said in fails(*BENCH, *arguments)


def test_tokens_per_second_of_a_model_and_its_checkpoint(says, checkpoint, tmp_path):
    sizes = ["--prompt-tokens", 8, "--new-tokens", 2, "--rounds", 1]
    lines = says("throughput", "demo", checkpoint, *sizes, "--json", tmp_path / "t.json").splitlines()
    assert "prefill of 8" in lines[1] and len(lines) == 4
    assert lines[2].startswith("demo ") and lines[3].startswith(str(checkpoint)) and "tokens/s" in lines[3]
    found = json.loads((tmp_path / "t.json").read_text())["models"]
    assert [one["decode_runs"] for one in found] == [2, 2] and found[1]["weight_bytes"] < found[0]["weight_bytes"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["demo", "demo"], "'demo' is named twice"),
        (["no/such/model/at/all"], "'no/such/model/at/all' does not exist"),
        (["demo", "--rounds", 0], "rounds=0"),
        (["demo", "--prompt-tokens", 100_000], "prompt_tokens=100000"),
        (["demo", "--json", "no/such/folder/t.json"], "cannot be written"),
    ],
)
def test_tokens_per_second_that_cannot_be(fails, arguments, said):
    assert said in fails("throughput", *arguments)


def test_tuning_prints_the_table_and_where_it_is_kept(says, own_tables):
    out = says("tune", "-n", 32, "-k", 64, "--group-size", 32)
    assert out.startswith("int4 paths: measured on this machine")
    assert "\n32 × 64, group size 32, bfloat16: " in out
    assert str(own_tables / "paths-cpu.json") in out and (own_tables / "paths-cpu.json").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["-n", 0], "shape (0, 4096)"), (["--dtypes", "int8"], "dtype 'int8'"), (["nowhere"], "nowhere")],
)
def test_tuning_that_cannot_be_is_refused(fails, arguments, said):
    assert said in fails("tune", *arguments)


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
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    typed = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("workbench ")]
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


def test_a_report_is_one_file_under_a_recipe(model, tmp_path, capsys):
    Recipe.preset("accurate").save(tmp_path / "r.json")
    out = tmp_path / "report.html"
    assert main(["report", str(model), "--recipe", str(tmp_path / "r.json"), "--out", str(out)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert (
        said[-1].startswith(f"wrote {out}: ") and "smaller · weight error" in said[-2] and "dense on this" in said[-2]
    )
    text = out.read_text(encoding="utf-8")
    assert "14 of 14 int4 layers solved" in text and "Every weight" in text


def test_a_report_that_cannot_be(fails, model, tmp_path):
    assert "cannot be written" in fails("report", model, "--out", tmp_path)
    assert "no-such-model' does not exist" in fails("report", tmp_path / "no-such-model")
    assert "no calibration text" in fails("report", model, "--solver", "calibrated", "--out", tmp_path / "r.html")
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


# --- other engines' formats -----------------------------------------------------------------------------------------


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
    assert f"convert it: workbench import {exported} --out DIR" in shown
    held = json.loads(says("inspect", exported, "--json"))
    assert held["quant_method"] == "compressed-tensors" and len(held["modules"]) == 14
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
    for command in (["lab", exported], ["quantize", exported, "--out", tmp_path / "out"]):
        error = fails(*command)
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


# --- bad input: the model -------------------------------------------------------------------------------------------


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
    assert "quant_method 'hqq'. Allowed: int4_workbench, compressed-tensors, gptq" in fails("inspect", model)


# --- bad input: settings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["--group-size", "48"], "48 256 128 64 32"),
        (["--group-size", "0"], "0 256 128 64 32"),
        (["--domain", "complex"], "complex float int symmetric"),
        (["--solver", "magic"], "magic rtn hqq"),
        (["--hqq", "--domain", "symmetric"], "symmetric"),
        (["--hqq", "--solver", "rtn"], "rtn"),
        (["--inner-k-tiles", "3"], "3 2 4 8"),
        (["--include", "no_such_layer"], "no_such_layer matches none"),
        (["--exclude", "q_prj"], "q_prj did you mean q_proj"),
        (["--include", "re:("], "re:( regular expression"),
        (["--include", ""], "Empty pattern"),
        (["--include", "model.norm"], "no linear layer"),
        (["--exclude", "*"], "No layer becomes int4"),
        (["--min-coverage", "2"], "min_coverage 0 to 1"),
        (["--min-coverage", "1", "--include", "mlp"], "Only % Largest left out"),
        (["--recipe", "/no/such/recipe.json"], "/no/such/recipe.json cannot be read"),
    ],
)
def test_settings_that_cannot_be(settings, words, fails, model, tmp_path):
    error = fails("quantize", model, "--out", tmp_path / "out", *settings)
    for word in words.split():
        assert word in error, word
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "\xff", '{"format_version": 2}'),
        *(
            f'{{"format_version": 1, {part}}}'
            for part in (
                '"rulez": []',
                '"rules": 7',
                '"rules": [{}]',
                '"rules": [{"pattern": 3, "dense": true}]',
                '"rules": [{"pattern": "a", "group_size": "64"}]',
                '"default": 3',
                '"default": {"group_size": 48}',
                '"default": {"domain": ["int"]}',
                '"default": {"inner_k_tiles": null}',
                '"default": {"zero_point_domain": []}',
            )
        ),
    ],
)
def test_a_recipe_file_that_is_broken(text, fails, model, tmp_path):
    (tmp_path / "recipe.json").write_text(text, encoding="latin-1")
    fails("quantize", model, "--out", tmp_path / "out", "--recipe", tmp_path / "recipe.json")
    assert not (tmp_path / "out").exists()


def test_a_broken_recipe_file_names_its_line(fails, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("r.json").write_text('{\n  "format_version": 1,\n  "default": {\n    "group_size": 48\n  }\n}\n')
    error = fails("quantize", model, "--dry-run", "--recipe", "r.json")
    assert error.startswith("workbench: r.json, line 4: group_size=48 ") and "256, 128, 64 or 32" in error
    Path("r.json").write_text('{\n  "format_version": 1,\n  "rules": [\n    {"pattern": "re:("}\n  ]\n}\n')
    assert "r.json, line 4: The pattern 're:(' is not" in fails("quantize", model, "--dry-run", "--recipe", "r.json")


def test_a_recipe_that_is_neither_a_preset_nor_a_file(fails, model):
    error = fails("quantize", model, "--dry-run", "--recipe", "balancd")
    assert (
        "--recipe 'balancd' is neither a file nor a preset" in error
        and "'accurate' (" in error
        and "take 'balanced'" in error
    )
    assert "'./balanced' cannot be read" in fails("quantize", model, "--dry-run", "--recipe", "./balanced")


@pytest.mark.parametrize(
    "setting",
    [
        ["--group-size", 0],
        ["--domain", "int"],
        ["--solver", "rtn"],
        ["--hqq"],
        ["--preserve-zero", "no"],
        ["--inner-k-tiles", 8],
        ["--include", "mlp"],
        ["--exclude", "mlp"],
    ],
    ids=lambda setting: setting[0],
)
def test_no_setting_stands_beside_a_recipe(setting, fails, model):
    error = fails("quantize", model, "--dry-run", "--recipe", "balanced", *setting)
    assert f"--recipe was given together with {setting[0]}." in error


def test_a_recipe_with_settings_beside_it(fails, model, tmp_path):
    Recipe().save(tmp_path / "recipe.json")
    error = fails("quantize", model, "--dry-run", "--recipe", tmp_path / "recipe.json", "--hqq", "--group-size", 64)
    assert "--recipe was given together with --group-size, --hqq" in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-n", "0"], "0"),
        (["-k", "-5"], "-5"),
        (["--batch-sizes", "0"], "0"),
        (["--dtypes", "int9"], "int9 bfloat16"),
        (["--group-size", "48"], "48 32"),
        (["--json", "/no/such/folder/b.json"], "/no/such/folder/b.json"),
        (["--csv", "/"], "/"),
    ],
)
def test_benchmarks_that_cannot_be(arguments, words, fails):
    error = fails("bench", "-n", 64, "-k", 64, *arguments)
    assert all(word in error for word in words.split()), error


@pytest.mark.parametrize(
    ("arguments", "match"),
    [(["--tokens", "0"], "--tokens 0"), (["--tokens", "-3"], "--tokens -3")],
)
def test_generating_nothing(arguments, match, fails, checkpoint):
    assert match in fails("generate", checkpoint, "Hi", *arguments)
    assert "prompt is blank" in fails("generate", checkpoint, " ")


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


def test_a_measurement_that_cannot_be_kept_names_its_file(tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(record, "write_json", full)
    assert main([*map(str, BENCH), "--batch-sizes", "1", "--paths", "dense", "--json", str(tmp_path / "b.json")]) == 2
    assert "b.json' was not written: No space left on device." in capsys.readouterr().err.splitlines()[-1]


# --- bad input: the place to write to -------------------------------------------------------------------------------


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


# --- Ctrl-C ---------------------------------------------------------------------------------------------------------


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
