"""What a measurement of quality is of: plans are equal as long as recipe, text, window and weights are."""

import pytest

import workbench as wb
from tests.calibrated_models import Letters
from tests.session.stand_ins import toy
from workbench.coverage.preflight import preflight_source
from workbench.recipe.recipe import Choice, Recipe
from workbench.session.calibration import SessionCalibration
from workbench.session.quality_plan import Planner, recipe_label
from workbench.session.quality_text import QualityText

SOURCE = toy("a", "b")
TEXT = QualityText("words to measure on")


def coverage_of(solver="rtn", group_size=32):
    return preflight_source(SOURCE, Recipe(Choice(wb.Int4WeightOnlyConfig(group_size=group_size), solver)))


@pytest.fixture
def calibration():
    return SessionCalibration(SOURCE, Letters(), in_turn=lambda steps, _: steps, on_state=print, on_job=print)


def test_a_plan_holds_until_recipe_text_window_or_weights_change(calibration):
    now = [coverage_of()]
    planner = Planner(calibration, lambda: now[0])
    plan = planner.now(TEXT, 512, 1)
    assert planner.now(QualityText(TEXT.text), 512, 1) == plan
    others = [planner.now(QualityText("other"), 512, 1), planner.now(TEXT, 2048, 1), planner.now(TEXT, 512, 2)]
    assert all(other.recipe == plan.recipe and other.key != plan.key for other in others)
    now[0] = coverage_of(group_size=64)
    assert planner.now(TEXT, 512, 1).recipe != plan.recipe
    now[0] = coverage_of()
    assert planner.now(TEXT, 512, 1) == plan


def test_the_calibration_text_counts_where_a_layer_is_calibrated(calibration):
    now = [coverage_of("calibrated")]
    planner = Planner(calibration, lambda: now[0])
    before = planner.now(TEXT, 512, 1)
    calibration.put(f"more {TEXT.text} more", "here")
    assert planner.now(TEXT, 512, 1).key != before.key
    assert planner.calibrated_on(TEXT) and not planner.calibrated_on(QualityText("other"))
    now[0] = coverage_of()
    plan = planner.now(TEXT, 512, 1)
    assert not planner.calibrated_on(TEXT)
    calibration.put("other", "here")
    assert planner.now(TEXT, 512, 1) == plan


def test_a_recipe_is_named_by_its_most_common_settings():
    assert recipe_label(coverage_of()).startswith("2 layers g32 float rtn, ")
    assert recipe_label(preflight_source(SOURCE, Recipe(None))).startswith("nothing int4, ")
