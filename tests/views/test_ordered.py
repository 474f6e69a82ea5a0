"""Views in the order of the model: what an export stores, and an end at the first weight that is not finite."""

import threading

import pytest
import torch

import workbench as wb
from workbench.calibration import Calibration
from workbench.coverage.preflight import preflight_source
from workbench.errors import Cancelled, WeightError
from workbench.measure.error_map import error_map
from workbench.measure.errors import error_summary
from workbench.recipe.recipe import as_recipe
from workbench.solvers import solve
from workbench.solving import iter_quantize
from workbench.sources import ModelSource
from workbench.views.cache import UPSTREAM
from workbench.views.ordered import iter_ordered_views

TEXT = Calibration(torch.randint(4096, (3, 64), generator=torch.Generator().manual_seed(1)))


@pytest.fixture
def source():
    return ModelSource(wb.demo_model()[0])


@pytest.fixture
def coverage(source):
    options = wb.CalibratedOptions(sweeps=0, candidates=1)
    recipe = as_recipe(
        wb.Int4WeightOnlyConfig(group_size=64), include="layers.0", solver="calibrated", domain="int", options=options
    )
    return preflight_source(source, recipe)


def views(source, coverage, cancel=None):
    cancel = cancel or threading.Event()
    return iter_ordered_views(source, coverage, TEXT, source.model, UPSTREAM, max_side=16, cancel=cancel)


def test_each_view_is_of_what_is_stored_against_round_to_nearest(source, coverage):
    steps = list(iter_quantize(source, coverage, calibration=TEXT))
    found = list(views(source, coverage))
    assert [view.name for _, view in found] == [step.result.name for step in steps]
    for (progress, view), step in zip(found, steps, strict=True):
        weight, config = source.weight(view.name), coverage.configs[view.name]
        assert view.summary == error_summary(weight, step.weight)
        assert view.map == error_map(weight, step.weight, max_rows=16, max_cols=16)
        plain = wb.Int4WeightOnlyConfig(group_size=64).resolved("cpu", domain="int", solver="rtn")
        assert view.rtn == error_summary(weight, solve(weight, plain).weight)
        assert (view.trace, view.solver, view.config, view.exact) == (step.trace, step.result.solver, config, True)
        assert progress.label == f"{view.name}, {view.solver}"
        assert view.notes[0] == (UPSTREAM.note if view.solver == "calibrated" else step.result.notes[0])
    assert found[-1][0].done == found[-1][0].total


def test_a_weight_that_is_not_finite_ends_it_and_so_does_cancel(source, coverage):
    with torch.no_grad():
        source.model.model.layers[0].mlp.up_proj.weight[0, 1] = torch.inf
    seen = []
    with pytest.raises(WeightError, match=r"up_proj\[0, 1\] is inf"):
        seen.extend(views(source, coverage))
    assert {view.name.rsplit(".", 1)[1] for _, view in seen} >= {"q_proj", "k_proj", "v_proj", "o_proj"}
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        list(views(source, coverage, cancel))
