"""Tuning: what was measured is stored and used, other shapes are kept, and bad input is refused before any work."""

import threading
from types import SimpleNamespace

import pytest
import torch

import workbench.tuning as tuning
from workbench import Int4Linear, quantize_weight
from workbench.choice import available_paths, chosen_path, current_table
from workbench.errors import Cancelled, ConfigError
from workbench.kernels import int4_linear
from workbench.packed import pack_weight
from workbench.path_store import table_file
from workbench.paths import PathTable, choose_path
from workbench.tuning import TUNING_BATCHES, tune

QUICK = {"batch_sizes": (1, 8), "budget_s": 0.001}


@pytest.fixture(autouse=True)
def cache(own_tables):
    return own_tables


@pytest.fixture
def clock(monkeypatch):
    """Seconds of each path by batch, made up: nothing runs."""
    made_up = {"op": lambda m: 0.001 * m, "fused": lambda m: 0.003, "dequantize": lambda m: 0.004 + 0.0001 * m}
    asked = []

    def time_interleaved(calls, **_):
        batch = next(iter(calls.values()))().shape[0]
        asked.append((batch, tuple(calls)))
        return {path: [made_up[path](batch)] * 5 for path in calls}

    monkeypatch.setattr(tuning, "time_interleaved", time_interleaved)
    return asked


def packed(n=96, k=128):
    return pack_weight(quantize_weight(torch.randn(n, k)), "cpu")


def test_products_use_what_was_measured(clock):
    table = tune([(96, 128)], batch_sizes=(1, 2, 4, 8))
    assert table is current_table("cpu")
    wanted = "fused" if "fused" in available_paths("cpu") else "dequantize"
    assert [chosen_path(packed(), batch) for batch in (1, 2, 8, 1000)] == ["op", "op", wanted, wanted]
    assert chosen_path(packed(), 8, torch.float32) == choose_path(
        PathTable(table.kind), dtype="float32", n=96, k=128, group_size=64, batch=8
    )


def test_the_op_is_given_up_once_it_fell_far_behind_and_nothing_else(clock):
    tune([(96, 128)], batch_sizes=(1, 16, 32, 64))
    assert clock == [
        (1, available_paths("cpu")),
        (16, available_paths("cpu")),
        *((batch, available_paths("cpu")[1:]) for batch in (32, 64)),
    ]


def test_other_shapes_are_kept_and_the_same_shape_is_replaced(clock):
    tune([(96, 128)], **QUICK)
    tune([(64, 64), (96, 128)], **QUICK)
    table = tune([(64, 64)], group_sizes=(32, 64), dtypes=("float16",), **QUICK)
    shapes = {(p.dtype, p.n, p.k, p.group_size) for p in table.points}
    assert shapes == {
        *(("bfloat16", 96, 128, 64), ("bfloat16", 64, 64, 64)),
        *(("float16", 64, 64, 32), ("float16", 64, 64, 64)),
    }
    assert len(table.points) == len({(p.dtype, p.n, p.k, p.group_size, p.batch, p.path) for p in table.points})


def test_the_layers_of_a_model(clock):
    layers = [Int4Linear(quantize_weight(torch.randn(*shape))) for shape in [(32, 64), (32, 64), (48, 128)]]
    table = tune(torch.nn.Sequential(*layers, torch.nn.Linear(48, 7)), **QUICK)
    assert {(p.n, p.k, p.group_size) for p in table.points} == {(32, 64, 128), (48, 128, 128)}


def test_it_really_measures():
    table = tune([(96, 128)], **QUICK)
    assert {p.path for p in table.points} == set(available_paths("cpu"))
    assert {p.batch for p in table.points} == {1, 8}
    assert all(p.time_ms > 0 for p in table.points)
    assert "measured on this machine" in table.note
    x = torch.randn(8, 128)
    assert int4_linear(x, packed()).shape == (8, 96)


def test_on_a_gpu_captured_graphs_are_timed_at_more_batches(monkeypatch):
    calls = {"op": [lambda x: x]}

    def time_captured(given, x, budget_s, *, cancel):
        assert given == calls and budget_s == 0.5 and cancel is None
        return {"op": [1.0]}

    monkeypatch.setattr(tuning, "time_captured", time_captured)
    x = SimpleNamespace(is_cuda=True)
    assert tuning._times([SimpleNamespace(name="op", calls=calls["op"])], x, 0.5, None) == {"op": [1.0]}
    assert set(TUNING_BATCHES) < set(tuning.tuning_batches("cuda")) and tuning.tuning_batches("cpu") == TUNING_BATCHES


def test_cancelled_tuning_stores_nothing(clock):
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        tune([(96, 128)], cancel=cancel, **QUICK)
    assert not table_file("cpu").exists()


def test_the_default_is_one_shape_at_all_batches(clock, monkeypatch):
    monkeypatch.setattr(tuning, "DEFAULT_SHAPES", ((64, 64),))
    table = tune()
    assert {(p.dtype, p.n, p.k, p.group_size) for p in table.points} == {("bfloat16", 64, 64, 64)}
    assert {p.batch for p in table.points} == set(TUNING_BATCHES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shapes": [(0, 64)]}, r"shape \(0, 64\)"),
        ({"shapes": [(64, 64, 64)]}, r"shape \(64, 64, 64\)"),
        ({"shapes": torch.nn.Linear(4, 4)}, "no int4 layer.*quantize it first"),
        ({"group_sizes": (48,)}, "group_size=48"),
        ({"dtypes": ("int8",)}, "dtype 'int8'"),
        ({"batch_sizes": ()}, r"batch_sizes=\[\]"),
        ({"batch_sizes": (0,)}, r"batch_sizes=\[0\]"),
        ({"device": "tpu"}, "device 'tpu' cannot be measured here"),
    ],
)
def test_bad_input_is_refused_before_any_work(clock, arguments, message):
    with pytest.raises(ConfigError, match=message):
        tune(**arguments)
    assert clock == []
    assert not table_file("cpu").exists()
