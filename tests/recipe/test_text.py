"""The text of recipe files: every error names the line, hostile files are refused, and what is written stays small."""

import json
import random
import re
from pathlib import Path

import pytest

from workbench.config import Int4WeightOnlyConfig
from workbench.errors import ConfigError, PatternError
from workbench.recipe.recipe import Choice, Recipe, Rule
from workbench.recipe.text import MOST_BYTES, parse_document, recipe_text

GOOD = """{
  "format_version": 1,
  "default": {"group_size": 64, "solver": "refined"},
  "output_head": false,
  "rules": [
    {"pattern": "k_proj", "dense": true},
    {
      "pattern": "re:.*down_proj",
      "group_size": 32,
      "solver": "refined",
      "solver_options": {
        "norm": 1.5
      }
    }
  ]
}
"""


@pytest.fixture
def load(tmp_path):
    """Write a text (or bytes) as recipe.json and load it."""

    def loaded(text):
        path = tmp_path / "recipe.json"
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        return Recipe.load(path)

    return loaded


def test_a_file_as_a_person_writes_it(load):
    recipe = load(GOOD)
    assert recipe.decide("a.k_proj") == (None, "pattern 'k_proj'")
    assert recipe.decide("a.down_proj")[0].options.norm == 1.5
    assert recipe.default == Choice(Int4WeightOnlyConfig(64), "refined")
    assert load("\ufeff" + GOOD.replace("\n", "\r\n")) == recipe


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ('"group_size": 32', '"group_size": 48', 9, "group_size=48 .*256, 128, 64 or 32.*use group_size=64"),
        ('"group_size": 32', '"group_size": "32"', 9, "group_size='32'"),
        ('"group_size": 32', '"group_size": 32.0', 9, r"group_size=32\.0"),
        ('"group_size": 32', '"group_size": true', 9, "group_size=True"),
        ('"group_size": 32', '"group_size": null', 9, "group_size=None"),
        ('"group_size": 32', '"group_sise": 32', 9, "Unknown setting 'group_sise'.*write 'group_size'"),
        ('"group_size": 32', '"pattern": "x"', 9, "the key 'pattern' stands in line 8 already.*keep one"),
        ('"group_size": 32', '"use_hqq": 1', 9, "use_hqq=1 is of type int"),
        ('"group_size": 32', '"domain": "flaot"', 9, "domain='flaot'.*float, int, symmetric.*write 'float'"),
        ('"group_size": 32', '"zero_point_domain": "float"', 9, "zero_point_domain='float'.*INT, FLOAT, NONE"),
        ('"group_size": 32', '"inner_k_tiles": 3', 9, "inner_k_tiles=3"),
        ('"group_size": 32', '"preserve_zero": "yes"', 9, "preserve_zero='yes'"),
        ('"group_size": 32', '"domain": "symmetric", "preserve_zero": false', 7, "preserve_zero=False with the symm"),
        ('"group_size": 32', '"use_hqq": true', 7, "solver='refined' contradicts use_hqq"),
        ('"group_size": 32', '"skip": true', 9, "Unknown setting 'skip'.*write 'dense'"),
        ('"group_size": 32', '"dense": true', 10, "The rule is dense and has a solver"),
        ('"solver": "refined",\n      "s', '"solver": "refind",\n      "s', 10, "solver='refind'.*write 'refined'"),
        ('"norm": 1.5', '"norm": 9', 12, "norm=9"),
        ('"norm": 1.5', '"norm": [1]', 12, r"norm=\(1,\)"),
        ('"norm": 1.5', '"nrom": 1', 12, "Unknown option 'nrom' of the solver 'refined'.*write 'norm'"),
        ('"re:.*down_proj"', '"re:("', 8, r"'re:\(' is not a regular expression"),
        ('"re:.*down_proj"', '""', 8, "Empty pattern"),
        ('"re:.*down_proj"', "7", 8, "The pattern 7 is of type int"),
        ('"pattern": "k_proj", ', "", 6, "has no pattern"),
        ('"dense": true', '"dense": "yes"', 6, "'yes' is of the wrong type.*true or false"),
        ('{"pattern": "k_proj", "dense": true}', '"k_proj"', 6, "The rule 'k_proj' has no pattern"),
        ('"output_head": false', '"output_head": 0', 4, "0 is of the wrong type"),
        ('"output_head"', '"output_haed"', 4, "Unknown setting 'output_haed'.*write 'output_head'"),
        ('"format_version": 1', '"format_version": 2', 2, "format_version 2.*Allowed: 1"),
        ('"format_version": 1', '"format_version": "1"', 2, "format_version '1'"),
        ('"format_version": 1,', "", 1, 'format_version None.*add "format_version": 1'),
        ('{"group_size": 64, "solver": "refined"}', "64", 3, "64 is of the wrong type.*an object|a configuration"),
        ('{"group_size": 64, "solver": "refined"}', '{"group_size": 16}', 3, "group_size=16"),
    ],
)
def test_the_line_of_what_cannot_be(load, old, new, line, said):
    assert GOOD.count(old) == 1
    with pytest.raises((ConfigError, PatternError), match=said) as caught:
        load(GOOD.replace(old, new))
    assert f"recipe.json, line {line}: " in caught.value.what


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ('"dense": true},', '"dense": true}', 7, "{ where a comma or ] is due"),
        ('"solver": "refined",\n      "s', '"solver": "refined"\n      "s', 11, "where a comma or } is due"),
        ('"norm": 1.5', '"norm": 1.5,', 13, "} where a key in double quotes is due.*drop the comma"),
        ('"norm": 1.5', '"norm": 1.5 // half', 12, "no comments"),
        ('"norm": 1.5', '"norm": 1.5 # half', 12, "no comments"),
        ('"norm": 1.5', "'norm': 1.5", 12, "double quotes"),
        ('"norm": 1.5', "norm: 1.5", 12, "'norm' where a key in double quotes"),
        ('"norm": 1.5', '"norm" 1.5', 12, "1.5 where a colon is due"),
        ('"norm": 1.5', '"norm": ', 13, "} where a value is due"),
        ('"norm": 1.5', '"norm": NaN', 12, "'NaN' where a value is due.*write a number"),
        ('"norm": 1.5', '"norm": -Infinity', 12, "'-Infinity' where a value is due"),
        ('"norm": 1.5', '"norm": 1e999', 12, "out of range"),
        ('"norm": 1.5', '"norm": 1' + "0" * 5000, 12, "out of range"),
        ('"norm": 1.5', '"norm": 01', 12, "'01' where a value is due"),
        ('"norm": 1.5', '"norm": .5', 12, "'.5' where a value is due"),
        ('"norm": 1.5', '"norm": True', 12, "write true"),
        ('"re:.*down_proj"', '"re:.*\\.down_proj"', 8, r"write \\ as \\\\"),
        ('"re:.*down_proj"', '"re:.*down_proj', 8, "close the text"),
        ("  ]\n}\n", "  ]\n", 16, "the end of the file where a comma or } is due"),
        ("  ]\n}\n", "  ]\n}\n{}", 17, "more text after the recipe's end"),
    ],
)
def test_the_line_of_what_is_no_json(load, old, new, line, said):
    assert GOOD.count(old) == 1
    with pytest.raises(ConfigError, match=said) as caught:
        load(GOOD.replace(old, new))
    assert f"recipe.json, line {line}: " in caught.value.what


def test_files_that_are_no_text_are_empty_or_not_there(load, tmp_path):
    for text, said in (("", "line 1: .*the end of the file"), ("[]", "A recipe is an object"), ("7", "an object")):
        with pytest.raises(ConfigError, match=said):
            load(text)
    with pytest.raises(ConfigError, match="line 3: no UTF-8 text"):
        load(b"{\n\n\xff}")
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        Recipe.load(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        Recipe.load(tmp_path)
    with pytest.raises(ConfigError, match=r"cannot be read: .*null"):
        Recipe.load("a\0b")
    with pytest.raises(ConfigError, match="cannot be written: Is a directory"):
        Recipe().save(tmp_path)


@pytest.mark.parametrize("opening", ["[", '{"a":', '{"rules":[', '[{"a":['])
def test_deep_files_are_refused_at_once(load, opening):
    with pytest.raises(ConfigError, match=r"line 1: nested too deeply\. Allowed: 8 levels"):
        load(opening * 100_000)


def test_huge_files_are_refused_unread(load):
    with pytest.raises(ConfigError, match=r"too large\. Allowed: 4 MiB at most"):
        load(b" " * (MOST_BYTES + 1))
    with pytest.raises(ConfigError, match="too large"):
        Recipe.load("/dev/zero")


def test_a_large_file_is_read_in_a_time_that_grows_with_it(load):
    rules = tuple(Rule(f"model.layers.{i}.mlp.up_proj", Choice() if i % 2 else None) for i in range(20_000))
    recipe = Recipe(rules=rules)
    assert load(recipe_text(recipe.to_json())) == recipe


def test_a_rule_is_a_line_and_one_more_rule_one_more_line(tmp_path):
    recipe = Recipe(Choice(Int4WeightOnlyConfig(64), "refined"), (Rule("k_proj", None), Rule("mlp", Choice())))
    recipe.save(tmp_path / "a.json")
    text = (tmp_path / "a.json").read_text()
    assert text == (
        "{\n"
        '  "format_version": 1,\n'
        '  "default": {"group_size": 64, "solver": "refined"},\n'
        '  "output_head": false,\n'
        '  "rules": [\n'
        '    {"pattern": "k_proj", "dense": true},\n'
        '    {"pattern": "mlp", "group_size": 128}\n'
        "  ]\n"
        "}\n"
    )
    more = recipe_text(recipe.with_rule("q_proj", None).to_json())
    assert set(more.splitlines()) - set(text.splitlines()) == {'    {"pattern": "q_proj", "dense": true},'}
    assert recipe_text(Recipe(None).to_json()).splitlines()[-2] == '  "rules": []'


def random_json(chance, depth=0):
    kinds = ["text", "number", "word", "list", "object"] if depth < 6 else ["text", "number", "word"]
    kind = chance.choice(kinds)
    if kind == "list":
        return [random_json(chance, depth + 1) for _ in range(chance.randint(0, 3))]
    if kind == "object":
        return {f"{chance.random()}\n": random_json(chance, depth + 1) for _ in range(chance.randint(0, 3))}
    numbers = [0, -7, 1.5, -2e-9, 12345678901234567890, 1e300]
    texts = ["", 'a"b', "\\", "é\u2028", "\ud800", "\t\n\0", "re:.*\\.q"]
    return chance.choice({"text": texts, "number": numbers, "word": [True, False, None]}[kind])


@pytest.mark.parametrize("seed", range(50))
def test_the_reader_reads_what_the_standard_library_reads(seed):
    chance = random.Random(seed)
    data = random_json(chance)
    text = json.dumps(data, indent=chance.choice([None, 0, 3]), ensure_ascii=chance.random() < 0.5)
    document = parse_document(text, "x")
    assert document.data == json.loads(text) and repr(document.data) == repr(json.loads(text))


@pytest.mark.parametrize("seed", range(50))
def test_the_reader_refuses_what_the_standard_library_refuses(seed):
    chance = random.Random(seed)
    place = chance.randrange(len(GOOD))
    text = GOOD[:place] + chance.choice('{}[]:,"\\1a \n-') + GOOD[place + chance.randint(0, 2) :]
    try:
        expected = json.loads(text)
    except json.JSONDecodeError:
        with pytest.raises(ConfigError, match="line"):
            parse_document(text, "x")
    else:
        try:
            assert parse_document(text, "x").data == expected
        except ConfigError as error:
            assert "already" in str(error), "only a key that stands twice is refused beyond the standard library"


def test_places_lie_on_the_lines_of_their_keys():
    document = parse_document(GOOD, "x")
    lines = GOOD.splitlines()
    for place, line in document.lines.items():
        assert not place or isinstance(place[-1], int) or f'"{place[-1]}"' in lines[line - 1]
    assert document.lines[("rules", 1, "solver_options", "norm")] == 12
    assert document.where(("rules", 1, "solver_options", "beta")) == "x, line 11"


def test_the_file_in_the_docs_reads_and_writes_as_it_stands():
    docs = Path(__file__).parents[2] / "docs" / "README.md"
    shown = re.search(r"```json\n(.*?)```", docs.read_text(encoding="utf-8"), re.DOTALL)[1]
    recipe = Recipe.from_json(json.loads(shown))
    assert recipe_text(recipe.to_json()).split() == shown.split()
    assert recipe.rules[1].choice.config.group_size == 32 and recipe.rules[1].choice.solver is None
