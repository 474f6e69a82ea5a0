"""The bytes of a row are those of what is stored later."""

from __future__ import annotations

import pytest
import torch

import workbench as wb
from tests.tiny_models import make
from workbench.config import DOMAINS, GROUP_SIZES
from workbench.coverage.preflight import preflight_source
from workbench.coverage.rows import planned_bytes
from workbench.recipe.recipe import as_recipe
from workbench.records.layers import LayerRecord
from workbench.solving import iter_quantize
from workbench.sources import ModelSource

G32 = wb.Int4WeightOnlyConfig(group_size=32)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("group_size", GROUP_SIZES)
def test_planned_bytes_are_those_of_the_result(group_size, domain):
    source = ModelSource(make("llama_odd"))
    recipe = as_recipe(wb.Int4WeightOnlyConfig(group_size=group_size), domain=domain)
    coverage = preflight_source(source, recipe)
    for step, row in zip(iter_quantize(source, coverage), coverage.int4_rows, strict=True):
        assert row.after_bytes == step.weight.size_bytes
        assert row.bits_per_weight == pytest.approx(step.weight.bits_per_weight)


def test_planned_bytes_by_hand():
    record = LayerRecord("a", "linear", (10, 77), "float32", 10 * 77 * 4)
    groups, codes = 10 * 3, 10 * 39
    for domain, per_group in (("float", 4), ("int", 3), ("symmetric", 2)):
        assert planned_bytes(record, G32.resolved("cpu", domain=domain)) == codes + groups * per_group
    wide = G32.resolved("cpu", domain="float", scale_dtype=torch.float32)
    assert planned_bytes(record, wide) == codes + groups * 8
