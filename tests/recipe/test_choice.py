"""Choices as JSON: every field survives, what is usual is left out, and what cannot be is named."""

import json

import pytest

from workbench.config import Int4WeightOnlyConfig, TensorCoreTiledLayout, ZeroPointDomain
from workbench.errors import ConfigError
from workbench.options import CalibratedOptions, HqqOptions, RefinedOptions
from workbench.recipe.choice import SETTINGS, Choice
from workbench.recipe.recipe import Recipe, Rule


@pytest.mark.parametrize(
    "changes",
    [
        {"group_size": 256},
        {"layout": TensorCoreTiledLayout(2)},
        {"use_hqq": True},
        {"zero_point_domain": ZeroPointDomain.FLOAT},
        {"zero_point_domain": ZeroPointDomain.INT},
        {"set_inductor_config": False},
        {"preserve_zero": True},
        {"preserve_zero": False},
    ],
    ids=str,
)
def test_every_field_of_a_configuration_survives_json(changes):
    choice = Choice(Int4WeightOnlyConfig(**changes))
    written = json.loads(json.dumps(choice.to_json()))
    assert Choice.from_json(written) == choice
    assert len(written) == (1 if "group_size" in changes else 2)


@pytest.mark.parametrize(
    ("choice", "written"),
    [
        (Choice(Int4WeightOnlyConfig(use_hqq=True), options=HqqOptions(iters=5)), {"iters": 5}),
        (Choice(Int4WeightOnlyConfig(), solver="hqq", options=HqqOptions()), {}),
        (Choice(Int4WeightOnlyConfig(), "refined", "int", RefinedOptions(norm=1.0)), {"norm": 1.0}),
        (
            Choice(Int4WeightOnlyConfig(), "calibrated", None, CalibratedOptions(activation_order=False, sweeps=0)),
            {"activation_order": False, "sweeps": 0},
        ),
    ],
)
def test_solver_options_survive_json(choice, written):
    data = json.loads(json.dumps(choice.to_json()))
    assert data["solver_options"] == written
    assert Choice.from_json(data) == choice
    recipe = Recipe(None, (Rule("mlp", choice),))
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


def test_a_plain_choice_is_a_short_json():
    assert Choice(Int4WeightOnlyConfig(group_size=64)).to_json() == {"group_size": 64}


def test_every_setting_is_named_in_the_order_in_which_it_is_written():
    full = Choice(
        Int4WeightOnlyConfig(32, TensorCoreTiledLayout(4), True, ZeroPointDomain.INT, False, False),
        "hqq",
        "int",
        HqqOptions(iters=3),
    )
    assert set(full.to_json()) == set(SETTINGS) and next(iter(full.to_json())) == "group_size"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"group_sise": 64}, "recipe.group_sise: Unknown setting 'group_sise'.*write 'group_size'"),
        ({"bits": 4}, "recipe.bits: Unknown setting 'bits'.*take one of them"),
        ({"solver": "hqq", "domain": "symmetric"}, "recipe: HQQ moves the zero point"),
        ({"solver_options": {"iters": 1}}, "recipe.solver_options: .*with solver='rtn'"),
        ({"solver": "hqq", "solver_options": 3}, "recipe.solver_options: solver_options=3"),
        ({"solver": "hqq", "solver_options": {"kapa": 3}}, "recipe.solver_options.kapa: .*write 'kappa'"),
    ],
)
def test_a_choice_that_cannot_be_says_which_setting(data, message):
    with pytest.raises(ConfigError, match=message):
        Choice.from_json(data)
