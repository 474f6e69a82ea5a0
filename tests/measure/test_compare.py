"""Solvers side by side: each as if it were run and measured alone, and a table that says all of it."""

from __future__ import annotations

import copy
import dataclasses
import json
import threading

import pytest
import torch

import workbench as wb
from tests.tiny_models import logits, make
from workbench.calibration import Calibration
from workbench.errors import Cancelled, ConfigError
from workbench.linear import Int4Linear
from workbench.measure.compare import SolverComparison, compare_solvers
from workbench.measure.quality import measure_quality

CONFIG = wb.Int4WeightOnlyConfig(group_size=32)
IDS = torch.randint(97, (100,), generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def model():
    return make("qwen2")


@pytest.fixture(scope="module")
def comparison(model):
    return compare_solvers(model, CONFIG, IDS, solvers=("rtn", "hqq"), window=32)


def test_each_solver_is_measured_as_if_alone(model, comparison):
    assert list(comparison.qualities) == list(comparison.reports) == ["rtn", "hqq"]
    for solver, quality in comparison.qualities.items():
        alone = copy.deepcopy(model)
        report = wb.quantize_(alone, CONFIG, solver=solver)
        assert measure_quality(alone, IDS, reference=model, window=32) == quality
        found = comparison.reports[solver].layers
        assert [(one.name, one.solver, one.error) for one in found] == [
            (one.name, one.solver, one.error) for one in report.layers
        ]


def test_the_model_is_left_as_it_is(model):
    before = logits(model)
    compare_solvers(model, CONFIG, IDS, solvers=("rtn",), window=32)
    assert torch.equal(logits(model), before)
    assert not any(isinstance(module, Int4Linear) for module in model.modules())


def test_a_solver_that_the_configuration_names_does_not_stand_in_the_way(model, comparison):
    cfg = dataclasses.replace(CONFIG, use_hqq=True)
    found = compare_solvers(model, cfg, IDS, solvers=("rtn", "hqq"), window=32)
    assert found.qualities == comparison.qualities


def test_the_table_has_a_row_for_each_solver_and_the_dense_model(comparison):
    head, names, dense, *rows = str(comparison).splitlines()
    assert head == "group size 32; 96 tokens in 4 windows of 32"
    assert names.split()[:2] == ["solver", "perplexity"] and "of rtn" in names
    first, second = comparison.qualities.values()
    assert dense.split() == ["dense", f"{first.reference_perplexity:.3f}"]
    assert [row.split()[:3] for row in rows] == [
        [solver, f"{quality.perplexity:.3f}", f"{quality.mean_kl:.5f}"]
        for solver, quality in comparison.qualities.items()
    ]
    assert f" {second.mean_kl / first.mean_kl:.3f} " in rows[1] and " 1.000 " in rows[0]
    assert len({len(row) for row in (names, *rows)}) == 1  # the columns line up


def test_what_solvers_said_of_layers_is_in_the_table(comparison):
    report = comparison.reports["hqq"]
    layers = [
        dataclasses.replace(layer, notes=("fell back to refined: few tokens",) if place < 2 else ())
        for place, layer in enumerate(report.layers)
    ]
    layers[2] = dataclasses.replace(layers[2], notes=("damped by 0.1",))
    said = SolverComparison(
        32, comparison.qualities, {**comparison.reports, "hqq": dataclasses.replace(report, layers=tuple(layers))}
    )
    assert str(said).splitlines()[-2:] == [
        f"note: hqq: {layers[0].name}, {layers[1].name}: fell back to refined: few tokens",
        f"note: hqq: {layers[2].name}: damped by 0.1",
    ]


def test_a_comparison_without_intervals_and_without_divergence_prints(comparison):
    short = dataclasses.replace(comparison.qualities["rtn"], kl_interval=None, mean_kl=0.0)
    text = str(SolverComparison(32, {"rtn": short}, {"rtn": comparison.reports["rtn"]}))
    assert "±" not in text and " 0.00000 " in text and " - " in text


def test_it_goes_to_json(comparison):
    data = json.loads(json.dumps(comparison.to_json(), allow_nan=False))
    assert set(data) == {"group_size", "qualities", "seconds", "notes"}
    assert data["qualities"]["hqq"]["mean_kl"] == comparison.qualities["hqq"].mean_kl
    assert data["seconds"]["hqq"] == comparison.reports["hqq"].seconds


def test_progress_says_what_is_done(model):
    told = []
    compare_solvers(model, CONFIG, IDS, solvers=("rtn", "hqq"), window=32, progress=told.append)
    kinds = list(dict.fromkeys(one.label.split(":")[0] for one in told))
    assert kinds == ["rtn", "hqq", "measuring"] and told[-1].label == "measuring: window 4 of 4"


def test_cancel_stops_it(model):
    cancel, told = threading.Event(), []
    with pytest.raises(Cancelled):
        compare_solvers(
            model,
            CONFIG,
            IDS,
            solvers=("rtn", "hqq"),
            progress=lambda one: told.append(one) or cancel.set(),
            cancel=cancel,
        )
    assert len(told) == 1


@pytest.mark.parametrize("solvers", [(), ("rtn", "rtn"), ("rtn", "awq")])
def test_solvers_that_cannot_be_compared_are_refused(model, solvers):
    with pytest.raises(ConfigError, match=r"solvers=.*each at most once: rtn, hqq, refined, calibrated"):
        compare_solvers(model, CONFIG, IDS, solvers=solvers)


def test_calibrated_gets_its_text_and_what_was_left_of_it_is_said(model):
    calibration = Calibration(IDS[:64].view(4, 16), notes=("64 of 100 tokens are used",))
    few = wb.CalibratedOptions().min_tokens
    found = compare_solvers(model, CONFIG, IDS, solvers=("refined", "calibrated"), calibration=calibration, window=32)
    alone = copy.deepcopy(model)
    wb.quantize_(alone, CONFIG, solver="calibrated", calibration=calibration)
    assert found.qualities["calibrated"] == measure_quality(alone, IDS, reference=model, window=32)
    first, second = found.notes()
    assert first == "calibrated: 64 of 100 tokens are used"
    assert (
        f"solved with refined instead of calibrated: 64 tokens of the calibration text reached it, fewer than {few}"
        in second
    )


def test_calibrated_without_a_text_is_refused_before_any_layer_is_solved(model):
    told = []
    with pytest.raises(ConfigError, match=r"'calibrated' without calibration text.*Calibration\.from_text"):
        compare_solvers(model, CONFIG, IDS, progress=told.append)
    assert told == []


def test_bad_tokens_are_refused_before_any_layer_is_solved(model):
    told = []
    with pytest.raises(ConfigError, match="ids is"):
        compare_solvers(model, CONFIG, IDS[:1], solvers=("rtn",), progress=told.append)
    assert told == []
