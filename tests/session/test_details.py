"""Histograms and output error of the layer on show: they follow it, and nothing stale is kept or told."""

from __future__ import annotations

import threading

import pytest
import torch

from tests import tiny_models
from tests.session.stand_ins import GATE, TIMEOUT_S, Heard, toy
from workbench.demo import demo_calibration_text
from workbench.errors import Cancelled, ConfigError
from workbench.measure.errors import error_summary, histogram
from workbench.session import Session, open_session
from workbench.solvers import InputMoments, solve
from workbench.views.cache import Inputs


def settled(session):
    assert session.wait(TIMEOUT_S)
    return session.details.latest


def test_they_follow_layer_and_settings(demo, demo_source):
    heard = Heard(demo)
    demo.refresh()
    first = settled(demo)
    for change in (lambda: demo.select([GATE]), lambda: demo.configure(group_size=128)):
        change()
        found = settled(demo)
        weight, config = demo_source.weight(demo.current), demo.resolved()
        assert (found.name, found.config) == (demo.current, config)
        assert found.spread.histogram == histogram(weight, solve(weight, config).weight, 96)
        assert found.output is None and found.inputs == ""
    assert heard.of("details")[0] == first
    assert heard.threads_of("details") == {"workbench-details"}


def test_another_metric_counts_nothing_again(demo, monkeypatch):
    demo.refresh()
    first = settled(demo)
    monkeypatch.setattr("workbench.session.details.iter_spread", None)
    demo.show(metric="max")
    assert settled(demo) == first


def test_the_output_error_comes_where_the_inputs_are_held(demo):
    demo.configure(solver="calibrated")
    found = settled(demo)
    inputs = demo.calibration.inputs(demo.current)
    assert 0 < found.output.relative < 1
    assert (found.output.tokens, found.inputs) == (inputs.moments.tokens, inputs.note)
    demo.configure(solver="rtn")
    nearest = settled(demo)
    assert nearest.output.relative > found.output.relative, "the calibrated solver was made for this"


def test_the_output_error_is_measured_where_it_is_asked_for_and_follows_from_then_on(demo):
    demo.calibration.set_text(demo_calibration_text()[:20_000])
    demo.refresh()
    assert settled(demo).output is None and demo.calibration.inputs(demo.current) is None
    demo.details.measure_output()
    first = settled(demo)
    assert first.name == demo.current and 0 < first.output.relative < 1 and "dense model" in first.inputs
    demo.configure(group_size=32)
    finer = settled(demo)
    assert finer.config.group_size == 32 and 0 < finer.output.relative < first.output.relative
    demo.select([GATE])
    assert settled(demo).name == GATE and settled(demo).output is not None
    demo.calibration.set_text(demo_calibration_text()[20_000:40_000])
    assert settled(demo).output is not None
    assert settled(demo).output.tokens == demo.calibration.inputs(GATE).moments.tokens


def test_inputs_that_come_while_the_details_are_begun_are_used(monkeypatch):
    session, known = Session(toy("a", shape=(24, 128))), threading.Event()
    moments = InputMoments.empty(128)
    moments.add(torch.randn(40, 128))
    held = Inputs(moments, "inputs of a test", "inputs")
    object.__setattr__(session.details.means, "inputs", lambda name: held if known.is_set() else None)
    begin = session.details.begin

    def late(*given):
        known.set()  # another thread has collected them since the view was followed
        return begin(*given)

    monkeypatch.setattr(session.details, "begin", late)
    session.refresh()
    found = settled(session)
    assert found.output is not None and found.inputs == "inputs of a test"


def test_an_output_error_that_is_cancelled_is_not_begun_again_by_the_next_view(demo, monkeypatch):
    demo.refresh()
    settled(demo)
    begun = threading.Event()

    def stuck(names, calibration, stamp, cancel):
        begun.set()
        assert cancel.wait(TIMEOUT_S)
        raise Cancelled("stopped")
        yield

    monkeypatch.setattr(demo.calibration, "_collected", lambda names, text, cancel: stuck(names, text, "", cancel))
    demo.details.measure_output()
    assert begun.wait(TIMEOUT_S)
    demo.cancel()
    assert settled(demo).output is None and not demo.details.wants_output
    demo.configure(group_size=32)
    assert settled(demo).output is None and not demo.calibration.lane.busy


def test_an_output_error_without_a_text_or_a_layer_says_what_to_do():
    session = open_session(tiny_models.make("mixtral"))
    heard = Heard(session)
    with pytest.raises(ConfigError, match="paste some pages"):
        session.details.measure_output()
    assert session.details.wants_output and heard.of("calibration"), "the place where a text is given is shown"
    session.select(["model.layers.0.mlp.experts.down_proj"])
    with pytest.raises(ConfigError, match="a stack of experts"):
        session.details.measure_output()
    session.select(["model.embed_tokens"])
    with pytest.raises(ConfigError, match="no linear layer"):
        session.details.measure_output()
    assert session.wait(TIMEOUT_S)


def test_what_a_change_overtakes_is_neither_kept_nor_told():
    session = Session(toy("a", "b", shape=(40, 128)))
    heard = Heard(session)
    begun, go_on = threading.Event(), threading.Event()
    real = session.details.means.inputs

    def held_up(name):
        begun.set()
        assert go_on.wait(TIMEOUT_S)
        return real(name)

    object.__setattr__(session.details.means, "inputs", held_up)
    session.refresh()
    assert begun.wait(TIMEOUT_S)
    session.select(["b"])
    go_on.set()
    assert settled(session).name == "b"
    assert {found.name for found in heard.of("details")} == {"b"}


def test_a_weight_of_a_live_model_that_changed_is_counted_again():
    model = torch.nn.Sequential(torch.nn.Linear(128, 8))
    session = open_session(model)
    session.refresh()
    before = settled(session)
    with torch.no_grad():
        model[0].weight.mul_(2)
    session.refresh()
    assert settled(session).spread.histogram.limit == 2 * before.spread.histogram.limit


@pytest.mark.parametrize(
    ("family", "layer"),
    [("gpt2", "transformer.h.0.mlp.c_proj"), ("mixtral", "model.layers.0.mlp.experts.down_proj")],
)
def test_each_kind_of_layer_of_a_live_model_is_shown_whole(family, layer):
    session = open_session(tiny_models.make(family))
    heard = Heard(session)
    session.compare.pin()
    session.select([layer])
    session.configure(group_size=32)
    details = settled(session)
    assert heard.of("problem") == []
    assert [details.name, session.microscope.latest.microscope.name, session.compare.latest.name] == [layer] * 3
    weight = session.source.weight(layer).contiguous()
    assert session.errors[layer].summary == error_summary(weight, solve(weight, session.resolved()).weight)
