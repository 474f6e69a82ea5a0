"""The verdict in a line: sizes exact, errors of what was solved, and never a speed that was not measured."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch
from torch import nn

import workbench as wb
import workbench.session.verdict as session_verdict
from tests.improve.test_improve import Toy
from workbench.measure.decode import DecodeSpeed
from workbench.recipe.recipe import Recipe
from workbench.session import open_session
from workbench.session.verdict import MEASURING, Target, relative_error
from workbench.sizes import size


@pytest.fixture
def measured(monkeypatch):
    """What was measured, instead of timing anything."""
    calls = []

    def quick(n, k, group_size, *, device, dtype, cancel):
        calls.append(Target(n, k, group_size, device, dtype))
        yield None
        yield DecodeSpeed(device, "a CPU", dtype, n, k, group_size, 1.0, 2.0, 9)

    monkeypatch.setattr(session_verdict, "iter_decode", quick)
    return calls


def toy():
    return Toy(a=torch.randn(8, 128), b=torch.randn(8, 128), big=torch.randn(16, 256), none=torch.randn(1, 1))


def test_a_session_says_what_it_knows_and_no_more(measured):
    session = open_session(toy())
    assert session.verdict.line().endswith(f"measuring error… · {MEASURING}")
    assert measured == []
    session.refresh()
    assert session.wait(30)
    coverage = session.coverage
    error = session.errors["a"].summary.relative_rmse
    assert session.verdict.line() == (
        f"{size(coverage.before_bytes)} → {size(coverage.after_bytes)}, "
        f"{coverage.before_bytes / coverage.after_bytes:.2f}× smaller · weight error {error:.1%} of a · "
        "decoding 2.00× as fast as dense on this CPU"
    )
    assert measured == [Target(16, 256, 64, "cpu", "float32")]


def test_another_group_size_is_measured_once_and_only_that_counts(measured):
    session = open_session(toy())
    for group_size in (128, 64, 128, 128, 64):
        session.configure(group_size=group_size)
        assert session.wait(30)
        assert session.verdict.speed.group_size == group_size
    session.configure(solver="refined")  # which changes no speed
    session.select(["b"])
    assert session.wait(30)
    assert [target.group_size for target in measured] == [128, 64]


def test_until_a_new_group_size_is_measured_no_number_is_shown(measured, monkeypatch):
    session = open_session(toy())
    session.refresh()
    assert session.wait(30)
    lines, told = [], threading.Event()
    session.listen(lambda event: lines.append(session.verdict.line()) if event.kind == "coverage" else None)
    session.listen(lambda event: event.kind == "coverage" and told.set())
    quick = session_verdict.iter_decode
    monkeypatch.setattr(session_verdict, "iter_decode", lambda *given, **more: told.wait(30) and quick(*given, **more))
    session.configure(group_size=32)
    assert session.wait(30)
    assert lines[0].endswith(MEASURING) and not session.verdict.line().endswith(MEASURING)


def test_it_waits_for_other_work_and_follows_it(measured, monkeypatch):
    source = toy()
    session = open_session(source)
    gate, weight = threading.Event(), source.weight
    monkeypatch.setattr(source, "weight", lambda name: gate.wait(30) and weight(name))
    session.sweep_errors()
    assert session.verdict.follow() is None and measured == []
    gate.set()
    assert session.wait(30)
    assert len(measured) == 1 and session.verdict.speed is not None


def held_up(monkeypatch, go_on):
    """Let each measurement wait for an event; return the one that tells that it has begun."""
    begun = threading.Event()

    def measuring(n, k, group_size, *, device, dtype, cancel):
        yield None
        begun.set()
        assert go_on.wait(30)
        yield DecodeSpeed(device, "a CPU", dtype, n, k, group_size, 1.0, 2.0, 9)

    monkeypatch.setattr(session_verdict, "iter_decode", measuring)
    return begun


def test_what_follows_a_view_that_comes_before_its_recipe_is_told_is_measured(monkeypatch):
    session, told = open_session(toy()), threading.Event()
    session.listen(lambda event: event.kind == "coverage" and told.set())
    begun = held_up(monkeypatch, told)
    refresh = session.views.refresh

    def quick():  # as for a layer that is held already
        job = refresh()
        assert begun.wait(30)
        return job

    monkeypatch.setattr(session.views, "refresh", quick)
    session.configure(group_size=32)
    assert session.wait(30) and session.verdict.speed.group_size == 32


def test_more_layers_in_the_selection_leave_a_measurement_alone(monkeypatch):
    session, go_on = open_session(toy()), threading.Event()
    begun = held_up(monkeypatch, go_on)
    session.refresh()
    assert begun.wait(30)
    session.select(["a", "b"], current="a")
    go_on.set()
    assert session.wait(30) and session.verdict.speed is not None


def test_it_begins_anew_where_the_work_that_it_gave_way_to_has_ended_already(measured, monkeypatch):
    session = open_session(toy())
    busy = iter([False, True])  # when it is begun, and when it has measured

    class Work:
        @property
        def busy(self):
            return next(busy, False)

    monkeypatch.setattr(session, "work", Work())
    session.verdict.follow()
    assert session.verdict.lane.wait(30)
    assert len(measured) == 2 and session.verdict.speed is not None


def test_what_a_person_has_stopped_is_not_said_to_be_measured(measured, monkeypatch):
    source, gate = toy(), threading.Event()
    session, weight = open_session(source), source.weight
    monkeypatch.setattr(source, "weight", lambda name: gate.wait(30) and weight(name))
    session.refresh()
    told = []
    session.listen(lambda event: told.append(session.verdict.line()) if event.kind == "verdict" else None)
    session.cancel()
    gate.set()
    assert session.wait(30) and measured == []
    assert told[0].endswith("error not measured: stopped · speed not measured: stopped")
    session.configure(group_size=32)
    assert session.wait(30) and "stopped" not in session.verdict.line()
    assert session.verdict.speed.group_size == 32


@pytest.fixture
def first_waits(monkeypatch):
    """Measurements of which the first ends only when it is cancelled: set once it runs, and how many there were."""
    begun, runs = threading.Event(), []

    def held_up(n, k, group_size, *, device, dtype, cancel):
        runs.append(group_size)
        yield None
        begun.set()
        if len(runs) == 1:
            assert cancel.wait(30)
        yield DecodeSpeed(device, "a CPU", dtype, n, k, group_size, 1.0, 2.0, 9)

    monkeypatch.setattr(session_verdict, "iter_decode", held_up)
    return begun, runs


def test_a_stopped_measurement_is_begun_with_the_next_work(first_waits):
    session, (begun, runs) = open_session(toy()), first_waits
    session.refresh()
    assert begun.wait(30)
    session.cancel()
    assert session.wait(30) and session.verdict.line().endswith("speed not measured: stopped")
    session.sweep_errors()
    assert session.wait(30) and session.verdict.speed is not None and len(runs) == 2


def test_a_weight_without_a_view_lets_the_measurement_begin_anew(first_waits):
    session, (begun, runs) = open_session(nn.Sequential(nn.Linear(128, 64), nn.LayerNorm(64))), first_waits
    session.refresh()
    assert begun.wait(30)
    session.select(["1"])
    assert session.wait(30) and session.verdict.speed is not None and len(runs) == 2


def test_all_layers_solved_are_summed_up(measured):
    source = toy()
    session = open_session(source)
    session.sweep_errors()
    assert session.wait(30)
    views = list(session.errors.values())
    noise = sum(view.summary.mse * view.summary.count for view in views)
    signal = sum(float(source.weight(view.name).double().square().sum()) for view in views)
    assert relative_error(views) == pytest.approx((noise / signal) ** 0.5)
    assert session.verdict.error_said() == f"weight error {(noise / signal) ** 0.5:.1%} of all layers in int4"


def test_a_weight_that_stays_dense_is_on_show_and_no_layer_is_solved(measured):
    session = open_session(nn.Sequential(nn.Linear(128, 64), nn.LayerNorm(64)))
    session.select(["1"])
    assert session.wait(30)
    assert session.verdict.error_said() == "error not measured"


def test_a_device_that_is_not_here_is_said(measured):
    session = open_session(toy(), device="xpu")
    session.refresh()
    assert session.wait(30)
    assert session.verdict.line().endswith("speed not measured: xpu is not on this machine")
    assert measured == []


def test_a_measurement_that_fails_is_said_and_not_tried_again(monkeypatch):
    def broken(*_, **__):
        yield None
        raise RuntimeError("no kernel")

    monkeypatch.setattr(session_verdict, "iter_decode", broken)
    session = open_session(toy())
    problems = []
    session.listen(lambda event: problems.append(event.data) if event.kind == "problem" else None)
    session.refresh()
    assert session.wait(30)
    assert session.verdict.line().endswith("speed not measured: no kernel")
    session.refresh()
    assert session.wait(30) and len(problems) == 1


def test_without_int4_layers_nothing_is_measured(measured):
    session = open_session(toy())
    session.set_recipe(Recipe(None))
    assert session.wait(30)
    assert session.verdict.line() == f"No weight becomes int4: {size(session.coverage.before_bytes)} stay as they are."
    assert session.verdict.target() is None and session.verdict.speed is None and measured == []


def test_a_model_that_is_int4_already_is_said_to_be(measured):
    model = nn.Sequential(nn.Linear(64, 96), nn.Linear(96, 64))
    wb.quantize_(model, wb.Int4WeightOnlyConfig(group_size=32))
    session = open_session(model, recipe=Recipe())
    total = size(session.coverage.before_bytes)
    assert (
        session.verdict.line()
        == f"2 layers are int4 already, {total}: open the model that it was made from to choose anew."
    )


def test_a_layer_that_is_exact_has_no_error():
    session = open_session(Toy(a=torch.zeros(8, 64)))
    session.refresh()
    assert session.wait(30)
    assert session.verdict.error_said() == "weight error 0.0% of a"
    assert relative_error([replace(view) for view in session.errors.values()]) == 0.0


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("model.layers.0.self_attn.q_proj", "0.self_attn.q_proj"),
        ("model.layers.3.experts.12.up", "12.up"),
        ("lm_head", "lm_head"),
    ],
)
def test_names_in_the_line_are_short(name, short):
    assert session_verdict.short_name(name) == short
