"""The largest error of an export is that of the dequantized weights, element by element."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import workbench as wb
from tests.oracles import random_weight
from tests.tiny_models import make
from workbench.checkpoint.model_contents import ModelContents
from workbench.targets import TARGETS
from workbench.targets.folder import max_error


def slow(weight, stored):
    return float((weight.dequantize() - stored.dequantize()).abs().max())


@pytest.mark.parametrize("domain", ["float", "int", "symmetric"])
@pytest.mark.parametrize("shape", [(3, 64), (5, 77), (1, 1), (17, 300)])
def test_the_largest_error_without_looking_at_each_weight(shape, domain):
    weight = random_weight(*shape, 32, domain, dtype=torch.float32)
    rounded = replace(weight, scale=weight.scale.bfloat16().float())
    assert max_error(weight, weight) == 0
    assert max_error(weight, rounded) == pytest.approx(slow(weight, rounded), rel=1e-4, abs=1e-8)
    as_float = replace(weight, zero=weight.zero_in_weight_units(), domain="float")
    assert max_error(weight, as_float) == pytest.approx(slow(weight, as_float), abs=1e-8)


@pytest.mark.parametrize("target", [one for one in TARGETS.values() if one.name != "gguf"], ids=lambda one: one.name)
def test_conv1d_is_known_again_in_a_model_that_is_int4_already(target):
    """A live GPT-2 has layers of ours, which say no more that they were Conv1D: every loader would turn them."""
    model = make("gpt2")
    wb.quantize_(model, wb.Int4WeightOnlyConfig(group_size=32), solver="rtn", domain="symmetric")
    (misfit,) = target.fit(ModelContents(model).outline()).misfits
    assert "conv1d" in misfit.what.lower() and "transformer.h.0.mlp.c_fc" in misfit.layers


def test_codes_that_a_group_does_not_have_do_not_count():
    weight = replace(random_weight(4, 64, 32), codes=torch.full((4, 64), 8, dtype=torch.uint8))
    other = replace(weight, scale=weight.scale * 2)
    assert max_error(weight, other) == 0


def test_other_codes_or_groups_are_compared_element_by_element():
    weight = random_weight(5, 96, 32)
    other = replace(weight, codes=weight.codes.flip(1).contiguous())
    assert max_error(weight, other) == slow(weight, other) > 0
    wide = replace(weight, scale=weight.scale[:, :2], zero=weight.zero[:, :2], group_size=64)
    assert max_error(weight, wide) == slow(weight, wide) > 0
    assert max_error(weight.part(slice(0, 0)), weight.part(slice(0, 0))) == 0
