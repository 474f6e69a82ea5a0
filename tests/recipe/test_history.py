"""The history of recipes, and every kind of change in words."""

from dataclasses import replace

import pytest

import workbench as wb
from workbench.options import HqqOptions, RefinedOptions
from workbench.recipe.history import RecipeHistory, change_said, choice_said, recipe_said, settings_of
from workbench.recipe.recipe import Choice, Recipe, Rule

G64 = Choice(wb.Int4WeightOnlyConfig(group_size=64))
G32 = Choice(wb.Int4WeightOnlyConfig(group_size=32))
HQQ = Choice(wb.Int4WeightOnlyConfig(group_size=64, use_hqq=True))
A, B, C = Rule("a", None), Rule("b", G32), Rule("c", None)


def test_a_new_recipe_drops_those_that_were_undone():
    first, second, third = Recipe(G64), Recipe(G32), Recipe(HQQ)
    history = RecipeHistory(first)
    assert (history.before, history.can_undo, history.can_redo) == (None, False, False)
    history.add(second)
    assert (history.before, history.can_undo, history.can_redo) == (first, True, False)
    history.place = 0
    assert (history.can_undo, history.can_redo) == (False, True)
    history.add(third)
    assert history.recipes == (first, third) and history.place == 1


def test_steps_are_newest_first_and_say_which_holds():
    history = RecipeHistory(Recipe(G64))
    history.add(Recipe(G32))
    history.add(Recipe(G32, (A,)))
    history.place = 1
    assert [(step.place, step.now) for step in history.steps()] == [(2, False), (1, True), (0, False)]
    assert [step.text for step in history.steps()] == [
        "a: dense",
        "default: group size 64 → 32",
        "the recipe at the start",
    ]


@pytest.mark.parametrize("place", [0, 7, 50, 96, 99])
@pytest.mark.parametrize("most", [1, 2, 9, 100, 300])
def test_of_a_long_history_the_steps_around_the_one_that_holds_are_given(place, most):
    history = RecipeHistory(Recipe(G64))
    for at in range(99):
        history.add(Recipe((G64, G32)[at % 2]))
    history.place = place
    places = [step.place for step in history.steps(most)]
    assert place in places and len(places) == min(most, 100)
    assert places == sorted(places, reverse=True) and places[0] - places[-1] == len(places) - 1


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        (None, "dense"),
        (G64, "int4, group size 64, rtn"),
        (HQQ, "int4, group size 64, hqq"),
        (Choice(wb.Int4WeightOnlyConfig(group_size=64), "refined", "int"), "int4, group size 64, refined, domain int"),
        (
            Choice(
                wb.Int4WeightOnlyConfig(
                    256, wb.TensorCoreTiledLayout(4), zero_point_domain=wb.ZeroPointDomain.INT, preserve_zero=False
                )
            ),
            "int4, group size 256, rtn, domain int, 0 kept exact no, inner k tiles 4",
        ),
        (replace(HQQ, options=HqqOptions(lp_norm=0.4)), "int4, group size 64, hqq, lp norm 0.4"),
        (
            Choice(wb.Int4WeightOnlyConfig(set_inductor_config=False)),
            "int4, group size 128, rtn, inductor settings left as they are",
        ),
    ],
)
def test_a_choice_in_words(choice, said):
    assert choice_said(choice) == said


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (Recipe(G64), Recipe(G64), "no change"),
        (Recipe(G64), Recipe(HQQ), "default: solver rtn → hqq"),
        (Recipe(G64), Recipe(None), "default: int4, group size 64, rtn → dense"),
        (Recipe(HQQ), Recipe(replace(HQQ, options=HqqOptions(iters=3))), "default: iters at its default → 3"),
        (Recipe(G64), Recipe(G64, output_head=True), "output head: as the default"),
        (Recipe(G64, (A,)), Recipe(G64, (A, B)), "b: int4, group size 32, rtn"),
        (Recipe(G64, (A, B)), Recipe(G64, (B,)), "a: rule removed"),
        (Recipe(G64, (A, B)), Recipe(G64, (A, Rule("z", G32))), "b became z"),
        (Recipe(G64, (A, B)), Recipe(G64, (A, Rule("b", None))), "b: int4, group size 32, rtn → dense"),
        (Recipe(G64, (A, B, C)), Recipe(G64, (B, A, C)), "b moved up"),
        (Recipe(G64, (A, B, C)), Recipe(G64, (C, A, B)), "rules in another order"),
        (Recipe(G64, (A, A)), Recipe(G64, (A,)), "rules that decide nothing removed"),
        (
            Recipe(G64),
            Recipe(G32, (A, B, C), True),
            "default: group size 64 → 32; output head: as the default; a: dense; and 2 more changes",
        ),
    ],
)
def test_a_change_in_words(before, after, said):
    assert change_said(before, after) == said


def test_every_setting_that_differs_is_named():
    refined = Choice(wb.Int4WeightOnlyConfig(group_size=64), "refined", options=RefinedOptions(norm=1.5))
    assert change_said(Recipe(G64), Recipe(refined)) == "default: solver rtn → refined, norm at its default → 1.5"
    assert settings_of(refined)["norm"] == "1.5"


def test_a_recipe_in_a_few_words():
    assert recipe_said(Recipe(None)) == "dense"
    assert recipe_said(Recipe(G64, (A, B))) == "2 rules over int4, group size 64, rtn"
    assert recipe_said(Recipe(G64, (A,), True)) == "1 rule over int4, group size 64, rtn; the output head too"
