"""The session's microscope: it follows the layer and the settings, never blocks, and the newest wish wins."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from tests.session.stand_ins import EMBEDDING, GATE, TIMEOUT_S, UP, Heard, Toy, toy, waited
from workbench.errors import ConfigError
from workbench.measure.group_errors import group_errors
from workbench.measure.microscope import microscope
from workbench.session import Session, open_session
from workbench.solvers import solve


def settled(session):
    assert session.wait(TIMEOUT_S)
    return session.microscope.latest


def worst(weight, config, metric="rmse"):
    errors = group_errors(weight, solve(weight, config).weight, metric)
    at = int(errors.argmax())
    return at // errors.shape[1], at % errors.shape[1]


def test_the_first_view_brings_the_worst_group(demo, demo_source):
    heard = Heard(demo)
    demo.refresh()
    view = settled(demo)
    weight, config = demo_source.weight(demo.current), demo.resolved()
    assert demo.microscope.group == worst(weight, config)
    assert view.microscope == microscope(weight, *demo.microscope.group, config, name=demo.current)
    assert view.chosen == "worst group of the layer by RMS error"
    assert heard.of("group") == [view]
    assert heard.threads_of("group") == {"workbench-microscope"}
    assert [job.state for job in heard.of("look")][-1] == "done"


def test_a_group_is_looked_at_and_stays_on_show(demo, demo_source):
    demo.refresh()
    settled(demo)
    waited(demo.microscope.look_at(7, 2))
    view = settled(demo)
    assert demo.microscope.group == (view.microscope.row, view.microscope.group) == (7, 2)
    assert view.chosen == ""
    demo.show(metric="scale")
    assert settled(demo).microscope == view.microscope


def test_another_layer_brings_its_own_worst_group(demo, demo_source):
    demo.microscope.look_at(7, 2)
    demo.select([GATE])
    assert demo.microscope.latest is None or demo.microscope.latest.microscope.name == GATE
    view = settled(demo)
    assert view.microscope.name == GATE
    assert demo.microscope.group == worst(demo_source.weight(GATE), demo.resolved())


def test_the_metric_on_show_says_what_is_worst(demo, demo_source):
    demo.show(metric="relative")
    settled(demo)
    waited(demo.microscope.look_at_worst())
    assert demo.microscope.group == worst(demo_source.weight(demo.current), demo.resolved(), "relative")
    assert settled(demo).chosen == "worst group of the layer by relative error"


def test_the_worst_of_a_block_of_rows_and_groups(demo):
    waited(demo.microscope.look_at_worst(rows=(8, 16), groups=(1, 3)))
    row, group = demo.microscope.group
    assert 8 <= row < 16 and 1 <= group < 3
    assert settled(demo).chosen == "worst of 16 groups by RMS error"


def test_new_settings_show_the_same_weights(demo):
    waited(demo.microscope.look_at(7, 3))
    demo.configure(group_size=32)
    assert demo.microscope.group == (7, 6)
    view = settled(demo)
    assert (view.config.group_size, view.microscope.first_column) == (32, 192)
    demo.configure(group_size=128)
    view = settled(demo)
    assert (demo.microscope.group, view.microscope.first_column, len(view.microscope.weights)) == ((7, 1), 128, 128)
    demo.configure(solver="hqq")
    view = settled(demo)
    assert demo.microscope.group == (7, 1)
    assert view.microscope.variants[view.microscope.current].solver == "hqq"
    assert demo.undo() and demo.undo()
    assert settled(demo).microscope.first_column == 128


def test_no_place_that_there_is_not(demo):
    demo.refresh()
    before = settled(demo)
    for row, group in ((10_000, 0), (0, 99), (-1, 0)):
        with pytest.raises(ConfigError, match="The layer has no"):
            demo.microscope.look_at(row, group)
    with pytest.raises(ConfigError, match="The layer has no row"):
        demo.microscope.look_at_worst(rows=(5, 5))
    assert (demo.microscope.latest, demo.microscope.group) == (before, (before.microscope.row, before.microscope.group))


def test_what_is_not_linear_has_no_groups(demo):
    demo.select([EMBEDDING])
    settled(demo)
    assert (demo.microscope.group, demo.microscope.latest) == (None, None)
    for look in (lambda: demo.microscope.look_at(0, 0), demo.microscope.look_at_worst):
        with pytest.raises(ConfigError, match="no linear layer"):
            look()
    empty = open_session(nn.Sequential(nn.LayerNorm(8)))
    with pytest.raises(ConfigError, match="No layer is on show"):
        empty.microscope.look_at(0, 0)


def test_the_newest_wish_wins_and_nothing_stale_follows_it():
    source = toy("a", shape=(24, 512))
    session = Session(source)
    heard = Heard(session)
    source.gate.clear()
    session.microscope.look_at(0, 0)
    assert source.reading.wait(TIMEOUT_S)
    for group in (1, 2, 3):
        session.microscope.look_at(5, group)
    source.gate.set()
    assert session.wait(TIMEOUT_S)
    assert [(view.microscope.row, view.microscope.group) for view in heard.of("group")] == [(5, 3)]
    assert session.microscope.group == (5, 3)


def test_a_refresh_takes_the_turn_of_a_look_and_brings_it_back():
    source = toy("a")
    session = Session(source)
    source.gate.clear()
    job = session.microscope.look_at(3, 1)
    assert source.reading.wait(TIMEOUT_S)
    session.configure(group_size=32)
    source.gate.set()
    assert waited(job).state == "cancelled"
    view = settled(session)
    assert (view.config.group_size, session.microscope.group) == (32, (3, 2))


@pytest.mark.parametrize("count", range(4))
def test_a_wish_during_a_preview_outlives_it_and_drops_nothing(count):
    session = Session(toy("a"))
    heard = Heard(session)
    session.refresh()
    session.microscope.look_at(2, 0)
    assert session.wait(TIMEOUT_S)
    assert [view.exact for view in heard.of("view")] == [True]
    assert session.microscope.group == (2, 0)


def test_the_worst_of_a_block_wished_for_during_a_preview_is_found_after_it():
    source = toy("a")
    session = Session(source)
    source.gate.clear()
    session.refresh()
    assert source.reading.wait(TIMEOUT_S)
    session.microscope.look_at_worst(rows=(4, 8), groups=(1, 2))
    session.configure(group_size=32)
    source.gate.set()
    view = settled(session)
    assert view.chosen == "worst of 8 groups by RMS error", "4 rows of what were 64 weights"
    assert 4 <= session.microscope.group[0] < 8 and session.microscope.group[1] in (2, 3)


def test_a_nan_in_the_layer_is_a_problem_and_no_group_is_shown():
    weights = {"a": torch.randn(8, 128), "b": torch.randn(8, 128)}
    weights["a"][2, 70] = torch.nan
    session = Session(Toy(weights))
    heard = Heard(session)
    session.refresh()
    assert settled(session) is None
    assert waited(session.microscope.look_at(2, 1)).state == "failed"
    assert "a[2, 70] is nan" in str(heard.of("problem")[-1])
    session.select(["b"])
    assert settled(session).microscope.name == "b"


def test_training_between_two_looks_is_seen():
    model = nn.Sequential(nn.Linear(128, 8))
    session = open_session(model)
    session.refresh()
    before = settled(session).microscope
    with torch.no_grad():
        model[0].weight.mul_(2)
    session.refresh()
    after = settled(session).microscope
    assert (before.row, before.group) == (after.row, after.group)
    assert after.weights == tuple(2 * weight for weight in before.weights)


def test_cancel_stops_it():
    source = toy("a")
    session = Session(source)
    source.gate.clear()
    job = session.microscope.look_at(0, 0)
    assert source.reading.wait(TIMEOUT_S)
    session.cancel()
    source.gate.set()
    assert waited(job).state == "cancelled"


def test_a_listener_may_look_at_a_group_from_any_thread(demo):
    done = threading.Event()

    def follow(event):
        if event.kind == "group" and not done.is_set():
            done.set()
            demo.microscope.look_at(1, 1)

    demo.listen(follow)
    demo.refresh()
    assert done.wait(TIMEOUT_S)
    assert settled(demo) is not None
    assert demo.microscope.group == (1, 1)
    assert UP in demo.coverage.configs
