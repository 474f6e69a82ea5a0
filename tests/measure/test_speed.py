"""What is measured, and where; no test looks at a real time."""

from __future__ import annotations

import functools
import threading

import pytest
import torch

from workbench.config import Int4WeightOnlyConfig, ZeroPointDomain
from workbench.errors import Cancelled, ConfigError
from workbench.linear import Int4Linear
from workbench.measure import candidates, speed, timing
from workbench.measure.roofline import Roofline
from workbench.measure.speed import LinearBench, bench_linear, environment
from workbench.measure.timing import cache_bytes

CONFIG = Int4WeightOnlyConfig(group_size=32)
ROOF = Roofline("cpu", 1.0, {"bfloat16": 1.0, "float16": 1.0, "float32": 0.5})


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Each call really runs once; then it is said to have taken 1, 2, 3, ... ms."""
    runs = []

    def timer(call):
        runs.append(call())
        return len(runs) / 1000

    monkeypatch.setattr(timing, "_time_cpu", timer)
    return runs


@pytest.fixture(autouse=True)
def roofs(monkeypatch):
    """The roof is given; which dtypes it was asked for is kept. What every machine has takes turns."""
    asked = []
    monkeypatch.setattr(speed, "measure_roofline", lambda device, dtypes, cancel: asked.append(dtypes) or ROOF)
    monkeypatch.setattr(candidates, "available_paths", lambda device: ("op", "dequantize"))
    return asked


@pytest.mark.parametrize(("n", "k"), [(16, 64), (33, 45), (1, 1)])
def test_a_point_for_each_dtype_batch_size_and_path(n, k):
    report = bench_linear(n, k, CONFIG, (1, 3), dtypes=("bfloat16", "float16", "float32"))
    found = [(p.dtype, p.batch, p.path) for p in report.points]
    assert found == [
        (dtype, batch, path)
        for dtype in ("bfloat16", "float16", "float32")
        for batch in (1, 3)
        for path in ("int4", "op", "dequantize", "dense")
    ]
    assert {(p.n, p.k, p.group_size, p.device, p.form) for p in report.points} == {(n, k, 32, "cpu", "eager")}
    assert report.environment == environment() and report.points[0].device_name == report.environment.device_name
    assert report.roofline == ROOF


def test_times_are_median_and_percentiles_and_rates_follow_from_them(monkeypatch):
    monkeypatch.setattr(speed, "time_interleaved", functools.partial(timing.time_interleaved, max_runs=5))
    found = list(LinearBench(16, 64, CONFIG, (2,), paths=("int4", "dense")).run())
    # Two warm-up rounds take the ticks 1 to 4; then int4, dense, and the order is reversed every round.
    assert [(p.path, p.time_ms, p.p10_ms, p.p90_ms, p.runs) for p in found] == [
        ("int4", pytest.approx(9), pytest.approx(5), pytest.approx(13), 5),
        ("dense", pytest.approx(10), pytest.approx(6), pytest.approx(14), 5),
    ]
    int4, dense = found
    assert dense.gflop_per_s == pytest.approx(2 * 2 * 16 * 64 / 0.010 / 1e9)
    assert dense.gb_per_s == pytest.approx((2 * 16 * 64 + 2 * 2 * (16 + 64)) / 0.010 / 1e9)
    assert int4.gb_per_s == pytest.approx((16 * 32 + 16 * 2 * 4 + 2 * 2 * (16 + 64)) / 0.009 / 1e9)


def test_the_share_of_the_roofline_is_the_least_time_over_the_time():
    points = bench_linear(16, 64, CONFIG, (1, 512), dtypes=("bfloat16", "float32"), paths=("int4", "dense")).points
    for p in points:
        size = 2 if p.dtype == "bfloat16" else 4
        weight = size * 16 * 64 if p.path == "dense" else 16 * 32 + 16 * 2 * 4
        # Dense multiplies in its own dtype; int4 may do so in bfloat16, which is twice as fast here.
        rate = 0.5e9 if (p.path, p.dtype) == ("dense", "float32") else 1e9
        least = max((weight + size * p.batch * (16 + 64)) / 1e9, 2 * p.batch * 16 * 64 / rate)
        assert p.roofline_share == pytest.approx(least / (p.time_ms / 1e3))
        assert p.attainable_ms == pytest.approx(1e3 * least)


def test_the_roof_is_measured_once_with_bfloat16_and_not_at_all_when_it_is_given(roofs):
    bench_linear(16, 64, CONFIG, (1, 2), dtypes=("float32", "bfloat16"))
    assert roofs == [("bfloat16", "float32")]
    given = Roofline("cpu", 3.0, {"bfloat16": 1.0})
    bench = LinearBench(16, 64, CONFIG, (1,), roofline=given)
    assert list(bench.run()) and bench.roofline is given and len(roofs) == 1


def test_doubts_are_said_before_the_last_points(monkeypatch):
    monkeypatch.setattr(speed, "doubts", lambda points: [f"doubts of {len(points)}"])
    bench = LinearBench(16, 64, CONFIG, (1, 2), dtypes=("bfloat16", "float32"), paths=("int4", "dense"))
    said = [("doubts of 8" in bench.notes) for _ in bench.run()]
    assert said == [False] * 6 + [True] * 2


def bench_with(roof):
    bench = LinearBench(16, 64, CONFIG, (1,), roofline=roof)
    assert list(bench.run())
    return bench


def test_what_the_layer_chose_is_said_for_each_batch(monkeypatch):
    asked = []
    monkeypatch.setattr(candidates, "chosen_path", lambda w, batch, dtype: asked.append((batch, dtype)) or f"p{batch}")
    points = bench_linear(16, 64, CONFIG, (1, 7), dtypes=("float32",)).points
    assert {(p.path, p.batch): p.chosen_path for p in points} == {
        (path, batch): f"p{batch}" if path == "int4" else ""
        for path in ("int4", "op", "dequantize", "dense")
        for batch in (1, 7)
    }
    assert set(asked) == {(1, torch.float32), (7, torch.float32)}


def test_every_timed_call_is_counted_and_makes_the_whole_product(clock):
    found = bench_linear(16, 64, CONFIG, (3,), dtypes=("float32",))
    assert len(clock) == sum(p.runs for p in found.points) + 2 * len(found.points)
    assert {(tuple(result.shape), result.dtype) for result in clock} == {((3, 16), torch.float32)}


def test_layers_take_turns_and_exceed_the_cache_together(monkeypatch):
    used = []
    forward = Int4Linear.forward
    monkeypatch.setattr(Int4Linear, "forward", lambda self, x: used.append(id(self)) or forward(self, x))
    monkeypatch.setattr(timing, "rotation_bytes", lambda device: 10_000)
    points = bench_linear(32, 64, CONFIG, (1,)).points
    held = 32 * 32 + 2 * 32 * 2 * 2
    assert len(set(used)) == -(-10_000 // held) == 8
    assert all(used[i] == used[i % 8] for i in range(len(used)))
    assert {p.path: p.copies for p in points} == {"int4": 8, "op": 8, "dequantize": 8, "dense": 3}


def test_paths_that_share_their_copies_never_use_the_same_one_in_a_round(monkeypatch):
    turns = []
    rotating = timing.rotating

    def seen(functions, inputs, *, first=0):
        turns.append((len(functions), first))
        return rotating(functions, inputs, first=first)

    monkeypatch.setattr(candidates, "rotating", seen)
    bench_linear(16, 64, CONFIG, (1,))
    assert turns == [(32, 0), (32, 8), (32, 16), (32, 24)]


def test_activations_take_turns_within_bounds(clock):
    seen = speed._inputs(3, 64, "float32", "cpu")
    assert len(seen) == 32 and len({x.data_ptr() for x in seen}) == 32
    assert all(x.shape == (3, 64) and x.dtype == torch.float32 for x in seen)
    assert not torch.equal(seen[0], seen[1])
    assert len(speed._inputs(2048, 4096, "bfloat16", "cpu")) == 4


def test_copies_that_fit_the_cache_are_said(monkeypatch):
    for cache, said in ((2**40, True), (2**10, False), (None, False)):
        monkeypatch.setattr(candidates, "cache_bytes", lambda device, cache=cache: cache)
        assert any("fit the cache" in note for note in bench_with(ROOF).notes) is said, cache
    assert cache_bytes() is None or cache_bytes() > 0


def test_calls_run_in_inference_mode_and_the_state_of_the_process_is_left_alone(clock):
    torch.manual_seed(7)
    before = (torch.get_rng_state(), torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype())
    for _ in LinearBench(16, 64, CONFIG, (1, 2)).run():
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
    assert [p.dtype for p in points] == ["bfloat16"] * 4


def test_hqq_is_not_solved_for_a_measure_of_speed(monkeypatch):
    solvers = []
    solve = candidates.solve
    monkeypatch.setattr(
        candidates, "solve", lambda weight, config, **k: solvers.append(config.solver) or solve(weight, config, **k)
    )
    cfg = Int4WeightOnlyConfig(group_size=32, use_hqq=True, zero_point_domain=ZeroPointDomain.INT, preserve_zero=True)
    bench_linear(16, 32, cfg, (1,))
    assert solvers == ["rtn"]


def test_cancel_keeps_the_points_before_and_stops_within_one_call(clock):
    cancel, points = threading.Event(), []
    with pytest.raises(Cancelled):
        for found in LinearBench(16, 64, CONFIG, (1, 2, 4)).run(cancel):
            points.append(found)
            if len(points) == 4:
                cancel.set()
                done = len(clock)
    assert [p.batch for p in points] == [1] * 4 and len(clock) == done


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
    assert len(found) == 4


def test_steps_are_pairs_of_dtype_and_batch_size():
    assert LinearBench(16, 64, CONFIG, (1, 2, 4), dtypes=("bfloat16", "float32")).steps == 6
    assert LinearBench(16, 64, CONFIG, (4, 1, 4), dtypes=("float32", "float32")).steps == 2, "each is measured once"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 0}, r"\[0, 64\] cannot be measured"),
        ({"k": -3}, r"\[16, -3\] cannot be measured"),
        ({"batch_sizes": ()}, r"batch_sizes=\[\]"),
        ({"batch_sizes": (4, 0)}, r"batch_sizes=\[4, 0\]"),
        ({"batch_sizes": (1.5,)}, r"batch_sizes=\[1.5\]"),
        ({"dtypes": ("bfloat16", "int8")}, r"'int8'.*bfloat16, float16, float32"),
        ({"dtypes": ()}, r"No dtype.*bfloat16, float16, float32"),
        ({"device": "tpu"}, r"'tpu' cannot be measured here.*cpu"),
        ({"paths": ("int4", "int5")}, r"no path 'int5'\..*int4, op, dequantize, dense"),
        ({"paths": ("fused",)}, r"no path 'fused' on cpu here\..*int4, op, dequantize, dense"),
        ({"paths": ()}, r"No path.*int4, op, dequantize, dense"),
    ],
)
def test_bad_arguments_are_refused_before_any_work(clock, change, message):
    arguments = {"n": 16, "k": 64, "cfg": CONFIG, "batch_sizes": (1,), **change}
    with pytest.raises(ConfigError, match=message):
        bench_linear(**arguments)
    assert clock == []
