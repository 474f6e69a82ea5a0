"""Patterns: what each kind matches, found fast or slowly, and what is suggested where one matches nothing."""

import pytest

from tests.recipe.names import NAMES
from workbench.errors import PatternError
from workbench.recipe import patterns
from workbench.recipe.patterns import PatternIndex, check_pattern, component_runs, matches, nearest


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*", set(NAMES)),
        ("lm_head", {"lm_head"}),
        ("q_proj", {n for n in NAMES if n.endswith(".q_proj")}),
        ("layers.1", {n for n in NAMES if n.startswith("model.layers.1.")}),
        ("self_attn", {n for n in NAMES if ".self_attn." in n}),
        ("model.layers.*.mlp.*", {n for n in NAMES if ".mlp." in n}),
        ("*.layers.1?.*", {n for n in NAMES if ".layers.10." in n or ".layers.11." in n}),
        ("re:model\\.layers\\.[01]\\..*", {n for n in NAMES if n.startswith(("model.layers.0.", "model.layers.1."))}),
        ("proj", set()),
        ("re:q_proj", set()),
        ("fqn:lm_head", {"lm_head"}),
        ("fqn:lm_head.weight", {"lm_head"}),
        ("fqn:q_proj", set()),
        ("fqn:*", set()),
        ("fqn:re:.*q_proj", {n for n in NAMES if n.endswith(".q_proj")}),
        (r"fqn:re:.*q_proj\.weight", {n for n in NAMES if n.endswith(".q_proj")}),
        (r"fqn:re:lm_head\..*", {"lm_head"}),
        (r"fqn:re:.*\.w.*", set(NAMES)),
        (r"re:.*\.w.*", set()),
    ],
)
def test_patterns(pattern, expected):
    assert {name for name in NAMES if matches(pattern, name)} == expected


@pytest.mark.parametrize("name", [*NAMES[:5], "lm_head", ""])
def test_an_index_finds_the_patterns_that_match_one_by_one(name):
    given = [*NAMES, "q_proj", "re:.*\\.1\\..*", "layers.1", "*.mlp.*", "proj", "re:", "layers.1", "fqn:lm_head"]
    given += ["fqn:lm_head.weight", "fqn:re:.*weight", "fqn:weight", *(f"fqn:{name}" for name in NAMES)]
    assert PatternIndex(given).matching(name) == [i for i, pattern in enumerate(given) if matches(pattern, name)]


def test_component_runs_are_the_plain_patterns_that_match():
    assert component_runs("a.b.c") == ("a", "a.b", "a.b.c", "b", "b.c", "c")
    assert component_runs("lm_head") == ("lm_head",)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("", "Empty pattern"),
        (" ", "Empty pattern"),
        (3, "3 is of type int"),
        (None, "None is of type NoneType"),
        ("re:(", "not a regular expression"),
        ("fqn:re:[", "not a regular expression"),
        ("re:a{99999999999999999999}", "not a regular expression"),
        ("re:" + "(" * 5000 + ")" * 5000, "not a regular expression"),
    ],
)
def test_what_is_no_pattern(pattern, said):
    with pytest.raises(PatternError, match=said):
        check_pattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "suggested"),
    [
        ("q_porj", "q_proj"),
        ("mpl.up_proj", "mlp.up_proj"),
        ("model.layers.*.self_atn.*", "model.layers.*.self_attn.*"),
        ("re:.*up_prj", "re:.*up_proj"),
        ("fqn:model.layers.3.mlp.up_porj", "fqn:model.layers.3.mlp.up_proj"),
        ("fqn:re:.*up_porj.weight", "fqn:re:.*up_proj.weight"),
        ("model.layers.12.mlp.up_proj", "model.layers.2.mlp.up_proj"),
        (r"re:model\.layers\.12\.mlp\.up_proj", "model.layers.2.mlp.up_proj"),
        ("mlp.q_proj", "mlp.up_proj"),
        ("xyz", ""),
    ],
)
def test_the_nearest_are_suggested_and_match(pattern, suggested):
    found = nearest(pattern, NAMES)
    assert 1 <= len(found) <= 3
    assert suggested in found[0]
    assert all(any(matches(one, name) for name in NAMES) for one in found)


def test_nothing_is_near_where_there_are_no_names():
    assert nearest("q_proj", []) == []


def test_a_suggestion_among_very_many_names_compares_few_of_them(monkeypatch):
    names = [f"model.layers.{i}.mlp.experts.{j}.up_proj" for i in range(100) for j in range(100)]
    compared = []
    real = patterns.difflib.get_close_matches
    monkeypatch.setattr(
        patterns.difflib, "get_close_matches", lambda word, of, **more: compared.extend(of) or real(word, of, **more)
    )
    assert nearest("model.layers.7.mlp.experts.100.up_proj", names)[0].startswith("model.layers.7.mlp.experts.10")
    assert len(compared) <= 1000
