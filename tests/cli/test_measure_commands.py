"""`workbench bench`, `throughput` and `tune`: what is measured is printed and written; what cannot be is refused."""

from __future__ import annotations

import json

import pytest

import workbench.records.record as record
from workbench.cli.main import main
from workbench.measure import speed
from workbench.measure.candidates import present_paths
from workbench.measure.speed import SpeedReport

pytestmark = pytest.mark.usefixtures("quick_roofline")
BENCH = ["bench", "-n", 64, "-k", 96, "--group-size", 32]


def test_a_benchmark_is_printed_and_written(says, tmp_path):
    out = says(*BENCH, "--batch-sizes", "1,4", "--dtypes", "bfloat16,float32", "--json", tmp_path / "b.json")
    lines = out.splitlines()
    assert lines[1].startswith("64 x 96, group size 32") and lines[2].startswith("roofline: ")
    assert out.count("chose") == out.count("int4 is ") == 2 and {"bfloat16", "float32"} <= set(lines)
    assert any(line.startswith("note: path by batch size") for line in lines)
    report = SpeedReport.from_json(json.loads((tmp_path / "b.json").read_text()))
    assert {point.batch for point in report.points} == {1, 4}
    assert {point.path for point in report.points} == set(present_paths("cpu"))
    assert set(report.roofline.matmul_gflop_per_s) == {"bfloat16", "float32"}


def test_a_benchmark_of_some_paths_as_csv(says, tmp_path):
    out = says(*BENCH, "--batch-sizes", "3", "--paths", "dense, op", "--csv", tmp_path / "b.csv")
    assert "dequantize " not in out and "chose" not in out
    rows = (tmp_path / "b.csv").read_text().splitlines()
    assert rows[0].startswith("device,device_name,path,dtype") and len(rows) == 3


def test_a_benchmark_says_when_nothing_compiles(says, monkeypatch):
    monkeypatch.setattr(speed, "compiler_problem", lambda device: "no compiler")
    out = says(*BENCH, "--batch-sizes", "1", "--compiled", "--paths", "int4")
    assert "note: nothing is measured compiled: torch.compile does not work here (no compiler)" in out


def test_a_benchmark_measures_batch_sizes_up_to_2048_when_none_are_given(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(speed.LinearBench, "run", lambda self, cancel: asked.append(self.batch_sizes) or iter(()))
    assert main(["bench"]) == 0
    assert asked == [(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--paths", "int5"], "no path 'int5'"),
        (["--paths", ","], "No path to measure"),
        (["--dtypes", "int8"], "'int8'"),
        (["--dtypes", ""], "No dtype"),
        (["--batch-sizes", "0,4"], "batch_sizes=[0, 4]"),
        (["--json", "no/such/folder/b.json"], "cannot be written"),
    ],
)
def test_a_benchmark_that_cannot_be_is_refused(fails, arguments, said):
    assert said in fails(*BENCH, *arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-n", "0"], "0"),
        (["-k", "-5"], "-5"),
        (["--batch-sizes", "0"], "0"),
        (["--dtypes", "int9"], "int9 bfloat16"),
        (["--group-size", "48"], "48 32"),
        (["--json", "/no/such/folder/b.json"], "/no/such/folder/b.json"),
        (["--csv", "/"], "/"),
    ],
)
def test_benchmarks_that_cannot_be(arguments, words, fails):
    error = fails("bench", "-n", 64, "-k", 64, *arguments)
    assert all(word in error for word in words.split()), error


def test_a_measurement_that_cannot_be_kept_names_its_file(tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(record, "write_json", full)
    assert main([*map(str, BENCH), "--batch-sizes", "1", "--paths", "dense", "--json", str(tmp_path / "b.json")]) == 2
    assert "b.json' was not written: No space left on device." in capsys.readouterr().err.splitlines()[-1]


def test_tokens_per_second_of_a_model_and_its_checkpoint(says, checkpoint, tmp_path):
    sizes = ["--prompt-tokens", 8, "--new-tokens", 2, "--rounds", 1]
    lines = says("throughput", "demo", checkpoint, *sizes, "--json", tmp_path / "t.json").splitlines()
    assert "prefill of 8" in lines[1] and len(lines) == 4
    assert lines[2].startswith("demo ") and lines[3].startswith(str(checkpoint)) and "tokens/s" in lines[3]
    found = json.loads((tmp_path / "t.json").read_text())["models"]
    assert [one["decode_runs"] for one in found] == [2, 2] and found[1]["weight_bytes"] < found[0]["weight_bytes"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["demo", "demo"], "'demo' is named twice"),
        (["no/such/model/at/all"], "'no/such/model/at/all' does not exist"),
        (["demo", "--rounds", 0], "rounds=0"),
        (["demo", "--prompt-tokens", 100_000], "prompt_tokens=100000"),
        (["demo", "--json", "no/such/folder/t.json"], "cannot be written"),
    ],
)
def test_tokens_per_second_that_cannot_be(fails, arguments, said):
    assert said in fails("throughput", *arguments)


def test_tuning_prints_the_table_and_where_it_is_kept(says, own_tables):
    out = says("tune", "-n", 32, "-k", 64, "--group-size", 32)
    assert out.startswith("int4 paths: measured on this machine")
    assert "\n32 × 64, group size 32, bfloat16: " in out
    assert str(own_tables / "paths-cpu.json") in out and (own_tables / "paths-cpu.json").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["-n", 0], "shape (0, 4096)"), (["--dtypes", "int8"], "dtype 'int8'"), (["nowhere"], "nowhere")],
)
def test_tuning_that_cannot_be_is_refused(fails, arguments, said):
    assert said in fails("tune", *arguments)
