"""Settings held fast as "A" beside those of now: recomputed for each layer, never stale, and told as they come."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.session.stand_ins import GATE, TIMEOUT_S, Heard, toy
from workbench.measure.difference import pair_of_maps
from workbench.measure.errors import error_summary
from workbench.session import Session
from workbench.solvers import solve


@pytest.fixture
def demo(demo):
    """The session with its first view."""
    demo.refresh()
    assert demo.wait(TIMEOUT_S)
    return demo


def settled(session):
    assert session.wait(TIMEOUT_S)
    return session.compare.latest


def test_what_is_pinned_is_compared_with_itself_then_with_what_follows(demo, demo_source):
    demo.compare.pin()
    same = settled(demo)
    assert (same.a, same.better) == (same.b, "")
    demo.configure(group_size=128, domain="int")
    found = settled(demo)
    weight = demo_source.weight(demo.current)
    configs = [replace(demo.resolved(), group_size=64, domain="float", preserve_zero=False), demo.resolved()]
    assert [side.config.group_size for side in (found.a, found.b)] == [64, 128]
    stored = [solve(weight, config).weight for config in (found.a.config, found.b.config)]
    assert [found.a.summary, found.b.summary] == [error_summary(weight, one) for one in stored]
    assert found.maps == pair_of_maps(weight, *stored)
    assert found.better == "A" and found.a.config.domain == configs[0].domain
    assert str(found.b) == "rtn · int · group size 128"


def test_another_layer_brings_its_own_a_and_drops_the_old_at_once(demo, demo_source):
    demo.compare.pin()
    demo.configure(solver="hqq")
    settled(demo)
    heard = Heard(demo)
    demo.select([GATE])
    assert heard.of("compare")[:1] == [None]
    found = settled(demo)
    assert (found.name, found.b.solver, found.better) == (GATE, "hqq", found.better)
    assert found.a.summary == error_summary(
        demo_source.weight(GATE), solve(demo_source.weight(GATE), found.a.config).weight
    )
    assert {one.name for one in heard.of("compare") if one} == {GATE}


def test_the_metric_on_show_is_compared(demo):
    demo.compare.pin()
    demo.show(metric="sqnr", reduce="mean")
    found = settled(demo)
    assert (found.metric, found.maps.a.metric) == ("sqnr", "sqnr")


def test_nothing_is_compared_before_and_after(demo):
    demo.configure(group_size=32)
    assert settled(demo) is None
    demo.compare.pin()
    assert settled(demo) is not None
    demo.compare.unpin()
    demo.configure(group_size=64)
    assert settled(demo) is None and demo.compare.pinned is None


def test_a_change_while_a_is_being_solved_leaves_nothing_stale():
    source = toy("a", "b", shape=(40, 256))
    session = Session(source)
    session.refresh()
    assert session.wait(TIMEOUT_S)
    session.compare.pin()
    session.configure(group_size=128)
    heard = Heard(session)
    for size in (32, 256, 64, 32, 128):
        session.configure(group_size=size)
    session.select(["b"])
    found = settled(session)
    assert (found.name, found.b.config.group_size, found.a.config.group_size) == ("b", 128, 64)
    for one in heard.of("compare"):
        assert one is None or one.a.config.group_size == 64
    assert session.compare.lane.current is None
