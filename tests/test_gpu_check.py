"""`scripts/gpu_check.sh` without a GPU: it says so at once, goes on after a failed step, and sums up what happened."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "gpu_check.sh"
BASH = shutil.which("bash")
pytestmark = pytest.mark.skipif(BASH is None or sys.platform == "win32", reason="a script for bash")

# Stands in for Python on a machine with a GPU: `-c` succeeds, tests fail, one benchmark hangs and one misses a goal.
STAND_IN = """#!/usr/bin/env bash
printf '%s\\n' "$*" >> "$0.calls"
case "$*" in
    *pytest*) echo "1 failed, 7 passed"; touch benchmarks/results/gpu_check-junit.xml; exit 1 ;;
    *cuda_paths*) echo "MISSED a: 1"; echo "met    b: 2"; echo "{}" > benchmarks/results/cuda_paths-x.json ;;
    *triton_blocks*) exec sleep 60 ;;
    *) echo "a GPU" ;;
esac
"""


def run(script, **environment):
    done = subprocess.run(
        [BASH, script], env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=120
    )
    return done.returncode, done.stdout, done.stderr


def test_the_script_parses():
    assert os.access(SCRIPT, os.X_OK)
    subprocess.run([BASH, "-n", SCRIPT], check=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a GPU says")
def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path):
    results = ROOT / "benchmarks" / "results"
    before = set(results.iterdir())
    code, _, errors = run(SCRIPT, PYTHON=sys.executable, OUT=str(tmp_path / "out"))
    assert code == 3 and "no GPU: torch" in errors and "nothing was run" in errors
    assert set(results.iterdir()) == before and not (tmp_path / "out").exists()


def test_without_torch_it_says_so():
    code, _, errors = run(SCRIPT, PYTHON=str(Path(sys.executable)), PYTHONPATH="", PYTHONHOME="/nowhere")
    assert code == 3 and "nothing was run" in errors


def test_a_failed_step_does_not_keep_the_next_from_running(tmp_path):
    script = tmp_path / "scripts" / "gpu_check.sh"
    script.parent.mkdir()
    text = SCRIPT.read_text(encoding="utf-8")
    assert text.count('step "benchmark triton_blocks" 120') == 1
    script.write_text(text.replace('triton_blocks" 120', 'triton_blocks" 1'), encoding="utf-8")
    python = tmp_path / "python"
    python.write_text(STAND_IN, encoding="utf-8")
    python.chmod(0o755)
    code, output, _ = run(script, PYTHON=str(python), OUT=str(tmp_path / "out"))
    assert code == 1
    ends = output[output.index("=== gpu_check") :].splitlines()[1:]
    assert [line.rpartition(" s")[0].rstrip("0123456789") for line in ends if line] == [
        "passed  kernels, ",
        "FAILED  tests: exit code 1, ",
        "passed  benchmark cuda_paths, ",
        "FAILED  benchmark triton_blocks: not done within its time, ",
    ]
    assert ends[2].endswith(", 1 goals missed")
    copied = {path.name for path in (tmp_path / "out").iterdir()}
    assert copied == {"gpu_check-junit.xml", "cuda_paths-x.json", "gpu_check.txt"}
    calls = (tmp_path / "python.calls").read_text(encoding="utf-8")
    assert "-m pytest -c /dev/null" in calls and "tests/cuda tests/test_linear.py tests/test_packed_module.py" in calls


def test_what_it_says_about_the_kernels_can_be_said():
    text = SCRIPT.read_text(encoding="utf-8")
    code = text.partition("\nnotes='")[2].partition("'\n")[0]
    assert code.count('"cuda"') == 2
    command = [sys.executable, "-c", code.replace('"cuda"', '"cpu"')]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "int4 op of cpu" in done.stdout and "paths: op" in done.stdout, done.stderr


def test_the_steps_fit_eight_minutes():
    text = SCRIPT.read_text(encoding="utf-8")
    limit = int(text.partition("LIMIT_S=")[2].split()[0])
    kill_after = int(text.partition("--kill-after=")[2].split()[0])
    assert limit + kill_after < 8 * 60


MISSING = """
transformers huggingface_hub accelerate tokenizers plotly ipywidgets anywidget IPython hypothesis yaml platformdirs
psutil triton
""".split()


def test_the_cuda_tests_are_skipped_without_a_gpu_and_need_nothing_that_a_bare_machine_lacks():
    """They run without configuration and plugins of pytest, where none of these libraries can be imported."""
    code = f"""if True:
        import sys, pytest

        class Bare:
            def pytest_sessionstart(self):
                sys.modules.update(dict.fromkeys({MISSING}))

        options = ["-c", "/dev/null", "--rootdir=.", "--import-mode=importlib", "-q", "-p", "no:cacheprovider"]
        options += ["-o", "markers=cuda: needs a GPU", "-m", "cuda"]
        tests = ["tests/cuda", "tests/test_linear.py", "tests/test_packed_module.py"]
        sys.exit(pytest.main([*options, *tests], plugins=[Bare()]))
    """
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    last = done.stdout.splitlines()[-1]
    assert torch.cuda.is_available() or (" skipped, " in last and "passed" not in last), last


def test_the_cuda_tests_try_their_own_code_on_the_cpu():
    """A part of them that takes seconds; all of it with WORKBENCH_CUDA_TESTS_ON=cpu."""
    chosen = "agree or leading or choice or refused or same_tokens or packs_as or measured or dequantizes_to"
    chosen = f"({chosen}) and not gpu-cpu"  # which is cpu-gpu where the one device is the other
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/cuda", "-k", chosen]
    environment = {**os.environ, "WORKBENCH_CUDA_TESTS_ON": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-3000:]
