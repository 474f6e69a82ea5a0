"""The settings of a command line: recipe files and presets are followed; what cannot be is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.tiny_models import hushed
from workbench.config import Int4WeightOnlyConfig
from workbench.hf.loading import load_checkpoint
from workbench.options import RefinedOptions
from workbench.recipe.recipe import Choice, Recipe, Rule


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


# --- what cannot be ---------------------------------------------------------------------------------------------------


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
