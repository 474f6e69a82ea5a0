"""Each benchmark runs on tiny sizes and writes what it says; no test looks at a time or a goal."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from benchmarks import hqq_solver, import_time, int4_linear, packing, report
from benchmarks.report import Goal, Report, finish, options, ratio, table, time_row

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
BENCHMARKS = {
    "hqq_solver": (hqq_solver, ["-n", "64", "-k", "64", "--rounds", "2", "--without-peer"]),
    "packing": (packing, ["-n", "64", "-k", "64", "--budget", "0"]),
    "int4_linear": (int4_linear, ["-n", "64", "-k", "64", "--batch-sizes", "1", "3", "--budget", "0"]),
    "import_time": (import_time, ["--rounds", "1"]),
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


def run(name, tmp_path):
    module, arguments = BENCHMARKS[name]
    path = tmp_path / "new folder" / "results.json"
    assert module.main([*arguments, "--json", str(path)]) == 0
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_runs_on_tiny_sizes_and_writes_what_it_prints(name, tmp_path, capsys):
    data = run(name, tmp_path)
    check_structure(data, name)
    printed = capsys.readouterr().out
    assert data["machine"]["processor"] in printed and name in printed
    for row in data["rows"]:
        assert str(next(value for value in row.values() if isinstance(value, str))) in printed
    assert printed.count("met   ") + printed.count("MISSED") == len(data["goals"])


def test_the_solver_without_its_peer_reports_the_error_of_what_is_stored(tmp_path):
    rows = run("hqq_solver", tmp_path)["rows"]
    assert [row["solver"] for row in rows] == ["ours, bfloat16 scales", "ours, float32 scales"]
    assert all(0 < row["mean_abs_error"] < 0.01 and row["times_faster"] is None for row in rows)


class Rounding:
    """Stands in for the package's quantizer: rounds to whole numbers, and remembers how it was called."""

    calls: list[dict[str, object]] = []  # noqa: RUF012 (a stand-in for a class with class methods)

    @classmethod
    def quantize(cls, tensor, **arguments):
        cls.calls.append(arguments)
        return tensor.round(), {"shape": tensor.shape}

    @classmethod
    def dequantize(cls, codes, meta):
        assert meta["compute_dtype"] == torch.float32
        return codes.view(meta["shape"])


def test_the_peer_is_called_with_its_own_defaults_and_judged_by_its_own_dequantization(monkeypatch, tmp_path):
    stand_in = type("Module", (), {"Quantizer": Rounding})
    monkeypatch.setattr(hqq_solver.importlib, "import_module", lambda name: {"hqq.core.quantize": stand_in}[name])
    monkeypatch.setattr(hqq_solver.importlib.metadata, "version", lambda name: "0.0")
    path = tmp_path / "results.json"
    hqq_solver.main(["-n", "64", "-k", "128", "--rounds", "2", "--json", str(path)])
    data = json.loads(path.read_text(encoding="utf-8"))
    check_structure(data, "hqq_solver")
    weight = report.llm_like_weight(64, 128)
    expected = float((weight.round() - weight).abs().double().mean())
    assert data["rows"][2]["mean_abs_error"] == pytest.approx(expected, rel=1e-5)
    assert data["settings"]["hqq"] == "0.0" and len(data["goals"]) == 4
    asked = {"nbits": 4, "group_size": 64, "axis": 1, "bitpack": False, "compute_dtype": torch.float32, "device": "cpu"}
    assert Rounding.calls[-3:] == [asked] * 3


def test_every_path_of_the_linear_layer_is_measured_at_every_batch_size_and_dtype(tmp_path):
    rows = run("int4_linear", tmp_path)["rows"]
    assert {(row["dtype"], row["batch"], row["path"]) for row in rows} == {
        (dtype, batch, path)
        for dtype in ("bfloat16", "float32", "float16")
        for batch in (1, 3)
        for path in ("int4", "bare op", "dense")
    }


@pytest.mark.parametrize("dtype", int4_linear.DTYPES)
def test_the_paths_of_the_linear_layer_give_the_same_product(dtype):
    weight = report.llm_like_weight(64, 128)
    x = torch.randn(3, 128).to(int4_linear.DTYPES[dtype])
    paths = int4_linear._paths(weight, 64, int4_linear.DTYPES[dtype])
    results = {path: [function(x) for function in functions] for path, functions in paths.items()}
    for path, found in results.items():
        assert len(found) > 1 and all(torch.equal(one, found[0]) and one.dtype == x.dtype for one in found), path
    assert torch.allclose(results["int4"][0], results["bare op"][0], atol=0.02, rtol=0.02)
    assert torch.allclose(results["int4"][0], results["dense"][0], atol=0.3)


@pytest.mark.parametrize("arguments", [["-n", "65"], ["-k", "96"]])
def test_a_shape_that_the_bare_op_would_misread_is_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        int4_linear.main(arguments)
    assert "N must be a multiple of 64, K of the group size" in capsys.readouterr().err


def test_importing_the_workbench_imports_no_interface_and_no_transformers():
    assert import_time.imported("workbench", import_time.UNWANTED) == []
    assert import_time.imported("workbench.linear", import_time.UNWANTED) == []
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
