"""Neighbouring settings in idle time: solved into the cache, told to nobody, and out of the way of everything else."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from tests.session.stand_ins import TIMEOUT_S, Heard, toy
from workbench.config import Int4WeightOnlyConfig
from workbench.recipe.recipe import Choice
from workbench.session import Session, open_session
from workbench.session import ahead as session_ahead
from workbench.session.ahead import machine_is_idle, neighbours
from workbench.solvers import solve
from workbench.views.cache import ViewCache


@pytest.fixture(autouse=True)
def _short_rest(monkeypatch):
    monkeypatch.setattr(session_ahead, "_REST_S", 0.01)
    monkeypatch.setattr(session_ahead, "_POLL_S", 0.005)


def opened(source=None):
    session = Session(source or toy("a", shape=(24, 256)))
    session.ahead.on, session.ahead.idle = True, lambda: True
    return session


def settled(session):
    assert session.wait(TIMEOUT_S)
    assert session.ahead.lane.wait(TIMEOUT_S)


def test_neighbours_are_one_change_away_and_can_be():
    choice = Choice(Int4WeightOnlyConfig(group_size=64))
    own, found = choice.resolved("cpu"), neighbours(choice, "cpu")
    assert [config.group_size for config in found[:2]] == [128, 32]
    assert {config.solver for config in found} == {"rtn", "hqq"}
    assert {config.domain for config in found} == {"float", "int", "symmetric"}
    for config in found:
        changed = [getattr(config, name) != getattr(own, name) for name in ("group_size", "solver", "domain")]
        assert sum(changed) <= 1
    largest = neighbours(Choice(Int4WeightOnlyConfig(group_size=256)), "cpu")
    assert [config.group_size for config in largest[:1]] == [128]
    hqq = neighbours(Choice(Int4WeightOnlyConfig(group_size=64, use_hqq=True)), "cpu")
    assert all(config.domain != "symmetric" or config.solver != "hqq" for config in hqq)


def test_a_neighbour_is_there_at_once_and_is_what_solving_it_gives(monkeypatch):
    session = opened()
    heard = Heard(session)
    session.refresh()
    settled(session)
    assert [view.config.group_size for view in heard.of("view")] == [64], "told to nobody"
    for done_before in ("solve", "error_map"):
        monkeypatch.setattr(f"workbench.views.cache.{done_before}", None)
    session.configure(group_size=128)
    assert session.wait(TIMEOUT_S)
    view = heard.of("view")[-1]
    session.ahead.lane.cancel()
    found = session._cache.get("a", view.config).quantized
    assert torch.equal(found.codes, solve(session.source.weights["a"], view.config).weight.codes)


def test_it_is_off_unless_it_is_wanted_and_waits_while_the_machine_is_busy():
    session = opened()
    session.ahead.on = False
    session.refresh()
    settled(session)
    assert len(session._cache) == 1
    asked = threading.Event()
    session.ahead.on, session.ahead.idle = True, lambda: bool(asked.set())
    session.refresh()
    assert session.wait(TIMEOUT_S) and asked.wait(TIMEOUT_S)
    assert len(session._cache) == 1
    session.cancel()
    settled(session)
    assert len(session._cache) == 1


def test_a_change_ends_it_and_what_begins_interrupts_it(monkeypatch):
    session = opened(toy("a", "b", shape=(24, 256)))
    begun, seen, held = threading.Event(), [], [True]
    real = solve

    def held_up(weight, config, *, cancel=None, **rest):
        if threading.current_thread().name == "workbench-ahead":
            begun.set()
            seen.append(config.group_size)
            while held and not cancel.is_set():
                time.sleep(0.005)
        return real(weight, config, cancel=cancel, **rest)

    monkeypatch.setattr("workbench.views.cache.solve", held_up)
    session.refresh()
    assert begun.wait(TIMEOUT_S)
    session.show(metric="max")  # no change of settings: it steps aside, and begins again
    assert session.wait(TIMEOUT_S)
    held.clear()
    settled(session)
    assert seen[:2] == [128, 128]
    begun.clear()
    held.append(True)
    session.select(["b"])
    assert begun.wait(TIMEOUT_S)
    job = session.ahead.lane.current
    session.select(["a"])
    assert job.wait(TIMEOUT_S) and job.state == "cancelled"
    held.clear()
    settled(session)


def test_it_pushes_nothing_out_of_the_cache():
    session = opened()
    session._cache.max_bytes = (
        24 * 256 * 4 + 24 * 256 + 24 * 4 * 4 + 24 * 4 + 1
    )  # weight, codes, scales and zeros, picture
    session.refresh()
    settled(session)
    assert len(session._cache) == 1 and session._cache.held_bytes <= session._cache.max_bytes


def test_calibrated_layers_are_left_to_the_person():
    session = open_session("demo")
    session.configure(solver="calibrated")
    assert all(config.solver != "calibrated" for config in neighbours(session.choice(), "cpu"))
    session.cancel()


def test_the_machine_says_whether_it_is_idle(monkeypatch):
    monkeypatch.setattr(session_ahead.os, "cpu_count", lambda: 4)
    for load, idle in ((0.1, True), (2.9, True), (3.0, False), (9.0, False)):
        monkeypatch.setattr(session_ahead.os, "getloadavg", lambda load=load: (load, 0.0, 0.0))
        assert machine_is_idle() == idle


def test_the_cache_stays_within_its_bound_over_many_changes():
    session = opened(toy("a", "b", shape=(24, 256)))
    cache: ViewCache = session._cache
    cache.max_bytes = 200_000
    for round_ in range(60):
        session.configure(group_size=(32, 64, 128, 256)[round_ % 4], solver=("rtn", "hqq")[round_ // 4 % 2])
        session.select(["ab"[round_ % 2]])
        session.wait(TIMEOUT_S)
        assert cache.held_bytes <= cache.max_bytes
    settled(session)
    assert cache.held_bytes <= cache.max_bytes
