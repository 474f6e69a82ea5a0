"""What is measured, where, and what is made of it; no test looks at a real time."""

from __future__ import annotations

import csv
import functools
import io
import json
import threading

import pytest
import torch

from workbench.config import Int4WeightOnlyConfig, ZeroPointDomain
from workbench.errors import Cancelled, ConfigError
from workbench.linear import Int4Linear
from workbench.measure import speed, timing
from workbench.measure.speed import SpeedReport, bench_linear, crossover, environment, iter_bench_linear, speedups
from workbench.records import SpeedPoint

CONFIG = Int4WeightOnlyConfig(group_size=32)


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Each call really runs once; then it is said to have taken 1, 2, 3, ... ms."""
    runs = []

    def timer(call):
        runs.append(call())
        return len(runs) / 1000

    monkeypatch.setattr(timing, "_time_cpu", timer)
    return runs


def point(path, batch, time_ms, **other):
    sizes = {"n": 8, "k": 32, "group_size": 32, "runs": 5, "gb_per_s": 1.0, "gflop_per_s": 2.5}
    where = {"device": "cpu", "device_name": 'a, "quoted" name', "dtype": "bfloat16"}
    times = {"time_ms": time_ms, "p10_ms": time_ms, "p90_ms": time_ms}
    return SpeedPoint(**{"path": path, "batch": batch, **sizes, **where, **times, **other})


# --- the benchmark ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "k"), [(16, 64), (33, 45), (1, 1)])
def test_a_point_for_each_path_dtype_and_batch_size(n, k):
    report = bench_linear(n, k, CONFIG, (1, 3), dtypes=("bfloat16", "float16", "float32"))
    found = [(p.dtype, p.batch, p.path) for p in report.points]
    assert found == [
        (dtype, batch, path)
        for dtype in ("bfloat16", "float16", "float32")
        for batch in (1, 3)
        for path in ("int4", "dense")
    ]
    assert {(p.n, p.k, p.group_size, p.device) for p in report.points} == {(n, k, 32, "cpu")}
    assert report.environment == environment() and report.points[0].device_name == report.environment.device_name


def test_times_are_median_and_percentiles_and_rates_follow_from_them(clock, monkeypatch):
    monkeypatch.setattr(speed, "time_interleaved", functools.partial(timing.time_interleaved, max_runs=5))
    found = list(iter_bench_linear(16, 64, CONFIG, (2,)))
    # Two warm-up rounds take the ticks 1 to 4; then int4, dense, and the order is reversed every round.
    assert [(p.path, p.time_ms, p.p10_ms, p.p90_ms, p.runs) for p in found] == [
        ("int4", pytest.approx(9), pytest.approx(5), pytest.approx(13), 5),
        ("dense", pytest.approx(10), pytest.approx(6), pytest.approx(14), 5),
    ]
    dense = found[1]
    assert dense.gflop_per_s == pytest.approx(2 * 2 * 16 * 64 / 0.010 / 1e9)
    assert dense.gb_per_s == pytest.approx((2 * 16 * 64 + 2 * 2 * (16 + 64)) / 0.010 / 1e9)
    int4 = found[0]
    assert int4.gb_per_s == pytest.approx((16 * 32 + 16 * 2 * 4 + 2 * 2 * (16 + 64)) / 0.009 / 1e9)


def test_both_paths_multiply_the_same_weight(clock):
    found = bench_linear(16, 64, CONFIG, (3,), dtypes=("float32",))
    assert len(clock) == sum(p.runs for p in found.points) + 4
    int4, dense = clock[0], clock[1]
    assert int4.shape == dense.shape == (3, 16)
    assert torch.allclose(int4, dense, atol=0.2) and not torch.equal(int4, dense)


def test_layers_take_turns_and_exceed_the_cache_together(monkeypatch):
    used = []
    forward = Int4Linear.forward
    monkeypatch.setattr(Int4Linear, "forward", lambda self, x: used.append(id(self)) or forward(self, x))
    monkeypatch.setattr(timing, "_CACHE_BYTES", 10_000)
    bench_linear(32, 64, CONFIG, (1,))
    held = 32 * 32 + 2 * 32 * 2 * 2
    assert len(set(used)) == -(-10_000 // held) == 8
    assert all(used[i] == used[i % 8] for i in range(len(used)))


def test_calls_run_in_inference_mode_and_the_state_of_the_process_is_left_alone(clock):
    torch.manual_seed(7)
    before = (torch.get_rng_state(), torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype())
    for _ in iter_bench_linear(16, 64, CONFIG, (1, 2)):
        assert not torch.is_inference_mode_enabled()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype()) == before[1:]
    assert all(result.is_inference() for result in clock)


def test_a_default_dtype_of_the_process_changes_nothing():
    torch.set_default_dtype(torch.float64)
    try:
        points = bench_linear(16, 64, CONFIG, (1,)).points
    finally:
        torch.set_default_dtype(torch.float32)
    assert [p.dtype for p in points] == ["bfloat16"] * 2


def test_hqq_is_not_solved_for_a_measure_of_speed(monkeypatch):
    solvers = []
    solve = speed.solve
    monkeypatch.setattr(
        speed, "solve", lambda weight, config, **k: solvers.append(config.solver) or solve(weight, config, **k)
    )
    cfg = Int4WeightOnlyConfig(group_size=32, use_hqq=True, zero_point_domain=ZeroPointDomain.INT, preserve_zero=True)
    bench_linear(16, 32, cfg, (1,))
    assert solvers == ["rtn"]


def test_cancel_keeps_the_points_before_and_stops_within_one_call(clock):
    cancel, points = threading.Event(), []
    with pytest.raises(Cancelled):
        for found in iter_bench_linear(16, 64, CONFIG, (1, 2, 4), cancel=cancel):
            points.append(found)
            if len(points) == 2:
                cancel.set()
                done = len(clock)
    assert [p.batch for p in points] == [1, 1] and len(clock) == done


def test_cancel_before_the_start_measures_nothing(clock):
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        bench_linear(16, 64, CONFIG, (1,), cancel=cancel)
    assert clock == []


def test_it_runs_on_a_worker_thread():
    found = []
    worker = threading.Thread(target=lambda: found.extend(bench_linear(16, 64, CONFIG, (1,)).points))
    worker.start()
    worker.join()
    assert len(found) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 0}, r"\[0, 64\] cannot be measured"),
        ({"k": -3}, r"\[16, -3\] cannot be measured"),
        ({"batch_sizes": ()}, r"batch_sizes=\[\]"),
        ({"batch_sizes": (4, 0)}, r"batch_sizes=\[4, 0\]"),
        ({"batch_sizes": (1.5,)}, r"batch_sizes=\[1.5\]"),
        ({"dtypes": ("bfloat16", "int8")}, r"'int8'.*bfloat16, float16, float32"),
        ({"device": "tpu"}, r"'tpu' cannot be measured here.*cpu"),
    ],
)
def test_bad_arguments_are_refused_before_any_work(clock, change, message):
    arguments = {"n": 16, "k": 64, "cfg": CONFIG, "batch_sizes": (1,), **change}
    with pytest.raises(ConfigError, match=message):
        bench_linear(**arguments)
    assert clock == []


# --- what is made of the points ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ({}, None),
        ({1: 3.0}, None),
        ({1: 0.5}, 1.0),
        ({4: 0.9, 16: 0.5}, 4.0),
        ({1: 3.0, 4: 2.0, 16: 1.0}, None),
        ({1: 2.0, 16: 0.0}, 4.0),  # half way from 2 to 0, on a log scale from 1 to 16
        ({16: 0.0, 1: 2.0}, 4.0),  # the order of the measurements does not matter
        ({1: 3.0, 16: 1.5, 64: 0.5, 256: 0.2}, 32.0),
        ({4: 1.0, 8: 0.5}, 4.0),
        ({1: 2.0, 4: 0.5, 16: 1.5, 64: 0.5}, 4 ** (1 / 1.5)),  # the first fall counts
    ],
)
def test_the_crossover_is_where_the_ratio_falls_through_one(ratios, expected):
    assert crossover(ratios) == (None if expected is None else pytest.approx(expected))


def test_speedups_are_dense_over_int4_where_both_were_measured():
    points = [
        point("int4", 1, 2.0),
        point("dense", 1, 6.0),
        point("int4", 4, 4.0),
        point("dense", 16, 1.0),
        point("int4", 1, 5.0, dtype="float32"),
        point("dense", 1, 5.0, dtype="float32"),
        point("int4_op", 1, 1.0),
    ]
    assert speedups(points) == {1: 3.0}
    assert speedups(points, "float32") == {1: 1.0}
    assert speedups(points, device="cuda") == {} == speedups([])
    assert speedups(
        [*points, point("int4", 1, 1.0, device="cuda"), point("dense", 1, 9.0, device="cuda")], device="cpu"
    ) == {1: 3.0}


def test_a_report_says_its_speedups_and_crossover():
    points = (point("int4", 1, 1.0), point("dense", 1, 2.0), point("int4", 16, 2.0), point("dense", 16, 1.0))
    report = SpeedReport(points, environment())
    assert report.speedups() == {1: 2.0, 16: 0.5}
    assert report.crossover() == pytest.approx(16 ** (1 / 1.5))
    assert report.crossover("float32") is None


def test_reports_go_to_json_and_csv_and_back():
    points = (point("int4", 1, 0.123456789), point("dense", 64, 2.0))
    report = SpeedReport(points, environment())
    data = json.loads(json.dumps(report.to_json()))
    assert tuple(SpeedPoint.from_json(p) for p in data["points"]) == points
    assert data["environment"]["torch_version"] == torch.__version__
    rows = list(csv.DictReader(io.StringIO(report.to_csv())))
    assert [{key: str(value) for key, value in p.to_json().items()} for p in points] == rows
    assert SpeedReport((), environment()).to_csv() == ""


def test_a_report_prints_as_a_table():
    lines = str(SpeedReport((point("int4", 1, 0.5), point("dense", 1, 1.0)), environment())).splitlines()
    assert torch.__version__ in lines[0] and lines[1].split()[:4] == ["path", "dtype", "batch", "time_ms"]
    assert lines[2].split()[:4] == ["int4", "bfloat16", "1", "0.5000"] and len(lines) == 4
