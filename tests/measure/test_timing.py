"""Interleaving, budgets and cancel, on a clock that is ours."""

from __future__ import annotations

import threading

import pytest
import torch

from workbench.errors import Cancelled
from workbench.measure import timing
from workbench.measure.timing import (
    cache_bytes,
    copies_beyond_cache,
    environment,
    rotating,
    rotation_bytes,
    time_interleaved,
)


class Clock:
    """Runs a call and says that it took what the call returned, in seconds."""

    def __init__(self):
        self.order = []

    def __call__(self, call):
        name, seconds = call()
        self.order.append(name)
        return seconds


def named(**seconds):
    return {name: lambda name=name, value=value: (name, value) for name, value in seconds.items()}


def test_calls_take_turns_and_the_order_is_reversed_every_round():
    clock = Clock()
    times = time_interleaved(named(a=1.0, b=2.0, c=3.0), timer=clock, budget_s=0, min_runs=4, warm_up=1)
    assert "".join(clock.order) == "abc" + "abc" + "cba" + "abc" + "cba"
    assert times == {"a": [1.0] * 4, "b": [2.0] * 4, "c": [3.0] * 4}


@pytest.mark.parametrize("warm_up", [0, 1, 5])
def test_warm_up_calls_are_not_counted(warm_up):
    clock = Clock()
    times = time_interleaved(named(a=1.0, b=1.0), timer=clock, budget_s=0, min_runs=2, warm_up=warm_up)
    assert clock.order.count("a") == 2 + warm_up and len(times["a"]) == 2


@pytest.mark.parametrize(
    ("seconds", "runs"),
    [
        (0.25, 4),  # until the budget of one second is used
        (0.3, 4),  # the call that crosses the budget is the last
        (10.0, 3),  # min_runs, however long they take
        (0.001, 50),  # max_runs, however short they are
    ],
)
def test_each_call_has_a_budget_of_its_own(seconds, runs):
    times = time_interleaved(named(a=seconds, b=100.0), timer=Clock(), budget_s=1.0, min_runs=3, max_runs=50)
    assert (len(times["a"]), len(times["b"])) == (runs, 3)


@pytest.mark.parametrize("after", [0, 1, 3, 4, 7])
def test_cancel_stops_before_the_next_call_also_while_warming_up(after):
    cancel, clock = threading.Event(), Clock()

    def timer(call):
        seconds = clock(call)
        if len(clock.order) == after:
            cancel.set()
        return seconds

    if after == 0:
        cancel.set()
    with pytest.raises(Cancelled, match="points measured so far are kept"):
        time_interleaved(named(a=1.0, b=1.0), timer=timer, budget_s=100, warm_up=2, cancel=cancel)
    assert len(clock.order) == after


def test_slow_calls_come_up_all_along_and_not_only_at_first():
    clock = Clock()
    times = time_interleaved(named(slow=10.0, fast=1.0), timer=clock, budget_s=30.0, min_runs=3, warm_up=1)
    assert {name: len(found) for name, found in times.items()} == {"slow": 3, "fast": 30}
    counted = clock.order[2:]
    places = [place for place, name in enumerate(counted) if name == "slow"]
    assert [place * 3 // len(counted) for place in places] == [0, 1, 2], "one in each third"


def test_the_plan_follows_what_is_measured_where_the_warm_up_was_slower():
    left = iter([50.0] + [1.0] * 100)
    times = time_interleaved({"a": lambda: ("a", next(left))}, timer=Clock(), budget_s=10.0, min_runs=2, warm_up=1)
    assert len(times["a"]) == 10


def test_nothing_to_time_is_an_empty_answer():
    assert time_interleaved({}) == {}


def test_the_clock_of_this_machine_runs_every_call_and_gives_seconds():
    calls = []
    times = time_interleaved({"a": lambda: calls.append(1)}, min_runs=3, max_runs=3, warm_up=2)
    assert len(calls) == 5 and len(times["a"]) == 3 and all(0 <= seconds < 60 for seconds in times["a"])


@pytest.mark.parametrize(
    ("cache", "expected"),
    [
        (None, 64 * 2**20),  # where the system does not tell
        (2**20, 64 * 2**20),
        (48 * 2**20, 96 * 2**20),
        (480 * 2**20, 960 * 2**20),
        (2**30, 2**30),
    ],
)
def test_twice_the_cache_takes_turns_within_bounds(monkeypatch, cache, expected):
    monkeypatch.setattr(timing, "cache_bytes", lambda device: cache)
    assert rotation_bytes() == expected


@pytest.mark.parametrize(
    ("held", "count"),
    [(2**26, 1), (2**26 - 1, 2), (10 * 2**20, 7), (100, 32), (2**30, 1), (2**31, 1), (0, 32)],
)
def test_copies_are_larger_than_the_cache_together(monkeypatch, held, count):
    monkeypatch.setattr(timing, "rotation_bytes", lambda device: 64 * 2**20)
    layer = torch.nn.Linear(4, 4)
    copies = copies_beyond_cache(layer, held)
    assert len(copies) == count and copies[0] is layer
    assert len({copy.weight.data_ptr() for copy in copies}) == count  # storage of their own: no copy warms another
    assert all(torch.equal(copy.weight, layer.weight) for copy in copies)


def test_copies_never_hold_more_than_a_gibibyte_together(monkeypatch):
    monkeypatch.setattr(timing, "rotation_bytes", lambda device: 2**30)
    assert len(copies_beyond_cache(torch.nn.Linear(2, 2), 300 * 2**20)) == 3


def cache_folder(root, *caches):
    for place, (kind, level, size) in enumerate(caches):
        folder = root / f"index{place}"
        folder.mkdir()
        for name, value in (("type", kind), ("level", level), ("size", size)):
            (folder / name).write_text(f"{value}\n")
    return root


@pytest.mark.parametrize(
    ("caches", "expected"),
    [
        (
            [("Data", 1, "48K"), ("Instruction", 1, "64K"), ("Unified", 2, "2048K"), ("Unified", 3, "491520K")],
            480 << 20,
        ),
        ([("Data", 1, "32K"), ("Unified", 2, "512K")], 512 << 10),
        ([("Data", 1, "32K"), ("Instruction", 4, "9999K")], 32 << 10),
        ([("Data", 1, "32K"), ("Unified", "?", "512K")], 32 << 10),
        ([], None),
    ],
)
def test_the_last_level_cache_is_what_the_system_tells(monkeypatch, tmp_path, caches, expected):
    monkeypatch.setattr(timing, "_CPU_CACHES", cache_folder(tmp_path, *caches))
    assert cache_bytes() == expected == environment().cache_bytes


def test_where_there_is_no_such_folder_the_cache_is_unknown(monkeypatch, tmp_path):
    monkeypatch.setattr(timing, "_CPU_CACHES", tmp_path / "nowhere")
    assert cache_bytes() is None


def test_copies_and_inputs_take_turns():
    seen = []
    functions = [lambda x, i=i: seen.append((i, int(x))) for i in range(3)]
    call = rotating(functions, [torch.tensor(7), torch.tensor(8)])
    for _ in range(7):
        call()
    assert seen == [(0, 7), (1, 8), (2, 7), (0, 8), (1, 7), (2, 8), (0, 7)]
    seen.clear()
    other = rotating(functions, torch.tensor(5), first=2)
    for _ in range(4):
        other()
    assert seen == [(2, 5), (0, 5), (1, 5), (2, 5)]


def test_the_environment_names_processor_versions_and_threads():
    found = environment()
    assert found.device_name and found.torch_version == torch.__version__
    assert found.threads == torch.get_num_threads()
    assert found.capability == torch.backends.cpu.get_cpu_capability()
