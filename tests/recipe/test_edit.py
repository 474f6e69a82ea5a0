"""Edits of recipes: exactly the wanted layers change, and the rules stay few and plain."""

import random
from dataclasses import replace

import pytest

from workbench.config import Int4WeightOnlyConfig
from workbench.errors import ConfigError
from workbench.options import HqqOptions, RefinedOptions
from workbench.recipe.edit import LayerNames, changed_choice, with_change, with_change_everywhere, with_choice
from workbench.recipe.recipe import Choice, Recipe, Rule, matches

PARTS = ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj", "mlp.down_proj")
NAMES = [*(f"model.layers.{i}.{part}" for i in range(12) for part in PARTS), "lm_head"]
LAYERS = LayerNames(NAMES)
G32, G64, G128 = (Choice(Int4WeightOnlyConfig(group_size=size)) for size in (32, 64, 128))


def caught(patterns, names=NAMES):
    return {name for name in names if any(matches(pattern, name) for pattern in patterns)}


def ending(part):
    return [name for name in NAMES if name.endswith(part)]


@pytest.mark.parametrize(
    ("wanted", "patterns"),
    [
        ([], []),
        (["lm_head"], ["lm_head"]),
        (["model.layers.3.mlp.up_proj"], ["model.layers.3.mlp.up_proj"]),
        (ending("q_proj"), ["q_proj"]),
        (ending("q_proj") + ending("up_proj"), ["q_proj", "up_proj"]),
        ([name for name in NAMES if ".mlp." in name], ["mlp"]),
        ([name for name in NAMES if ".layers.1." in name], ["layers.1"]),
        ([name for name in NAMES if name != "lm_head"], ["layers"]),
        (NAMES, ["layers", "lm_head"]),
        (
            [name for name in NAMES if ".layers.0." in name][:2],
            ["layers.0.self_attn"],
        ),
        (["unknown"], []),
    ],
)
def test_patterns_are_those_a_person_would_write(wanted, patterns):
    assert LAYERS.patterns(wanted) == patterns


@pytest.mark.parametrize("seed", range(20))
def test_patterns_match_the_wanted_names_and_no_other(seed):
    chance = random.Random(seed)
    wanted = set(chance.sample(NAMES, chance.randint(0, len(NAMES))))
    assert caught(LAYERS.patterns(wanted)) == wanted


def test_names_with_characters_of_patterns_or_within_each_other():
    names = ["a.b", "x.a.b", "a*b", "aXb", "re:a", "a[1]", "a1", "q?", "qq", "", "layers.0", "layers.00"]
    layers = LayerNames(names)
    for name in names:
        assert caught(layers.patterns([name]), names) == {name}
    assert caught(layers.patterns(names), names) == set(names)


@pytest.mark.parametrize("seed", range(20))
def test_a_choice_touches_the_wanted_layers_only_however_often(seed):
    chance = random.Random(seed)
    recipe = Recipe(G64, (Rule("layers.2", None), Rule("re:.*up_proj", G128)))
    expected = {name: recipe.decide(name)[0] for name in NAMES}
    for _ in range(6):
        wanted = chance.sample(NAMES, chance.randint(1, len(NAMES)))
        choice = chance.choice([G32, G64, G128, None])
        recipe = with_choice(recipe, LAYERS, wanted, choice)
        expected |= dict.fromkeys(wanted, choice)
        assert {name: recipe.decide(name)[0] for name in NAMES} == expected


def test_rules_that_decide_nothing_any_more_are_dropped():
    recipe = Recipe(G64)
    for choice in (G32, G128, None, G32):
        recipe = with_choice(recipe, LAYERS, ending("q_proj"), choice)
        recipe = with_choice(recipe, LAYERS, ending("q_proj")[:1], None)
    recipe = with_choice(recipe, LAYERS, ending("q_proj"), G128)
    assert recipe.rules == (Rule("q_proj", G128),)


def test_a_rule_that_never_decided_anything_here_is_kept():
    other_model = Rule("experts", G32)
    recipe = with_choice(Recipe(G64, (other_model,)), LAYERS, ["lm_head"], None)
    assert recipe.rules == (Rule("lm_head", None), other_model)


def test_a_change_keeps_what_it_does_not_name():
    symmetric = Choice(Int4WeightOnlyConfig(group_size=256), domain="symmetric")
    recipe = Recipe(G64, (Rule("q_proj", symmetric), Rule("mlp", None)))
    edited = with_change(recipe, LAYERS, NAMES, lambda choice: changed_choice(choice, group_size=32))
    assert edited.decide(NAMES[0])[0] == changed_choice(symmetric, group_size=32)
    assert edited.decide("model.layers.0.mlp.up_proj")[0] == G32
    assert edited.decide("lm_head")[0] == G32
    everywhere = with_change_everywhere(recipe, lambda choice: changed_choice(choice, group_size=32))
    assert everywhere.default == G32
    assert everywhere.rules == (Rule("q_proj", changed_choice(symmetric, group_size=32)), Rule("mlp", None))
    assert with_change_everywhere(Recipe(None), lambda choice: G32) == Recipe(None)


def test_a_change_that_cannot_be_made_says_where():
    symmetric = Choice(Int4WeightOnlyConfig(), domain="symmetric")
    recipe = Recipe(G64, (Rule("q_proj", symmetric),))

    def hqq(choice):
        return changed_choice(choice, solver="hqq")

    with pytest.raises(ConfigError, match=r"^q_proj: HQQ"):
        with_change_everywhere(recipe, hqq)
    with pytest.raises(ConfigError, match=r"^model\.layers\.0\.self_attn\.q_proj and 11 more: HQQ"):
        with_change(recipe, LAYERS, ending("q_proj"), hqq)
    with pytest.raises(ConfigError, match=r"^model\.layers\.4\.self_attn\.q_proj: HQQ"):
        with_change(recipe, LAYERS, ["model.layers.4.self_attn.q_proj"], hqq)


@pytest.mark.parametrize("start", [G64, Choice(Int4WeightOnlyConfig(use_hqq=True)), Choice(solver="hqq")])
def test_nothing_given_changes_nothing(start):
    assert changed_choice(start) == start


def test_turning_hqq_on_or_off_overrides_a_solver_beside_the_configuration():
    assert changed_choice(Choice(solver="hqq"), solver="rtn").config.resolved().solver == "rtn"
    assert changed_choice(Choice(solver="rtn"), solver="hqq").config.resolved().solver == "hqq"


HQQ, REFINED = (changed_choice(G64, solver=name) for name in ("hqq", "refined"))


def test_options_change_by_name_and_defaults_leave_no_trace():
    once = changed_choice(HQQ, options={"lp_norm": 0.5, "iters": 7})
    assert once == replace(HQQ, options=HqqOptions(lp_norm=0.5, iters=7))
    assert changed_choice(once, options={"lp_norm": 0.7}).options == HqqOptions(iters=7)
    assert changed_choice(changed_choice(once, options={"lp_norm": 0.7}), options={"iters": 20}) == HQQ
    assert changed_choice(once, group_size=32).options == once.options
    assert changed_choice(once, solver="hqq").options == once.options
    assert changed_choice(once, solver="refined").options is None
    assert changed_choice(once, solver="refined", options={"iters": 1}).options == RefinedOptions(iters=1)


@pytest.mark.parametrize(
    ("choice", "options", "message"),
    [
        (HQQ, {"lp_norm": 3}, "lp_norm=3"),
        (HQQ, {"lp_norm": "a"}, "lp_norm='a'"),
        (HQQ, {"iters": 2.5}, "iters=2.5"),
        (HQQ, {"damping": 0.1}, "hqq has no option damping.*lp_norm, beta"),
        (REFINED, {"beta": 1.0, "kappa": 2}, "refined has no option beta, kappa"),
        (G64, {"iters": 1}, "rtn has no option iters.*none at all"),
    ],
)
def test_options_that_cannot_be_are_refused(choice, options, message):
    with pytest.raises(ConfigError, match=message):
        changed_choice(choice, options=options)


def test_options_meant_for_one_solver_leave_the_others_alone():
    recipe = Recipe(HQQ, (Rule("q_proj", REFINED), Rule("mlp", None), Rule("k_proj", HQQ)))
    edited = with_change_everywhere(
        recipe, lambda choice: changed_choice(choice, options={"iters": 3}, options_of="hqq")
    )
    three = replace(HQQ, options=HqqOptions(iters=3))
    assert edited == Recipe(three, (Rule("q_proj", REFINED), Rule("mlp", None), Rule("k_proj", three)))
