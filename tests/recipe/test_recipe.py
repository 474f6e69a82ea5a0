"""Recipes: patterns, order, JSON both ways, and errors that name what is wrong."""

import json

import pytest

from tests.recipe.names import NAMES
from workbench.config import Int4WeightOnlyConfig, TensorCoreTiledLayout, ZeroPointDomain
from workbench.errors import ConfigError, PatternError
from workbench.recipe.recipe import Choice, Recipe, Rule, as_recipe, matches

G64 = Choice(Int4WeightOnlyConfig(group_size=64, use_hqq=True))


def test_the_first_matching_rule_decides():
    recipe = Recipe(rules=(Rule("layers.0", None), Rule("q_proj", G64)))
    assert recipe.decide("model.layers.0.self_attn.q_proj") == (None, "pattern 'layers.0'")
    assert recipe.decide("model.layers.1.self_attn.q_proj") == (G64, "pattern 'q_proj'")
    assert recipe.decide("model.layers.1.mlp.up_proj") == (recipe.default, "default")


def test_with_rule_goes_first_and_replaces_its_older_self():
    recipe = Recipe(rules=(Rule("a", None), Rule("b", None))).with_rule("b", G64)
    assert recipe.rules == (Rule("b", G64), Rule("a", None))


def test_a_pattern_that_matches_nothing_suggests_the_nearest():
    with pytest.raises(PatternError, match=r"'q_porj' matches none of the 38 weights.*'q_proj'"):
        Recipe(rules=(Rule("q_porj", None),)).check(NAMES)


def test_include_and_exclude():
    recipe = as_recipe(Int4WeightOnlyConfig(), include=["self_attn"], exclude="k_proj")
    assert recipe.decide("model.layers.0.self_attn.q_proj")[0] is not None
    assert recipe.decide("model.layers.0.self_attn.k_proj")[0] is None
    assert recipe.decide("model.layers.0.mlp.up_proj")[0] is None


def test_a_recipe_takes_no_second_set_of_settings():
    with pytest.raises(ConfigError, match="holds its own patterns"):
        as_recipe(Recipe(), include="q_proj")
    with pytest.raises(ConfigError, match="neither a configuration nor a recipe"):
        as_recipe("q_proj")
    with pytest.raises(ConfigError, match=r"'group_size': int 64 is no int4.*Recipe\.from_json"):
        as_recipe({"group_size": 64})


def test_json_both_ways(tmp_path):
    full = Choice(
        Int4WeightOnlyConfig(
            group_size=32,
            layout=TensorCoreTiledLayout(4),
            use_hqq=True,
            zero_point_domain=ZeroPointDomain.INT,
            preserve_zero=False,
        ),
        solver="hqq",
    )
    symmetric = Choice(Int4WeightOnlyConfig(), domain="symmetric", solver="rtn")
    recipe = Recipe(symmetric, (Rule("lm_head", None), Rule("re:.*q_proj", full), Rule("*", G64)), output_head=True)
    recipe.save(tmp_path / "r.json")
    assert Recipe.load(tmp_path / "r.json") == recipe
    assert Recipe.from_json(json.loads(json.dumps(Recipe(None).to_json()))) == Recipe(None)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "A recipe is an object"),
        ({}, "format_version None.*add"),
        ({"format_version": True}, "format_version True"),
        ({"format_version": 9}, "format_version 9"),
        ({"format_version": 1, "extra": 1}, "recipe.extra: Unknown setting 'extra'"),
        ({"format_version": 1, "rules": [{"dense": True}]}, "has no pattern"),
        ({"format_version": 1, "rules": [{"pattern": "a", "dense": True, "group_size": 64}]}, "is dense and has"),
        (
            {"format_version": 1, "rules": [{"pattern": "a", "group_sise": 64}]},
            r"rules\[0\].group_sise: Unknown setting 'group_sise'.*write 'group_size'",
        ),
        ({"format_version": 1, "default": {"group_size": 48}}, "group_size=48"),
        ({"format_version": 1, "default": {"zero_point_domain": "float"}}, "zero_point_domain='float'"),
        ({"format_version": 1, "default": {"solver": "magic"}}, "solver='magic'"),
        ({"format_version": 1, "default": {"solver": "magic", "solver_options": {}}}, "solver='magic'"),
        ({"format_version": 1, "default": {"solver_options": {"norm": 1}}}, "with solver='rtn'"),
        (
            {"format_version": 1, "default": {"solver": "refined", "solver_options": {"nrom": 1}}},
            r"recipe.default.solver_options.nrom: Unknown option 'nrom' of the solver 'refined'.*write 'norm'",
        ),
        ({"format_version": 1, "default": {"solver": "calibrated", "solver_options": {"sweeps": -1}}}, "sweeps=-1"),
    ],
)
def test_bad_recipes_are_named(data, message):
    with pytest.raises((ConfigError, PatternError), match=message):
        Recipe.from_json(data)


def test_bad_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        Recipe.load(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text('{\n"format_version": 1,\n oops}')
    with pytest.raises(ConfigError, match="line 3"):
        Recipe.load(tmp_path / "bad.json")


@pytest.mark.parametrize("name", ["lm_head", "model.layers.1.self_attn.q_proj", "model.layers.10.mlp.up_proj"])
def test_matching_finds_the_rules_that_match_one_by_one(name):
    patterns = [*NAMES, "q_proj", "re:.*\\.1\\..*", "layers.1", "*.mlp.*", "proj", "model", "layers.1", "mlp.up_proj"]
    recipe = Recipe(rules=tuple(Rule(pattern, None) for pattern in patterns))
    assert recipe.matching(name) == [place for place, pattern in enumerate(patterns) if matches(pattern, name)]


def test_a_repr_makes_the_recipe_again():
    recipe = Recipe(Choice(Int4WeightOnlyConfig(64), solver="hqq"), (Rule("mlp", None),), output_head=True)
    assert eval(repr(recipe)) == recipe and len(repr(recipe)) < 200
