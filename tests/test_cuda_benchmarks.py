"""The GPU benchmarks without a GPU: they say what is missing, and all but the graphs runs on the CPU in its place."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from benchmarks import cuda_graphs, cuda_paths, report, triton_blocks
from benchmarks.cuda_paths import DENSE, LINEAR, check_agreement, goal_of
from tests.test_benchmarks import TIMES
from workbench.measure.timing import Environment, time_interleaved
from workbench.triton.blocks import LARGE, SMALL

MODULES = [cuda_paths, triton_blocks]


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a GPU says")
@pytest.mark.parametrize("module", MODULES)
def test_without_a_gpu_they_say_so(module):
    with pytest.raises(SystemExit, match="no GPU: torch sees none"):
        module.main([])


@pytest.mark.parametrize("module", MODULES)
def test_they_explain_their_options(module, capsys):
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    assert ended.value.code == 0 and "--json" in capsys.readouterr().out


def test_other_gpus_are_refused_by_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "hip", "6.2")
    with pytest.raises(SystemExit, match="ROCm"):
        cuda_graphs.require_gpu()
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    with pytest.raises(SystemExit, match=r"Tesla T4 .* 8\.0"):
        cuda_graphs.require_gpu()


def pretend_gpu(monkeypatch):
    found = Environment("NVIDIA H100 80GB HBM3", torch.__version__, 1, "sm90")
    real = report.environment
    monkeypatch.setattr(report, "environment", lambda device="cpu": found if device == "cuda" else real())


def test_the_gpu_is_named_beside_the_processor(monkeypatch):
    pretend_gpu(monkeypatch)
    cpu, gpu = report.machine(), report.machine("cuda")
    assert gpu == {**cpu, "gpu": "NVIDIA H100 80GB HBM3", "gpu_capability": "sm90", "cuda": torch.version.cuda}
    assert report.machine_label("cuda") == "cuda-nvidia-h100-80gb-hbm3"


@pytest.fixture
def cpu_instead(monkeypatch):
    """The CPU stands in for the GPU, and plain calls for graphs."""

    def time_calls(paths, x, budget_s):
        calls = {name: lambda given=given: [call(x) for call in given] for name, given in paths.items()}
        found = time_interleaved(calls, budget_s=budget_s, min_runs=2)
        return {name: [one / len(paths[name]) for one in seconds] for name, seconds in found.items()}

    pretend_gpu(monkeypatch)
    monkeypatch.setattr(cuda_paths, "DEVICE", "cpu")
    monkeypatch.setattr(cuda_paths, "require_gpu", lambda: None)
    monkeypatch.setattr(cuda_paths, "copies_beyond_l2", lambda held_bytes: 2)
    monkeypatch.setattr(cuda_paths, "time_captured", time_calls)
    monkeypatch.setattr(cuda_paths, "finish", lambda made, path: report.finish(replace(made, device="cuda"), path))


def test_every_path_is_measured_at_every_batch(cpu_instead, tmp_path, capsys):
    path = tmp_path / "results.json"
    arguments = ["--shapes", "64x256", "128x128", "--group-sizes", "64", "128", "--batch-sizes", "1", "17", "2048"]
    assert cuda_paths.main([*arguments, "--budget", "0", "--untuned", "--json", str(path)]) == 0
    data = json.loads(path.read_text(encoding="utf-8"))
    paths = {"op", "dequantize", LINEAR, DENSE}
    cases = {(shape, g, m) for shape in ("64x256", "128x128") for g in (64, 128) for m in (1, 17, 2048)}
    assert {(row["shape"], row["group_size"], row["batch"]) for row in data["rows"]} == cases
    for row in data["rows"]:
        assert set(row) >= TIMES | {"gb_per_s", "gflop_per_s", "of_roofline", "over_dense"}
        assert (row["chosen"] in paths | {"fused"}) == (row["path"] == LINEAR)
    assert paths <= {row["path"] for row in data["rows"]} and len(data["goals"]) == len(cases)
    assert data["machine"]["gpu"] == "NVIDIA H100 80GB HBM3" and "NVIDIA H100" in capsys.readouterr().out


def test_a_k_that_the_groups_do_not_divide_is_refused(cpu_instead, capsys):
    with pytest.raises(SystemExit):
        cuda_paths.main(["--shapes", "64x96"])
    assert "multiple of each group size" in capsys.readouterr().err


def test_a_path_that_is_wrong_is_not_timed():
    weight = torch.randn(8, 8)
    good = [lambda x: x @ weight]
    check_agreement({"op": good, DENSE: good}, torch.randn(3, 8))
    for wrong in (lambda x: x @ weight.t(), lambda x: x @ weight * float("nan")):
        with pytest.raises(SystemExit, match="op differs from dense"):
            check_agreement({"op": [wrong], DENSE: good}, torch.randn(3, 8))


def test_the_promise_depends_on_the_batch():
    times = {"op": [3.0], "fused": [1.0], "dequantize": [2.0], LINEAR: [1.02], DENSE: [3.06]}
    decoding, serving, prefill = (goal_of("x", m, times) for m in (16, 1024, 2048))
    assert (decoding.value, decoding.limit, decoding.sense) == (3.0, 2.2, "at least")
    assert (serving.value, serving.limit, serving.sense) == (1.02, 1.05, "at most") and "fused" in serving.what
    assert (prefill.value, prefill.limit, prefill.sense) == (3.0, 0.9, "at least")


def test_copies_are_together_beyond_the_l2(monkeypatch):
    monkeypatch.setattr(cuda_graphs, "cache_bytes", lambda device: 50 * 2**20)
    assert [cuda_graphs.copies_beyond_l2(size) for size in (2**20, 30 * 2**20, 2**30)] == [32, 7, 3]


@pytest.mark.parametrize("table", [*LARGE.values(), *SMALL.values()], ids=str)
def test_sizes_around_the_table_s_are_ones_that_the_kernel_takes(table):
    found = list(triton_blocks.sizes_around(table))
    assert 5 < len(found) < 20 and table not in found and len(set(found)) == len(found)
    assert all(size.k == table.k and size.n % (16 if size.parts > 1 else 16 * size.warps) == 0 for size in found)
