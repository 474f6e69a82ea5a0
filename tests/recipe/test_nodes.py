"""One rule for a node of the module tree: it catches exactly the node's layers, and reads as one would write it."""

import random
import re

import pytest

from workbench.config import Int4WeightOnlyConfig
from workbench.errors import ConfigError
from workbench.recipe.edit import LayerNames
from workbench.recipe.nodes import NodeNames, node_pattern, rules_said, with_dense, with_int4
from workbench.recipe.recipe import Choice, Recipe, Rule, matches

PARTS = ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj", "mlp.down_proj")
NAMES = [*(f"model.layers.{i}.{part}" for i in range(32) for part in PARTS), "lm_head"]
LAYERS = LayerNames(NAMES)
G32, G64 = (Choice(Int4WeightOnlyConfig(group_size=size)) for size in (32, 64))
SYMMETRIC = Choice(Int4WeightOnlyConfig(group_size=64), domain="symmetric")


def under(start, names=NAMES):
    return [name for name in names if name.startswith(start)]


def blocks(indices, part=""):
    return [name for name in NAMES if any(f".layers.{i}." in name for i in indices) and part in name]


def caught(pattern, names=NAMES):
    return {name for name in names if matches(pattern, name)}


@pytest.mark.parametrize(
    ("wanted", "glob", "pattern"),
    [
        (under("model"), "model.*", "model.*"),
        (under("model"), "model.layers.*", "model.layers.*"),
        (blocks(range(32), "mlp"), "model.layers.*.mlp.*", "model.layers.*.mlp.*"),
        (blocks(range(32), "q_proj"), "model.layers.*.self_attn.q_proj", "model.layers.*.self_attn.q_proj"),
        (blocks([7]), "model.layers.7.*", "model.layers.7.*"),
        (["lm_head"], "lm_head", "lm_head"),
        (blocks(range(4, 32)), "model.layers.*", r"re:model\.layers\.(?:[4-9]|1[0-9]|2[0-9]|3[01])\..*"),
        (blocks([0, 2, 5], "mlp"), "model.layers.*.mlp.*", r"re:model\.layers\.[025]\.mlp\..*"),
        (blocks([30], "q_proj"), "", "model.layers.30.self_attn.q_proj"),
    ],
)
def test_the_pattern_is_the_glob_wherever_that_suffices(wanted, glob, pattern):
    assert node_pattern(NAMES, wanted, glob) == pattern
    assert caught(pattern) == set(wanted)


def test_a_head_below_the_node_is_not_caught():
    names = [name.replace("model.", "text.model.") for name in under("model")] + ["text.lm_head"]
    wanted = names[:-1]
    assert node_pattern(names, wanted, "text.*") == "text.model.layers.*"
    assert caught("text.model.layers.*", names) == set(wanted)


def test_names_with_characters_of_patterns_get_a_pattern_all_the_same():
    names = ["a[1].x", "a[1].y", "a1.x", "b*.x", "bb.x", "", "x.a[1].x"]
    for wanted in (["a[1].x", "a[1].y"], ["b*.x"], [""], ["a1.x", "bb.x"]):
        glob = f"{wanted[0].split('.')[0]}.*"
        assert caught(node_pattern(names, wanted, glob), names) == set(wanted)


@pytest.mark.parametrize("seed", range(30))
def test_any_layers_get_one_pattern_that_catches_them_and_no_other(seed):
    chance = random.Random(seed)
    wanted = chance.sample(NAMES, chance.randint(1, len(NAMES)))
    glob = chance.choice(["", "model.layers.*", "model.layers.*.mlp.*", "lm_head", "*"])
    assert caught(node_pattern(NAMES, wanted, glob)) == set(wanted)


@pytest.mark.parametrize("seed", range(30))
def test_indices_are_written_exactly(seed):
    chance = random.Random(seed)
    names = [f"h.{i}.w" for i in range(120)]
    wanted = [f"h.{i}.w" for i in chance.sample(range(120), chance.randint(2, 110))]
    pattern = node_pattern(names, wanted, "h.*.w")
    assert {name for name in names if re.fullmatch(pattern.removeprefix("re:"), name)} == set(wanted)
    assert "h\\.1\\.w|" not in pattern


def test_a_node_gets_one_rule_in_front_and_drops_those_that_it_overrules():
    recipe = Recipe(G64, (Rule("layers.3.mlp", None), Rule("lm_head", G32)))
    edited = with_dense(recipe, LAYERS, blocks(range(32), "mlp"), "model.layers.*.mlp.*")
    assert edited.rules == (Rule("model.layers.*.mlp.*", None), Rule("lm_head", G32))
    again = with_int4(edited, LAYERS, under("model"), [], group_size=32, glob="model.layers.*")
    assert again.rules == (Rule("model.layers.*", G32), Rule("lm_head", G32))


def test_a_rule_of_a_node_has_the_settings_that_most_of_its_layers_have():
    recipe = Recipe(G64, (Rule("self_attn", SYMMETRIC), Rule("layers.1", None)))
    attention = blocks(range(32), "self_attn")
    int4 = [name for name in NAMES if recipe.decide(name)[0] is not None]
    edited = with_int4(recipe, LAYERS, attention, int4, group_size=32, glob="model.layers.*.self_attn.*")
    assert edited.rules[0].choice.domain == "symmetric"
    assert edited.rules[0].choice.config.group_size == 32
    assert with_int4(Recipe(None), LAYERS, ["lm_head"], [], glob="lm_head").rules == (Rule("lm_head", Choice()),)


def test_without_a_glob_each_layer_keeps_its_other_settings():
    recipe = Recipe(G64, (Rule("q_proj", SYMMETRIC),))
    wanted = blocks([0], "self_attn")
    edited = with_int4(recipe, LAYERS, wanted, NAMES, group_size=32)
    assert edited.decide(wanted[0])[0].domain == "symmetric"
    assert edited.decide(wanted[1])[0] == G32
    assert with_int4(recipe, LAYERS, wanted, NAMES) == recipe
    assert with_dense(recipe, LAYERS, wanted).decide(wanted[0])[0] is None


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ConfigError):
        with_int4(Recipe(G64), LAYERS, ["lm_head"], [], group_size=7, glob="lm_head")


def test_a_change_is_said():
    before = Recipe(G64, (Rule("layers.3", None),))
    after = with_dense(before, LAYERS, under("model"), "model.layers.*")
    assert rules_said(before, after) == "1 rule added (model.layers.*: dense), 1 dropped"
    assert rules_said(before, before) == "no change"
    three = Recipe(G64, (Rule("a", G32), Rule("b", None), Rule("c", None)))
    assert rules_said(Recipe(G64), three) == "3 rules added (a: int4, group size 32, b: dense and 1 more)"


def test_no_names_make_no_pattern():
    assert NodeNames(NAMES, "model.*").patterns([]) == []
