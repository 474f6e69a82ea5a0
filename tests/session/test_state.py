"""What a session holds, without a thread: a recipe in force, rows by name, and the settings on show."""

import pytest

from tests.session.stand_ins import toy
from workbench.config import Int4WeightOnlyConfig
from workbench.errors import ConfigError, PatternError
from workbench.recipe.recipe import Choice, Recipe, Rule
from workbench.session.state import SessionState

G32 = Choice(Int4WeightOnlyConfig(group_size=32))


def test_the_first_int4_layer_is_on_show_unless_another_is_named():
    source = toy("table", "a", "b", kinds={"table": "embedding"})
    state = SessionState(source, recipe=Recipe(G32, (Rule("a", None),)))
    assert (state.current, state.selection) == ("b", ["b"])
    assert [row.name for row in state.layer_rows()] == ["a", "b"]
    named = SessionState(source, current="a")
    assert (named.current, named.selection) == ("a", [])
    assert SessionState(toy("table", kinds={"table": "embedding"})).current == ""


def test_the_settings_on_show_are_those_of_the_layer_else_the_default():
    rule = Choice(Int4WeightOnlyConfig(group_size=256))
    state = SessionState(toy("a", "b", shape=(8, 256)), recipe=Recipe(G32, (Rule("a", rule),)), current="a")
    assert (state.choice(), state.resolved().group_size) == (rule, 256)
    state.current = ""
    assert (state.choice(), state.resolved().group_size) == (G32, 32)
    state.hold(Recipe(None), state.preflight(Recipe(None)))
    assert state.choice() == Choice()


def test_a_recipe_is_in_force_once_it_is_held_and_rows_follow():
    state = SessionState(toy("a", "b"), device_reason="for a reason")
    dense = Recipe(G32, (Rule("b", None),))
    coverage = state.preflight(dense)
    assert state.row("b").decision == "int4" and "device: cpu, for a reason" in coverage.notes
    state.hold(dense, coverage)
    assert (state.recipe, state.coverage, state.row("b").decision) == (dense, coverage, "dense")
    with pytest.raises(ConfigError, match="no weight 'c'"):
        state.row("c")
    with pytest.raises(PatternError):
        state.preflight(Recipe(G32, (Rule("c", None),)))
