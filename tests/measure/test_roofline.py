"""The roof: what is made of the fastest calls, on a clock that is ours."""

from __future__ import annotations

import json
import threading

import pytest
import torch

from workbench.errors import Cancelled, ConfigError
from workbench.measure import roofline
from workbench.measure.roofline import Roofline, measure_roofline

ROOF = Roofline("cpu", 20.0, {"bfloat16": 1000.0, "float32": 100.0})


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(roofline, "rotation_bytes", lambda device: 8000)
    monkeypatch.setattr(roofline, "_SIZES", (16, 32, 64))


def timer_of(seconds):
    """A clock that runs each call and says that it took as long as `seconds` finds for its result."""
    seen = []

    def timer(call):
        result = call()
        seen.append(result)
        return seconds(result)

    timer.seen = seen
    return timer


@pytest.mark.parametrize(
    ("moved", "flop", "dtypes", "expected"),
    [
        (20e9, 1, ("bfloat16",), 1.0),  # bytes alone: 20 GB at 20 GB/s
        (1, 1e12, ("bfloat16",), 1.0),  # multiplications alone
        (1, 1e12, ("float32",), 10.0),
        (1, 1e12, ("float32", "bfloat16"), 1.0),  # the faster of those that it may use
        (40e9, 1e12, ("bfloat16",), 2.0),  # the slower of the two bounds
        (20e9, 3e12, ("bfloat16",), 3.0),
    ],
)
def test_no_call_is_faster_than_its_bytes_and_its_multiplications(moved, flop, dtypes, expected):
    assert ROOF.attainable_s(moved, flop, *dtypes) == pytest.approx(expected)


@pytest.mark.parametrize("dtypes", [("float16",), ("bfloat16", "float16"), ()])
def test_a_rate_that_was_not_measured_is_refused(dtypes):
    with pytest.raises(ConfigError, match=r"no dtype|float16.*bfloat16, float32"):
        ROOF.attainable_s(1, 1, *dtypes)


def test_it_goes_to_json_and_back_and_prints_its_units():
    assert Roofline.from_json(json.loads(json.dumps(ROOF.to_json()))) == ROOF
    assert hash(ROOF) == hash(Roofline.from_json(ROOF.to_json()))
    assert str(ROOF) == "20 GB/s, bfloat16 1000 GFLOP/s, float32 100 GFLOP/s"


def test_bandwidth_is_that_of_the_faster_of_copying_and_reading():
    # Two vectors of 1000 float32 together are the 8000 bytes; a dot product reads 4000 bytes, a copy moves 8000.
    quick_read = timer_of(lambda result: 1e-6 if result.ndim == 0 else 4e-6)
    assert measure_roofline(dtypes=(), timer=quick_read).bandwidth_gb_per_s == pytest.approx(4.0)
    quick_copy = timer_of(lambda result: 1e-6 if result.ndim == 1 else 4e-6)
    assert measure_roofline(dtypes=(), timer=quick_copy).bandwidth_gb_per_s == pytest.approx(8.0)
    assert {result.numel() for result in quick_copy.seen} == {1, 1000}


def test_the_rate_is_the_best_of_sizes_that_grow_while_they_are_quick():
    times = {16: 1e-6, 32: 4e-6, 64: 64e-6}  # 8.2, 16.4 and 8.2 GFLOP/s
    timer = timer_of(lambda result: times[len(result)] if result.ndim == 2 else 1.0)
    found = measure_roofline(timer=timer, budget_s=1.0)
    assert found.matmul_gflop_per_s == {"bfloat16": pytest.approx(2 * 32**3 / 4e-6 / 1e9)}
    assert {len(result) for result in timer.seen if result.ndim == 2} == {16, 32, 64}
    slow = timer_of(lambda result: times[len(result)] if result.ndim == 2 else 1.0)
    measure_roofline(timer=slow, budget_s=20e-6)
    assert {len(result) for result in slow.seen if result.ndim == 2} == {16, 32}, "64 would take 32 us"


def test_the_fastest_call_counts():
    ticks = iter(range(1000, 0, -1))
    found = measure_roofline(dtypes=(), timer=timer_of(lambda result: next(ticks) * 1e-9), budget_s=0)
    copies = 1 + 5  # one to warm up; ten timed calls in all bring the ticks down to 989
    assert found.bandwidth_gb_per_s == pytest.approx(8000 / (1000 - 2 * copies + 1) / 1e-9 / 1e9, rel=1e-2)


def test_each_dtype_is_measured_in_that_dtype_and_the_process_is_left_alone():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    timer = timer_of(lambda result: 1.0)
    found = measure_roofline(dtypes=("bfloat16", "float16", "float32"), timer=timer, budget_s=0)
    assert list(found.matmul_gflop_per_s) == ["bfloat16", "float16", "float32"]
    assert {result.dtype for result in timer.seen if result.ndim == 2} == set(roofline.DTYPES.values())
    assert torch.equal(torch.get_rng_state(), state) and not torch.is_inference_mode_enabled()


def test_on_the_clock_of_this_machine_all_is_above_zero():
    found = measure_roofline(budget_s=0)
    assert found.device == "cpu" and found.bandwidth_gb_per_s > 0 and found.matmul_gflop_per_s["bfloat16"] > 0


def test_an_unknown_dtype_is_refused_before_any_work():
    timer = timer_of(lambda result: 1.0)
    with pytest.raises(ConfigError, match=r"'int8'.*bfloat16, float16, float32"):
        measure_roofline(dtypes=("int8",), timer=timer)
    assert timer.seen == []


def test_cancel_stops_within_one_call():
    cancel = threading.Event()
    timer = timer_of(lambda result: cancel.set() or 1.0)
    with pytest.raises(Cancelled):
        measure_roofline(timer=timer, cancel=cancel)
    assert len(timer.seen) == 1
