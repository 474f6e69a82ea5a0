"""torchao's configurations and dictionaries: what they decide here is what they decide there."""

import random
import re
from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from typing import Any

import pytest
import torch
from torch import nn

import workbench as wb
from workbench.config import Int4WeightOnlyConfig, TensorCoreTiledLayout, ZeroPointDomain
from workbench.errors import ConfigError, PatternError
from workbench.recipe.recipe import Choice, Recipe, as_recipe

OURS = Int4WeightOnlyConfig(group_size=64)


# torchao's classes, as far as a configuration goes (BSD-3-Clause there; names and defaults only).
class TheirDomain(Enum):
    INT = auto()
    FLOAT = auto()
    NONE = auto()


class Packing(StrEnum):
    PLAIN = "plain"
    TILE_PACKED_TO_4D = "tile_packed_to_4d"


class Algorithm(StrEnum):
    TINYGEMM = "tinygemm"
    HQQ = "hqq"


@dataclass(frozen=True)
class MarlinSparseLayout:
    pass


TheirTiles = dataclass(frozen=True)(
    type("TensorCoreTiledLayout", (), {"__annotations__": {"inner_k_tiles": int}, "inner_k_tiles": 8})
)


def first_version(**given):
    """Int4WeightOnlyConfig of torchao 0.12."""
    fields = {
        "group_size": 128,
        "layout": TheirTiles(),
        "use_hqq": False,
        "zero_point_domain": TheirDomain.NONE,
        "set_inductor_config": True,
        "preserve_zero": None,
    }
    return type("Int4WeightOnlyConfig", (), {**fields, **given})()


def second_version(**given):
    """Int4WeightOnlyConfig of torchao 0.15."""
    fields = {
        "group_size": 128,
        "set_inductor_config": True,
        "int4_packing_format": Packing.PLAIN,
        "int4_choose_qparams_algorithm": Algorithm.TINYGEMM,
        "version": 2,
    }
    return type("Int4WeightOnlyConfig", (), {**fields, **given})()


@dataclass
class FqnToConfig:
    fqn_to_config: Any = field(default_factory=OrderedDict)
    module_fqn_to_config: Any = field(default_factory=OrderedDict)


@dataclass
class Int8WeightOnlyConfig:
    group_size: Any = None


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (first_version(), Int4WeightOnlyConfig()),
        (first_version(group_size=32, use_hqq=True), Int4WeightOnlyConfig(group_size=32, use_hqq=True)),
        (first_version(layout=TheirTiles(4)), Int4WeightOnlyConfig(layout=TensorCoreTiledLayout(4))),
        (first_version(version=1), Int4WeightOnlyConfig()),
        (
            first_version(zero_point_domain=TheirDomain.INT, preserve_zero=True),
            Int4WeightOnlyConfig(zero_point_domain=ZeroPointDomain.INT, preserve_zero=True),
        ),
        (first_version(set_inductor_config=False), Int4WeightOnlyConfig(set_inductor_config=False)),
        (
            second_version(group_size=64, int4_packing_format=Packing.TILE_PACKED_TO_4D),
            Int4WeightOnlyConfig(group_size=64, zero_point_domain=ZeroPointDomain.FLOAT),
        ),
        (
            second_version(int4_packing_format="tile_packed_to_4d", int4_choose_qparams_algorithm=Algorithm.HQQ),
            Int4WeightOnlyConfig(use_hqq=True, zero_point_domain=ZeroPointDomain.FLOAT),
        ),
    ],
)
def test_a_configuration_of_theirs_says_what_ours_says(theirs, ours):
    assert as_recipe(theirs) == as_recipe(ours)
    assert as_recipe({"_default": theirs}) == Recipe(Choice(ours))
    assert as_recipe(theirs, exclude="k_proj", domain=None).rules[0].pattern == "k_proj"


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        (first_version(group_size=48), "group_size=48"),
        (first_version(layout=MarlinSparseLayout()), "layout=MarlinSparseLayout .*TensorCoreTiledLayout"),
        (first_version(layout=None), "layout=NoneType None"),
        (first_version(zero_point_domain=None), "zero_point_domain=None"),
        (second_version(), r"packing format PLAIN, .*TILE_PACKED_TO_4D.*wb\.Int4WeightOnlyConfig\(group_size=128\)"),
        (Int8WeightOnlyConfig(), "Int8WeightOnlyConfig"),
    ],
)
def test_what_ours_cannot_say_is_refused(theirs, said):
    with pytest.raises(ConfigError, match=said):
        as_recipe(theirs)
    with pytest.raises(ConfigError, match=rf"^'lm_head': .*{said}"):
        as_recipe({"lm_head": theirs})


def test_dictionaries_that_cannot_be():
    with pytest.raises(ConfigError, match="The name 3 in a dictionary"):
        as_recipe({3: OURS})
    with pytest.raises(PatternError, match="not a regular expression"):
        as_recipe({"re:(": OURS})
    with pytest.raises(ConfigError, match="holds its own patterns"):
        as_recipe({"_default": OURS}, solver="hqq")
    with pytest.raises(ConfigError, match=r"'format_version': int 1 .*Recipe\.from_json"):
        as_recipe(Recipe().to_json())


def theirs(name, dictionary):
    """What transformers, following torchao, makes of one layer: names, then patterns in order, then the default."""
    weight = f"{name}.weight"
    for exact in (weight, name):
        if exact in dictionary:
            return dictionary[exact]
    for key, value in dictionary.items():
        if key.startswith("re:") and (re.fullmatch(key[3:], weight) or re.fullmatch(key[3:], name)):
            return value
    return dictionary.get("_default")


NAMES = [f"model.layers.{i}.{part}" for i in range(12) for part in ("self_attn.q_proj", "mlp.up_proj")]
NAMES += ["lm_head", "model", "x.model.layers.1", "q_proj", "a*", "model.layers.0.mlp"]
KEYS = [
    *NAMES,
    *(f"{name}.weight" for name in NAMES),
    "_default",
    "re:.*q_proj",
    r"re:model\.layers\.1\..*",
    r"re:.*up_proj\.weight",
    r"re:lm_head\..+",
    "re:.*",
    "re:.*weight",
    "re:model|lm_head",
    "re:layers",
]


@pytest.mark.parametrize("seed", range(40))
def test_every_layer_is_decided_as_torchao_decides_it(seed):
    chance = random.Random(seed)
    values = [None, *(Int4WeightOnlyConfig(group_size=size) for size in (32, 64, 128, 256))]
    keys = chance.sample(KEYS, chance.randint(0, 25))
    dictionary = OrderedDict((key, chance.choice(values)) for key in keys)
    recipe = as_recipe(chance.choice([dictionary, dict(dictionary), FqnToConfig(dictionary, dictionary)]))
    for name in NAMES:
        expected = theirs(name, dictionary)
        assert recipe.decide(name)[0] == (None if expected is None else Choice(expected)), name


def test_the_object_is_taken_in_both_its_forms():
    expected = as_recipe({"q_proj": OURS, "_default": None})
    assert as_recipe(FqnToConfig({"q_proj": OURS, "_default": None})) == expected
    assert as_recipe(FqnToConfig(module_fqn_to_config={"q_proj": OURS, "_default": None})) == expected
    assert as_recipe(FqnToConfig()) == as_recipe({}) == Recipe(None)


def test_a_choice_of_ours_may_stand_in_a_dictionary():
    refined = Choice(OURS, "refined", "symmetric")
    assert as_recipe({"q_proj": refined}).decide("q_proj")[0] == refined


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(64, 32), nn.Linear(64, 32)
        self.inner = nn.ModuleDict({"a": nn.Linear(64, 32)})


def test_quantize_and_preflight_take_a_dictionary(tmp_path):
    torch.manual_seed(0)
    model = Two()
    dictionary = {"re:.*a": first_version(group_size=32), "a": None, "_default": OURS}
    coverage = wb.preflight(model, dictionary)
    assert {row.name: coverage.configs[row.name].group_size for row in coverage.int4_rows} == {"b": 64, "inner.a": 32}
    report = wb.quantize_(model, FqnToConfig(dictionary))
    assert isinstance(model.a, nn.Linear) and isinstance(model.b, wb.Int4Linear)
    assert [layer.name for layer in report.layers] == ["b", "inner.a"]
    recipe = as_recipe(dictionary)
    recipe.save(tmp_path / "r.json")
    assert Recipe.load(tmp_path / "r.json") == recipe
    with pytest.raises(PatternError, match=r"'fqn:re:\.\*\.aa' matches none.*did you mean"):
        wb.preflight(Two(), {"re:.*.aa": OURS})


def test_the_output_head_stays_dense_under_a_default_and_is_taken_by_name():
    assert "lm_head" not in wb.preflight("demo", {"_default": OURS}).configs
    assert list(wb.preflight("demo", {"lm_head": OURS}).configs) == ["lm_head"]
