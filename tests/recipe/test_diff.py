"""The difference between two recipes, against what `diff` would say."""

import difflib

import pytest

import workbench as wb
from workbench.recipe.diff import recipe_diff
from workbench.recipe.recipe import Choice, Recipe, Rule
from workbench.recipe.text import recipe_text

PLAIN = Recipe(Choice(wb.Int4WeightOnlyConfig(group_size=64)))
RULES = tuple(Rule(f"layers.{place}", None) for place in range(30))


def test_equal_recipes_do_not_differ():
    diff = recipe_diff(PLAIN, PLAIN)
    assert (diff.lines, diff.said(), str(diff)) == ((), "no difference", "")


def test_a_changed_setting_is_one_line_out_and_one_in():
    diff = recipe_diff(PLAIN, Recipe(Choice(wb.Int4WeightOnlyConfig(group_size=32))))
    assert [line.text for line in diff.lines if line.kind == "removed"] == ['  "default": {"group_size": 64},']
    assert [line.text for line in diff.lines if line.kind == "added"] == ['  "default": {"group_size": 32},']
    assert diff.said() == "1 line added, 1 line removed"
    assert diff.lines[0].kind == "same" and diff.lines[0].text == "{"


@pytest.mark.parametrize("context", [0, 1, 3])
@pytest.mark.parametrize("places", [(0,), (15,), (29,), (3, 20), (0, 1, 28)])
def test_it_is_the_unified_difference_of_their_files(places, context):
    before = Recipe(PLAIN.default, RULES)
    after = Recipe(PLAIN.default, tuple(rule for place, rule in enumerate(RULES) if place not in places))
    texts = [recipe_text(recipe.to_json()).splitlines() for recipe in (before, after)]
    want = [line for line in difflib.unified_diff(*texts, lineterm="", n=context) if line[:3] not in ("---", "+++")]
    got = str(recipe_diff(before, after, context)).splitlines()
    assert [line for line in got if line[0] != "@"] == [line for line in want if line[0] != "@"]
    assert recipe_diff(before, after, context).removed >= len(places)
    gaps = [line for line in recipe_diff(before, after, context).lines if line.kind == "gap"]
    assert len(gaps) in (sum(line[0] == "@" for line in want), sum(line[0] == "@" for line in want) - 1)
