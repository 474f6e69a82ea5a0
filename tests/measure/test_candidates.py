"""What takes turns: which paths a machine has, and what is compiled, said and left out."""

from __future__ import annotations

import threading

import pytest
import torch

from workbench.choice import available_paths, chosen_path
from workbench.config import Int4WeightOnlyConfig
from workbench.errors import Cancelled, ConfigError
from workbench.measure import candidates, speed
from workbench.measure.candidates import Candidate, compile_problem, compiler_problem, make_candidates, present_paths
from workbench.measure.roofline import Roofline
from workbench.measure.speed import bench_linear

CONFIG = Int4WeightOnlyConfig(group_size=32)


def made(**changes):
    settings = {"device": "cpu", "dtype": "bfloat16", "paths": present_paths("cpu"), "compiled": False, "cancel": None}
    return make_candidates(40, 96, CONFIG, **{**settings, **changes})


@pytest.fixture
def quick(monkeypatch):
    """No roof is measured, and each timed call runs the fewest times."""
    roof = Roofline("cpu", 1.0, {"bfloat16": 1.0, "float32": 1.0})
    monkeypatch.setattr(speed, "measure_roofline", lambda *a, **k: roof)
    monkeypatch.setattr(speed, "BUDGET_S", 0.0)


def test_this_machine_has_our_layer_each_of_its_paths_and_dense():
    assert set(present_paths("cpu")) == {"int4", "dense", *available_paths("cpu")}
    assert present_paths("cpu", ["dense", "int4"]) == ("int4", "dense")


def test_every_path_of_this_machine_multiplies_with_its_own_copies_of_one_weight():
    found = {one.name: one for one in made()}
    assert tuple(found) == present_paths("cpu")
    x = torch.randn(5, 96, dtype=torch.bfloat16)
    dense = found["dense"].calls[0](x).float()
    for one in found.values():
        results = [call(x) for call in one.calls]
        assert len(results) == 32 and all(torch.equal(result, results[0]) for result in results)
        assert torch.allclose(results[0].float(), dense, atol=0.1)
    assert {one.held_bytes for one in found.values()} == {2 * 40 * 96, found["int4"].held_bytes}


def test_our_layer_says_which_path_it_takes_and_no_other_does():
    for one in made(dtype="float32"):
        for batch in (1, 64, 4096):
            expected = chosen_path(one.packed, batch, torch.float32) if one.path == "int4" else ""
            assert one.chosen_path(batch, "float32") == expected


@pytest.mark.parametrize("paths", [("int4",), ("dense",), ("op", "dense")])
def test_only_what_is_wanted_is_made(paths):
    assert tuple(one.name for one in made(paths=paths)) == paths


def test_random_numbers_of_the_caller_are_left_alone():
    torch.manual_seed(2)
    before = torch.get_rng_state()
    made()
    assert torch.equal(torch.get_rng_state(), before)


def test_only_our_layer_and_dense_are_compiled(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda layer, **_: lambda x: layer(x))
    names = [one.name for one in made(compiled=True)]
    assert names == [*present_paths("cpu"), "int4 compiled", "dense compiled"]


def test_without_a_compiler_that_is_said_and_all_else_is_measured(monkeypatch, quick):
    def refuse(*args, **kwargs):
        raise RuntimeError("No working C++ compiler found.\n  Details")

    monkeypatch.setattr(torch, "compile", refuse)
    assert compiler_problem("cpu") == "No working C++ compiler found. Details"
    report = bench_linear(16, 64, CONFIG, (1,), compiled=True)
    assert {point.form for point in report.points} == {"eager"} and len(report.points) == len(present_paths("cpu"))
    assert any("nothing is measured compiled" in note and "No working C++" in note for note in report.notes)


def test_what_does_not_compile_is_named_and_left_out_and_nothing_else(monkeypatch, quick):
    def compile_some(layer, **_):
        def call(x):
            if isinstance(layer, torch.nn.Linear):
                raise ValueError("no lowering")
            return layer(x)

        return call

    monkeypatch.setattr(torch, "compile", compile_some)
    report = bench_linear(16, 64, CONFIG, (1, 2), compiled=True)
    names = [point.name for point in report.points]
    assert names.count("int4 compiled") == 2 and "dense compiled" not in names
    (said,) = [note for note in report.notes if "left out" in note]
    assert said == "dense compiled is left out from bfloat16, batch 1 on: no lowering"


def test_every_copy_is_compiled_before_it_is_timed_and_cancel_stops_between_them():
    seen, cancel = [], threading.Event()
    calls = [lambda x, i=i: seen.append(i) or (i == 1 and cancel.set()) for i in range(4)]
    assert compile_problem(Candidate("int4", "compiled", calls, 1), torch.zeros(1), None) == ""
    assert seen == [0, 1, 2, 3]
    seen.clear()
    with pytest.raises(Cancelled):
        compile_problem(Candidate("int4", "compiled", calls, 1), torch.zeros(1), cancel)
    assert seen == []


def test_torch_compile_gives_the_same_products_and_one_piece_of_code_for_all_copies(quick):
    if problem := compiler_problem("cpu"):
        pytest.skip(problem)
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    report = bench_linear(16, 64, CONFIG, (3,), compiled=True, paths=("int4", "dense"))
    assert [point.name for point in report.points] == ["int4", "dense", "int4 compiled", "dense compiled"]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 3, "the trial, our layer, dense"
    assert not any("left out" in note or "compiled:" in note for note in report.notes)


def test_a_path_that_there_is_not_is_refused(monkeypatch):
    monkeypatch.setattr(candidates, "available_paths", lambda device: ("op",))
    assert present_paths("cpu") == ("int4", "op", "dense")
    with pytest.raises(ConfigError, match=r"'fused' on cpu here\.\s.*int4, op, dense"):
        present_paths("cpu", ["fused"])
