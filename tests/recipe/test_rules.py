"""Rules held against a model: counts against a plain loop, and what nobody would expect is said."""

import fnmatch

import pytest

import workbench as wb
from workbench.coverage.preflight import preflight_source
from workbench.hf.skeleton import open_source
from workbench.kinds import QUANTIZABLE_KINDS
from workbench.recipe.recipe import Choice, Recipe, Rule
from workbench.recipe.rules import rule_rows

G32 = Choice(wb.Int4WeightOnlyConfig(group_size=32))


@pytest.fixture(scope="module")
def source():
    return open_source("demo")


def rows_of(source, recipe):
    return rule_rows(recipe, preflight_source(source, recipe))


def test_each_layer_is_decided_once_by_the_first_rule_that_matches_it(source):
    globs = ["model.layers.0.*", "*.q_proj", "model.layers.*.mlp.*"]
    recipe = Recipe(Choice(), tuple(Rule(glob, G32) for glob in globs))
    rows = rows_of(source, recipe)
    linear = [row for row in preflight_source(source, recipe).rows if row.kind in QUANTIZABLE_KINDS]
    want = {glob: [] for glob in [*globs, "all other layers", "output head"]}
    for row in linear:
        first = next((glob for glob in globs if fnmatch.fnmatch(row.name, glob)), None)
        want[first or ("output head" if row.kind == "output_head" else "all other layers")].append(row.name)
    assert {row.pattern: list(row.layers) for row in rows} == want
    assert sum(len(row.layers) for row in rows) == len(linear) == 43


def test_the_order_is_that_of_the_rules_then_the_default_then_the_head(source):
    rows = rows_of(source, Recipe(Choice(), (Rule("q_proj", None), Rule("mlp", G32))))
    assert [(row.kind, row.place) for row in rows] == [("rule", 0), ("rule", 1), ("default", -1), ("head", -1)]
    assert [row.settings for row in rows] == ["dense", "int4, group size 32, rtn", "int4, group size 128, rtn", "dense"]
    assert [row.dense for row in rows] == [True, False, False, True]


def test_a_rule_that_others_overrule_says_so(source):
    rows = rows_of(
        source,
        Recipe(Choice(), (Rule("self_attn", None), Rule("q_proj", G32), Rule("layers.0.self_attn.k_proj", None))),
    )
    assert rows[1].layers == () and rows[1].note == "rules above it decide all 6 layers that it matches"
    assert rows[2].note == "rules above it decide the one layer that it matches"
    assert rows[0].note == ""


def test_a_dense_rule_for_no_linear_layer_says_so(source):
    assert rows_of(source, Recipe(Choice(), (Rule("norm", None),)))[0].note == "matches no linear layer"


def test_an_output_head_that_stays_dense_all_the_same_says_why(source):
    rows = rows_of(source, Recipe(Choice(), output_head=True))
    assert rows[-1].kind == "head" and rows[-1].settings.startswith("int4") and not rows[-1].dense
    rows = rows_of(source, Recipe(Choice()))
    assert rows[-1].dense and rows[-1].note == ""
