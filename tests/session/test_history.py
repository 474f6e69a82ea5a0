"""Recipes taken as a whole, and the way back and forth: what fails changes nothing."""

import pytest

import workbench as wb
from tests.session.stand_ins import GATE, UP, Heard
from workbench.errors import PatternError
from workbench.recipe.recipe import Choice, Recipe, Rule


def test_undo_and_redo_walk_the_recipes(demo):
    heard = Heard(demo)
    first = demo.recipe
    assert not demo.undo()
    assert not demo.redo()
    demo.configure(group_size=32)
    second = demo.recipe
    demo.keep_dense("layer")
    third = demo.recipe
    assert demo.undo() and demo.recipe == second
    assert demo.undo() and demo.recipe == first
    assert not demo.undo()
    assert demo.redo() and demo.recipe == second
    assert demo.redo() and demo.recipe == third
    assert not demo.redo()
    demo.undo()
    demo.configure(group_size=256)
    assert not demo.redo()
    assert len(heard.of("coverage")) == 8
    assert heard.of("coverage")[-1] is demo.coverage


def test_a_recipe_that_fails_leaves_recipe_and_undo_alone(demo):
    demo.configure(group_size=32)
    before = demo.recipe
    with pytest.raises(PatternError, match="q_porj"):
        demo.set_recipe(Recipe(rules=(Rule("q_porj", None),)))
    assert demo.recipe == before
    assert demo.undo()
    assert demo.redo()
    assert demo.recipe == before


def test_a_recipe_file_shows_in_the_session_and_is_saved_back_unchanged(demo, tmp_path):
    Recipe(
        Choice(wb.Int4WeightOnlyConfig(group_size=128), "refined"),
        (Rule("layers.0.self_attn", None), Rule(GATE, Choice(wb.Int4WeightOnlyConfig(group_size=32), domain="int"))),
    ).save(tmp_path / "first.json")
    recipe = Recipe.load(tmp_path / "first.json")
    demo.set_recipe(recipe)
    demo.select([GATE])
    assert demo.choice() == recipe.rules[1].choice
    assert (demo.coverage.configs[GATE].group_size, demo.coverage.configs[GATE].domain) == (32, "int")
    assert (demo.coverage.configs[UP].group_size, demo.coverage.configs[UP].solver) == (128, "refined")
    assert demo.row("model.layers.0.self_attn.q_proj").decision == "dense"
    demo.configure(group_size=256, scope="layer")
    assert demo.undo()
    demo.recipe.save(tmp_path / "second.json")
    assert (tmp_path / "second.json").read_bytes() == (tmp_path / "first.json").read_bytes()


def test_the_same_recipe_again_is_no_change(demo):
    heard = Heard(demo)
    demo.set_recipe(Recipe(demo.recipe.default, demo.recipe.rules))
    demo.configure(group_size=64)
    assert heard.events == []
    assert not demo.undo()
