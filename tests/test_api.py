"""wb.preflight: a live model, a folder and a name give the same answer."""

from __future__ import annotations

import pytest

import workbench as wb
from tests.tiny_models import saved
from workbench.errors import ConfigError, ModelError, PatternError
from workbench.hf.loading import load_model
from workbench.recipe.recipe import Choice, Recipe

G32 = wb.Int4WeightOnlyConfig(group_size=32)


def test_a_model_its_folder_and_a_name_agree(tmp_path):
    folder = saved("qwen2", tmp_path)
    model, _ = load_model(folder)
    want = wb.preflight(model, G32)
    assert wb.preflight(folder, G32).rows == want.rows
    assert wb.preflight(str(folder), Recipe(default=Choice(G32))).rows == want.rows
    assert wb.preflight("demo").rows == wb.preflight(wb.demo_model()[0]).rows


def test_nothing_is_changed():
    model, _ = wb.demo_model()
    before = [(name, parameter.data_ptr()) for name, parameter in model.named_parameters()]
    wb.preflight(model)
    assert [(name, parameter.data_ptr()) for name, parameter in model.named_parameters()] == before


def test_settings_reach_the_rows():
    coverage = wb.preflight("demo", include="mlp", exclude="down_proj", solver="hqq", domain="int")
    assert {row.reason for row in coverage.int4_rows} == {"pattern 'mlp': g128 int hqq"}
    assert {row.name.rsplit(".", 1)[-1] for row in coverage.int4_rows} == {"gate_proj", "up_proj"}


@pytest.mark.parametrize(
    ("model", "settings", "error"),
    [
        ("nowhere", {}, ModelError),
        ("demo", {"include": "nothing"}, PatternError),
        ("demo", {"min_coverage": 1.0, "include": "mlp"}, ConfigError),
        ("demo", {"recipe": Recipe(), "include": "mlp"}, ConfigError),
        ("demo", {"recipe": "fast"}, ConfigError),
        ("demo", {"solver": "magic"}, ConfigError),
        ("demo", {"domain": "none"}, ConfigError),
    ],
)
def test_what_cannot_be_is_refused(model, settings, error):
    with pytest.raises(error):
        wb.preflight(model, **settings)
