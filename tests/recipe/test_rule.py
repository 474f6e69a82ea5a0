"""Rules: a malformed pattern is refused, JSON goes both ways, and an error names the key that it is about."""

import json

import pytest

from workbench.config import Int4WeightOnlyConfig
from workbench.errors import ConfigError, PatternError
from workbench.recipe.choice import Choice
from workbench.recipe.rule import Rule, read_rule
from workbench.recipe.text import dotted, reading


@pytest.mark.parametrize("pattern", ["", "  ", "re:(", "re:[", 3, None])
def test_malformed_patterns_are_refused(pattern):
    with pytest.raises(PatternError):
        Rule(pattern, None)


def read(data):
    with reading(dotted) as cursor:
        return read_rule(data, cursor)


@pytest.mark.parametrize(
    ("rule", "written"),
    [
        (Rule("lm_head", None), {"pattern": "lm_head", "dense": True}),
        (Rule("*.mlp.*", Choice()), {"pattern": "*.mlp.*", "group_size": 128}),
        (
            Rule("re:.*q_proj", Choice(Int4WeightOnlyConfig(group_size=64), solver="refined")),
            {"pattern": "re:.*q_proj", "group_size": 64, "solver": "refined"},
        ),
    ],
)
def test_json_both_ways(rule, written):
    assert rule.to_json() == written
    assert read(json.loads(json.dumps(written))) == rule
    assert read({"dense": False, **written}) == rule


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("q_proj", r"recipe: The rule 'q_proj' has no pattern.*\"dense\": true"),
        ({"dense": True}, "has no pattern"),
        ({"pattern": "a", "group_sise": 64}, "recipe.group_sise: Unknown setting.*write 'group_size'"),
        ({"pattern": "a", "skip": True}, "recipe.skip: Unknown setting.*write 'dense'"),
        ({"pattern": "a", "dense": 1}, "recipe.dense: 1 is of the wrong type.*true or false"),
        ({"pattern": "a", "dense": True, "solver": "rtn"}, "recipe.solver: The rule is dense and has a solver"),
        ({"pattern": "a", "group_size": 48}, "recipe.group_size: group_size=48"),
    ],
)
def test_what_no_rule_can_hold_is_named_with_its_key(data, message):
    with pytest.raises(ConfigError, match=message):
        read(data)


def test_a_malformed_pattern_is_named_with_its_key():
    with pytest.raises(PatternError, match=r"recipe\.pattern: "):
        read({"pattern": "re:(", "dense": True})
