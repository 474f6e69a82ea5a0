"""What stands in a quantization_config: written in full, read back alike, and refused when it cannot be."""

from __future__ import annotations

import itertools
import json

import pytest
import torch

import workbench as wb
from tests.tiny_models import make
from workbench.checkpoint.native import ModuleFormat, describe, describe_model, parse
from workbench.config import DOMAINS, GROUP_SIZES
from workbench.errors import CheckpointError
from workbench.portable import portable_tensors
from workbench.recipe.recipe import Recipe
from workbench.solvers import solve

FORMS = {
    f"m.{index}": ModuleFormat(7, 45, group_size, domain, dtype)
    for index, (group_size, domain, dtype) in enumerate(
        itertools.product(GROUP_SIZES, DOMAINS, ("bfloat16", "float32"))
    )
}


def test_every_combination_comes_back_through_json():
    config = json.loads(json.dumps(describe(FORMS, ["lm_head"], Recipe())))
    assert parse(config) == FORMS
    assert config["modules_to_not_convert"] == ["lm_head"]
    assert Recipe.from_json(config["recipe"]) == Recipe()


def test_only_what_differs_from_the_usual_is_written_per_module():
    forms = {name: ModuleFormat(8, 64, 64, "int", "bfloat16") for name in "abc"}
    forms["d"] = ModuleFormat(8, 64, 32, "int", "bfloat16")
    config = describe(forms, [], None)
    assert (config["group_size"], config["zero_point_domain"]) == (64, "int")
    assert config["modules"]["a"] == {"shape": [8, 64]}
    assert config["modules"]["d"] == {"shape": [8, 64], "group_size": 32}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("shape", [(1, 1), (5, 77), (16, 256), (3, 33)])
def test_a_form_says_exactly_the_tensors_that_are_stored(shape, domain, dtype):
    settled = wb.Int4WeightOnlyConfig(group_size=32).resolved("cpu", domain=domain, scale_dtype=dtype)
    weight = solve(torch.randn(shape), settled).weight
    form = ModuleFormat.of(weight)
    stored = portable_tensors(weight)
    assert form.tensors() == {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in stored.items()}
    assert form.size_bytes == weight.size_bytes == sum(tensor.nbytes for tensor in stored.values())
    assert ModuleFormat.of(wb.Int4Linear(weight)) == form


def test_a_model_is_described_as_it_is_now():
    model = make("qwen2")
    wb.quantize_(model, wb.Int4WeightOnlyConfig(group_size=32), include="down_proj")
    config = describe_model(model, None)
    assert set(config["modules"]) == {f"model.layers.{index}.mlp.down_proj" for index in range(2)}
    assert "model.layers.0.mlp.up_proj" in config["modules_to_not_convert"]
    assert model.config.quantization_config["modules"] == config["modules"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("quant_method", "gptq"),
        ("quant_method", None),
        ("format_version", "2.0"),
        ("format_version", 1),
        ("format_version", None),
        ("bits", 8),
        ("code_layout", "cuda_tiles"),
        ("modules", None),
        ("modules", ["a"]),
        ("modules", {"a": 3}),
        ("modules", {"a": {}}),
        ("modules", {"a": {"shape": [4]}}),
        ("modules", {"a": {"shape": [4, -4]}}),
        ("modules", {"a": {"shape": [4, True]}}),
        ("modules", {"a": {"shape": [4, 1.5]}}),
        ("modules", {"a": {"shape": [4, 2**40]}}),
        ("modules", {"a": {"shape": "44"}}),
        ("group_size", 48),
        ("group_size", "64"),
        ("group_size", True),
        ("zero_point_domain", "none"),
        ("zero_point_domain", ["int"]),
        ("scale_dtype", "float16"),
        ("scale_dtype", {}),
    ],
)
def test_what_cannot_be_is_refused(key, value):
    config = describe({"a": ModuleFormat(8, 64, 64, "int", "bfloat16")}, [], None)
    with pytest.raises(CheckpointError):
        parse({**config, key: value})


def test_unknown_keys_and_minor_versions_are_taken():
    config = describe(FORMS, [], None)
    assert parse({**config, "format_version": "1.9", "more": 1}) == FORMS
