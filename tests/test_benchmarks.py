"""Each benchmark runs on tiny sizes and writes what it says; no test looks at a time or a goal."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import re
from pathlib import Path

import pytest
import torch

import workbench as wb
from benchmarks import (
    dequantize,
    experts,
    import_time,
    int4_linear,
    llama,
    memory,
    model,
    packing,
    preflight,
    report,
    solver_models,
    solvers,
    verify,
)
from benchmarks.report import Goal, Report, finish, options, ratio, table, time_row
from workbench.linear import Int4Linear
from workbench.paths import PATHS

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
TINY_MODEL = ["--hidden", "64", "--layers", "1", "--prompt-tokens", "8", "--new-tokens", "2", "--rounds", "1"]
BENCHMARKS = {
    "solvers": (solvers, ["-n", "64", "-k", "128", "--rounds", "2", "--without-peers"]),
    "solver_models": (
        solver_models,
        ["--group-sizes", "128", "--windows", "2", "--sequences", "1", "--layers", "1", "--hidden", "64"],
    ),
    "packing": (packing, ["-n", "64", "-k", "64", "--budget", "0"]),
    "int4_linear": (int4_linear, ["-n", "64", "-k", "64", "--batch-sizes", "1", "16", "128", "512", "--budget", "0"]),
    "dequantize": (dequantize, ["-n", "128", "-k", "128", "--budget", "0"]),
    "model": (model, [*TINY_MODEL, "--without-peers"]),
    "experts": (experts, ["--hidden", "64", "--inner", "32", "--experts", "4", "--top-k", "2", "--budget", "0"]),
    "import_time": (import_time, ["--rounds", "1"]),
    "verify": (verify, ["--layers", "2", "--side", "64", "--budget", "0"]),
    "preflight": (preflight, ["--layers", "2", "--rounds", "1"]),
}
TIMES = {"time_ms", "p10_ms", "p90_ms", "runs"}


def check_structure(data, name):
    assert set(data) == {"benchmark", "machine", "settings", "rows", "goals"} and data["benchmark"] == name
    assert set(data["machine"]) == {
        *("processor", "capability", "cores", "threads", "system", "python", "torch", "workbench"),
    }
    assert data["rows"] and all(set(row) == set(data["rows"][0]) and set(row) >= TIMES for row in data["rows"])
    for row in data["rows"]:
        assert 0 < row["p10_ms"] <= row["time_ms"] <= row["p90_ms"] and row["runs"] >= 1
    for goal in data["goals"]:
        assert set(goal) == {"what", "value", "limit", "sense", "met"} and goal["sense"] in ("at least", "at most")
        kept = goal["value"] >= goal["limit"] if goal["sense"] == "at least" else goal["value"] <= goal["limit"]
        assert goal["met"] == kept


def use_few_rows(patch):
    """Let the solvers have the first rows of the demo model's weights, not all of them."""
    demo_weight = solvers.demo_weight
    patch.setattr(solvers, "demo_weight", lambda: demo_weight()[:2048])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run a benchmark, once, on tiny sizes and two blocks of the demo model; give what it wrote and what it printed."""
    demo_model = wb.demo_model

    def two_blocks():
        model, tokenizer = demo_model()
        del model.model.layers[2:]
        return model, tokenizer

    @functools.cache
    def run(name):
        module, arguments = BENCHMARKS[name]
        path = tmp_path_factory.mktemp(name) / "new folder" / "results.json"
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
            patch.setattr(wb, "demo_model", two_blocks)
            use_few_rows(patch)
            assert module.main([*arguments, "--json", str(path)]) == 0
        return json.loads(path.read_text(encoding="utf-8")), printed.getvalue()

    return run


@pytest.mark.parametrize("name", BENCHMARKS)
def test_runs_on_tiny_sizes_and_writes_what_it_prints(name, run):
    data, printed = run(name)
    check_structure(data, name)
    assert data["machine"]["processor"] in printed and name in printed
    for row in data["rows"]:
        assert str(next(value for value in row.values() if isinstance(value, str))) in printed
    assert printed.count("met   ") + printed.count("MISSED") == len(data["goals"])


def test_the_solvers_without_their_peers_are_judged_against_round_to_nearest(run):
    rows = run("solvers")[0]["rows"]
    assert [row["solver"] for row in rows] == ["rtn", "hqq", "refined"] * 2 + ["calibrated"]
    assert all(row["times_faster"] is None for row in rows)
    for rtn, hqq, refined in (rows[:3], rows[3:6]):
        assert rtn["error_2"] == rtn["error_1"] == rtn["error_0.7"] == 1 and rtn["errors_over"] == "rtn"
        assert refined["error_2"] < hqq["error_2"] < 1


def test_the_solvers_are_compared_on_the_demo_model(run):
    rows = run("solver_models")[0]["rows"]
    assert [row["solver"] for row in rows] == ["rtn", "hqq", "refined", "calibrated", "hqq"]
    assert rows[1]["kl_over_hqq"] == rows[1]["held_out_error_over_hqq"] == 1
    assert rows[3]["mean_kl"] < rows[2]["mean_kl"] and rows[3]["held_out_error_over_hqq"] < 0.7
    assert rows[4]["perplexity"] is None


def test_peak_memory_counts_what_a_call_holds_at_once():
    def call():
        held = [torch.ones(2**21) for _ in range(8)]
        return held[0] + held[1]

    peak = memory.peak_bytes(call)
    assert peak is None or 60e6 < peak < 110e6


class Rounding:
    """Stands in for the package's quantizer: rounds to whole numbers, and remembers how it was called."""

    calls: list[dict[str, object]] = []  # noqa: RUF012 (a stand-in for a class with class methods)

    @classmethod
    def quantize(cls, tensor, **arguments):
        cls.calls.append(arguments)
        return tensor.round(), {"shape": tensor.shape, "scale": torch.ones(1), "zero": torch.ones(1)}

    @classmethod
    def dequantize(cls, codes, meta):
        assert meta["compute_dtype"] == torch.float32
        return codes.view(meta["shape"])


def test_the_peers_are_called_with_their_own_defaults_and_judged_by_their_own_dequantization(monkeypatch, tmp_path):
    hqq = type("Module", (), {"Quantizer": Rounding})
    asked_torchao = []

    def halves(weight, **arguments):
        asked_torchao.append(arguments)
        groups = len(weight.reshape(-1, 64))
        return torch.ones(groups, 64), torch.full((groups, 1), 0.5), torch.zeros(groups, 1), weight.shape

    torchao = type("Module", (), {"choose_qparams_and_quantize_affine_hqq": staticmethod(halves)})
    stand_ins = {"hqq.core.quantize": hqq, "torchao.quantization.quant_primitives": torchao}
    real = solvers.importlib.import_module
    monkeypatch.setattr(solvers.importlib, "import_module", lambda name: stand_ins.get(name) or real(name))
    monkeypatch.setattr(solvers.importlib.metadata, "version", lambda name: "0.0")
    use_few_rows(monkeypatch)
    path = tmp_path / "results.json"
    arguments = ["-n", "64", "-k", "128", "--rounds", "2", "--without-calibrated", "--json", str(path)]
    assert solvers.main(arguments) == 0
    data = json.loads(path.read_text(encoding="utf-8"))
    check_structure(data, "solvers")
    weight = report.llm_like_weight(64, 128)
    package = float((weight.round() - weight).square().double().mean())
    other = float((0.5 - weight).square().double().mean())
    assert data["rows"][3]["error_2"] == 1
    assert data["rows"][4]["error_2"] == pytest.approx(other / package, rel=1e-4)
    assert data["settings"]["hqq"] == data["settings"]["torchao"] == "0.0"
    asked = {"nbits": 4, "group_size": 64, "axis": 1, "compute_dtype": torch.float32, "device": "cpu"}
    assert Rounding.calls[-1] == asked | {"bitpack": False}
    assert asked_torchao[-1] == asked | {"raw_output": True}


def test_models_are_measured_with_either_head_eager_and_compiled(tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(model.wb, "compile_model", compiled.append)
    path = tmp_path / "results.json"
    assert model.main([*TINY_MODEL, "--without-peers", "--compiled", "--json", str(path)]) == 0
    data = json.loads(path.read_text(encoding="utf-8"))
    check_structure(data, "model")
    names = [model.DENSE, model.INT4, model.INT4_HEAD]
    assert [(row["mode"], row["phase"], row["model"]) for row in data["rows"]] == [
        (mode, phase, name) for mode in ("eager", "compiled") for phase in ("decode", "prefill") for name in names
    ]
    assert all(row["over_torchao"] is None for row in data["rows"]) and data["rows"][0]["over_dense"] == 1
    assert [goal["what"] for goal in data["goals"]] == ["prefill, int4: times as fast as dense bf16"]
    dense, int4, int4_head = compiled
    assert not isinstance(int4.lm_head, Int4Linear) and isinstance(int4_head.lm_head, Int4Linear)
    assert {type(one) for one in dense.modules()}.isdisjoint({Int4Linear})
    assert [sum(isinstance(one, Int4Linear) for one in each.modules()) for each in (int4, int4_head)] == [7, 8]
    head = int4.get_input_embeddings().weight
    assert head is int4.lm_head.weight and torch.equal(head, dense.lm_head.weight)


def test_torchao_quantizes_all_but_the_head_for_the_cpu_and_leaves_the_compiler_alone(monkeypatch, tmp_path):
    asked = []

    def quantize(quantized, config, filter_fn):
        asked.append((config, [name for name, module in quantized.named_modules() if filter_fn(module, name)]))

    names = {"Int4WeightOnlyConfig": staticmethod(lambda **given: given), "quantize_": staticmethod(quantize)}
    stand_ins = {
        "torchao.quantization": type("Module", (), names),
        "torchao.dtypes": type("Module", (), {"Int4CPULayout": staticmethod(lambda: "cpu")}),
    }
    real = model.importlib.import_module
    monkeypatch.setattr(model.importlib, "import_module", lambda name: stand_ins.get(name) or real(name))
    monkeypatch.setattr(model.importlib.metadata, "version", lambda name: "0.0")
    path = tmp_path / "results.json"
    assert model.main([*TINY_MODEL, "--group-size", "32", "--json", str(path)]) == 0
    ((config, quantized),) = asked
    assert config == {"group_size": 32, "layout": "cpu", "set_inductor_config": False}
    assert len(quantized) == 7 and "lm_head" not in quantized
    data = json.loads(path.read_text(encoding="utf-8"))
    check_structure(data, "model")
    assert data["settings"]["torchao"] == "0.0" and len(data["goals"]) == 4
    assert [row["model"] for row in data["rows"]].count(model.TORCHAO) == 2


def test_the_model_of_the_benchmarks_has_the_size_that_they_say():
    with torch.device("meta"):
        large = llama.llama(2048, 8)
    assert llama.millions_of_parameters(large) == 477
    assert large.lm_head.weight is large.get_input_embeddings().weight and large.dtype == torch.bfloat16


def test_every_path_of_the_linear_layer_is_measured_at_every_batch_size_and_dtype(run):
    rows = run("int4_linear")[0]["rows"]
    assert {(row["dtype"], row["batch"], row["path"]) for row in rows} == {
        (dtype, batch, path)
        for dtype, paths in {
            "bfloat16": ("int4", "bare op", "dense"),
            "float32": ("int4", "dense"),
            "float16": ("int4", "dense"),
        }.items()
        for batch in (1, 16, 128, 512)
        for path in paths
    }
    assert {row["takes"] for row in rows if row["path"] == "int4"} <= set(PATHS)


@pytest.mark.parametrize("dtype", int4_linear.DTYPES)
def test_the_paths_of_the_linear_layer_give_the_same_product(dtype):
    weight = report.llm_like_weight(64, 128)
    x = torch.randn(3, 128).to(int4_linear.DTYPES[dtype])
    paths = int4_linear._paths(weight, 64, dtype)
    results = {path: [function(x) for function in functions] for path, functions in paths.items()}
    for path, found in results.items():
        assert len(found) > 1 and all(torch.equal(one, found[0]) and one.dtype == x.dtype for one in found), path
    assert "bare op" not in paths or torch.allclose(results["int4"][0], results["bare op"][0], atol=0.02, rtol=0.02)
    assert torch.allclose(results["int4"][0], results["dense"][0], atol=0.3)


@pytest.mark.parametrize("arguments", [["-n", "65"], ["-k", "96"]])
def test_a_shape_that_the_bare_op_would_misread_is_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        int4_linear.main(arguments)
    assert "N must be a multiple of 64, K of the group size" in capsys.readouterr().err


def test_importing_the_workbench_imports_no_interface_and_no_transformers(run):
    found = {goal["what"]: goal["value"] for goal in run("import_time")[0]["goals"]}
    of = f"of {', '.join(import_time.UNWANTED)} imported"
    assert found[f"torch, workbench: {of}"] == found[f"torch, workbench.linear: {of}"] == 0
    assert import_time.imported("json.tool", ("json", "plotly")) == ["json"]


def test_the_weight_is_the_same_everywhere_and_has_heavy_tails():
    weight = report.llm_like_weight(256, 256)
    assert torch.equal(weight, report.llm_like_weight(256, 256)) and weight.dtype == torch.float32
    kurtosis = float((weight / weight.std()).pow(4).mean())
    assert kurtosis > 4 and 0.015 < float(weight.std()) < 0.03


def test_rows_and_ratios_are_of_medians():
    seconds = [float(i) for i in (5, 1, 4, 2, 3, 6, 7, 8, 9, 10)]
    assert time_row(seconds) == {"time_ms": 5500.0, "p10_ms": 2000.0, "p90_ms": 10000.0, "runs": 10}
    assert ratio([2.0, 100.0, 3.0], [1.0, 1.5, 0.1]) == 3.0


@pytest.mark.parametrize(("sense", "met"), [("at least", [False, True, True]), ("at most", [True, True, False])])
def test_goals_say_whether_they_were_met(sense, met):
    goals = [Goal("speed", value, 8, sense) for value in (7.9, 8, 8.1)]
    assert [goal.met for goal in goals] == met
    assert [str(goal).startswith("met") for goal in goals] == met


def test_tables_line_up():
    text = table([{"name": "a", "time_ms": 1.25, "note": None}, {"name": "longer", "time_ms": 12, "note": "x"}])
    assert text.splitlines() == ["name    time_ms  note", "a          1.25  -", "longer       12  x"]
    assert table([]) == "(no rows)"


def test_without_a_path_the_file_is_named_after_benchmark_and_machine(monkeypatch, tmp_path):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    finish(Report("packing", {}, [], []), options("x").parse_args([]).json)
    assert list(tmp_path.iterdir()) == []
    finish(Report("packing", {}, [], []), options("x").parse_args(["--json"]).json)
    (path,) = tmp_path.iterdir()
    assert re.fullmatch(r"packing-cpu-[a-z0-9_]+-\d+c\.json", path.name)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_result_of_each_benchmark_is_recorded_whole(name):
    paths = sorted(RESULTS.glob(f"{name}-*.json"))
    assert paths
    for path in paths:
        data = json.loads(path.read_text(encoding="utf-8"))
        check_structure(data, name)
        assert data["settings"].get("n", 4096) == 4096 and data["machine"]["processor"]
        if name == "hqq_solver":
            assert data["settings"]["hqq"] == "0.2.8.post1" and len(data["rows"]) == 3
