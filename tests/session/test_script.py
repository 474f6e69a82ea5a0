"""Python that does the same: run, it makes the very recipe it was made from."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import workbench as wb
from workbench.cli.main import _parser
from workbench.cli.settings import recipe_of
from workbench.hf.skeleton import open_source
from workbench.options import RefinedOptions
from workbench.recipe.recipe import Choice, Recipe, Rule, as_recipe
from workbench.session.script import command_of, python_of

G64 = wb.Int4WeightOnlyConfig(64, wb.TensorCoreTiledLayout(4), preserve_zero=True)
INT, TILES = wb.ZeroPointDomain.INT, wb.TensorCoreTiledLayout(4)
ROOT = Path(__file__).parents[2]
RECIPES = [
    Recipe(),
    Recipe(Choice(wb.Int4WeightOnlyConfig(group_size=64, use_hqq=True))),
    Recipe(
        Choice(wb.Int4WeightOnlyConfig(32, wb.TensorCoreTiledLayout(4), zero_point_domain=INT, preserve_zero=False))
    ),
    Recipe(Choice(wb.Int4WeightOnlyConfig(set_inductor_config=False), domain="symmetric")),
    Recipe(Choice(solver="hqq", domain="int")),
    Recipe(None, (Rule("q_proj", Choice()), Rule("re:.*mlp.*", None))),
    Recipe(output_head=True),
]


MANY = Recipe(
    Choice(wb.Int4WeightOnlyConfig(group_size=64), "refined", options=RefinedOptions(norm=1.5)),
    (
        Rule("layers.0", None),
        Rule("k_proj", Choice(wb.Int4WeightOnlyConfig(group_size=32, use_hqq=True))),
        Rule("re:.*down_proj", Choice(wb.Int4WeightOnlyConfig(256, zero_point_domain=INT, preserve_zero=False))),
        Rule("fqn:lm_head", Choice(domain="symmetric")),
    ),
)


class Recorder:
    """Stands in for the package: takes the real classes, and notes the calls."""

    Int4WeightOnlyConfig, ZeroPointDomain, TensorCoreTiledLayout, Recipe = (
        wb.Int4WeightOnlyConfig,
        wb.ZeroPointDomain,
        wb.TensorCoreTiledLayout,
        wb.Recipe,
    )

    def __init__(self):
        self.recipe = self.directory = None

    def demo_model(self):
        return "model", "tokenizer"

    def quantize_(self, model, recipe, **beside):
        assert model == "model"
        self.recipe = as_recipe(recipe, **beside)

    def save_checkpoint(self, model, directory, *, tokenizer):
        assert (model, tokenizer) == ("model", "tokenizer")
        self.directory = directory


@pytest.mark.parametrize("recipe", [*RECIPES, MANY])
def test_it_makes_the_recipe_that_it_was_made_from(recipe):
    text = python_of(open_source("demo"), recipe, "out dir/it's")
    head, _, body = text.partition("\n\n")
    assert head == "import workbench as wb"
    recorder = Recorder()
    exec(body, {"wb": recorder})
    assert recorder.recipe == recipe
    assert recorder.directory == "out dir/it's"


@pytest.mark.parametrize("recipe", [*RECIPES, Recipe(Choice(G64, "refined", "int"), output_head=True)])
def test_the_options_of_the_command_make_the_recipe_that_they_were_made_from(recipe):
    line = command_of(open_source("demo"), recipe, "out dir")
    if "<<" in line:
        assert recipe.rules or recipe.default.config in (RECIPES[2].default.config, RECIPES[3].default.config)
        return
    arguments = _parser().parse_args(shlex.split(line)[1:])
    assert recipe_of(arguments) == recipe and str(arguments.out) == "out dir"


def test_run_alone_it_gives_the_same_codes(tmp_path):
    model, tokenizer = wb.demo_model()
    wb.quantize_(model, MANY)
    wb.save_checkpoint(model, tmp_path / "here", tokenizer=tokenizer)
    script = tmp_path / "copied.py"
    script.write_text(python_of(open_source("demo"), MANY, tmp_path / "alone"), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "weights become int4: " in done.stdout
    here, alone = (load_file(tmp_path / name / "model.safetensors") for name in ("here", "alone"))
    assert here.keys() == alone.keys() and len(here) > 100
    assert all(torch.equal(here[name], alone[name]) for name in here)
    assert wb.load_checkpoint(tmp_path / "alone")[0].int4_recipe == MANY


def test_a_plain_recipe_is_a_plain_configuration():
    text = python_of(open_source("demo"), RECIPES[1])
    assert "cfg = wb.Int4WeightOnlyConfig(group_size=64, use_hqq=True)\n" in text
    assert "wb.quantize_(model, cfg)" in text


def test_a_calibration_text_is_read_and_passed_on():
    recipe = Recipe(Choice(wb.Int4WeightOnlyConfig(group_size=64), solver="calibrated"))
    text = python_of(open_source("demo"), recipe, "out", "wb.demo_calibration_text()")
    assert text.startswith("import workbench as wb\n\nmodel, tokenizer = wb.demo_model()\n")
    assert "text = wb.demo_calibration_text()\n" in text
    assert "wb.quantize_(model, cfg, solver='calibrated', calibration=text, tokenizer=tokenizer)" in text
    text = python_of(open_source("demo"), recipe, "out", "Path('a.txt').read_bytes().decode()")
    assert text.startswith("from pathlib import Path\n\nimport workbench as wb\n\n")
    compile(text, "cell", "exec")
