"""Presets: each makes a recipe, is what its line says, and stands where its name promises."""

import re

import pytest

import workbench as wb
from workbench.affine import group_count
from workbench.errors import ConfigError
from workbench.recipe.presets import PRESETS, preset_settings
from workbench.recipe.recipe import Recipe


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_whole_recipe_file_and_its_line_says_its_bits(name, tmp_path):
    recipe = Recipe.preset(name)
    assert recipe.to_json() == preset_settings(name)
    recipe.save(tmp_path / "r.json")
    assert Recipe.load(tmp_path / "r.json") == recipe
    config = recipe.default.resolved("cpu")
    scale_bits = 32 * group_count(4096, config.group_size) / 4096
    said = float(re.search(r"([0-9.]+) bits", Recipe.presets()[name]).group(1))
    assert config.domain == "float" and said == pytest.approx(4 + scale_bits, abs=0.05)
    assert name in Recipe.preset.__doc__


def test_presets_keep_their_order_of_size():
    size = {name: wb.preflight("demo", Recipe.preset(name)).after_bytes for name in PRESETS}
    assert size["small"] < size["balanced"] == size["calibrated"] < size["accurate"]


def test_presets_keep_their_order_of_error():
    def error(name):
        model, _ = wb.demo_model()
        report = wb.quantize_(model, Recipe.preset(name))
        return sum(layer.error for layer in report.layers if layer.name != "lm_head")

    assert error("accurate") < error("balanced") < error("fast") < error("small")


def test_only_fast_takes_the_output_head():
    assert [name for name in PRESETS if Recipe.preset(name).output_head] == ["fast"]
    heads = wb.preflight("demo", Recipe.preset("fast")).int4_rows
    assert heads[-1].kind == "output_head"


@pytest.mark.parametrize(("name", "near"), [("balancd", "take 'balanced'"), ("x", "name one of them"), (3, "name one")])
def test_an_unknown_preset_lists_them_all(name, near):
    with pytest.raises(ConfigError, match=near) as caught:
        Recipe.preset(name)
    assert all(f"{known!r} ({one.good_for})" in str(caught.value) for known, one in PRESETS.items())
