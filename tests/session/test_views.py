"""The view of the layer on show: of the newest settings, never stale, and with its problems told."""

import pytest
import torch
from torch import nn

from tests.session.stand_ins import GATE, TIMEOUT_S, Heard, Toy, toy, waited
from workbench.errors import ConfigError
from workbench.measure.errors import error_summary
from workbench.session import Session, open_session
from workbench.solvers import solve


def test_the_view_after_a_change_is_of_the_new_settings(demo, demo_source):
    heard = Heard(demo)
    demo.select([GATE])
    demo.configure(group_size=32, solver="hqq", scope="layer")
    assert demo.wait(TIMEOUT_S)
    view = heard.of("view")[-1]
    config = demo.coverage.configs[GATE]
    weight = demo_source.weight(GATE)
    assert (view.name, view.config, view.exact, view.badge) == (GATE, config, True, "exact")
    assert view.summary == error_summary(weight, solve(weight, config).weight)
    assert demo.errors[GATE] == view


def test_show_changes_metric_and_reduction_and_nothing_else(demo):
    heard = Heard(demo)
    demo.show(metric="scale")
    assert demo.wait(TIMEOUT_S)
    demo.show(reduce="mean")
    assert demo.wait(TIMEOUT_S)
    assert [view.map.metric for view in heard.of("view")] == ["scale", "scale"]
    assert (demo.metric, demo.reduce) == ("scale", "mean")
    for wrong in ({"metric": "beauty"}, {"reduce": "median"}):
        with pytest.raises(ConfigError, match="Allowed"):
            demo.show(**wrong)
    assert (demo.metric, demo.reduce) == ("scale", "mean")
    assert heard.of("coverage") == []


def test_a_newer_request_wins_and_nothing_stale_follows_it():
    source = toy("a", "b")
    session = Session(source)
    heard = Heard(session)
    source.gate.clear()
    session.refresh()
    assert source.reading.wait(TIMEOUT_S)
    for group_size in (32, 128, 256, 32):
        session.configure(group_size=group_size)
    source.gate.set()
    assert session.wait(TIMEOUT_S)
    assert [view.group_size for view in heard.of("view")] == [32]
    assert session.errors["a"].group_size == 32
    states = {job.state for job in heard.of("job")}
    assert states <= {"done", "cancelled"}


def test_selecting_what_is_not_linear_drops_the_view_under_way():
    source = toy("a", "table", kinds={"table": "embedding"})
    session = Session(source)
    heard = Heard(session)
    source.gate.clear()
    session.refresh()
    assert source.reading.wait(TIMEOUT_S)
    session.select(["table"])
    source.gate.set()
    assert session.wait(TIMEOUT_S)
    assert heard.of("view") == []


def test_the_true_place_of_a_nan_is_named_for_a_weight_that_is_sampled_first():
    source = Toy({"bad": torch.zeros(2048, 1024)})
    source.weights["bad"][8::8, 5] = float("nan")
    session = Session(source)
    heard = Heard(session)
    waited(session.refresh())
    assert "bad[8, 5] is nan" in str(heard.of("problem")[0])


def test_a_live_weight_that_was_trained_is_solved_anew():
    model = nn.Sequential(nn.Linear(128, 64))
    session = open_session(model)
    heard = Heard(session)
    waited(session.refresh())
    with torch.no_grad():
        model[0].weight.mul_(3)
    waited(session.refresh())
    first, second = heard.of("view")
    assert second.summary.rmse == pytest.approx(3 * first.summary.rmse, rel=0.05)
