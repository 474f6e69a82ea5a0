"""The Triton kernels become machine code for each kind of GPU: in its registers and memory, and as they were meant."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHARED_BYTES = {80: 163 * 1024, 86: 99 * 1024, 90: 227 * 1024, 100: 227 * 1024, 120: 99 * 1024}  # most of a program


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    command = [sys.executable, "-m", "tests.peers.triton_compiling"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_all_kernels_fit_registers_and_shared_memory(kernels):
    assert {kernel["capability"] for kernel in kernels} == set(SHARED_BYTES)
    for kernel in kernels:
        assert kernel["stack_bytes"] == 0, kernel  # nothing was spilled
        assert kernel["shared_bytes"] <= SHARED_BYTES[kernel["capability"]], kernel


def test_loads_run_ahead_of_the_products(kernels):
    fused = [kernel for kernel in kernels if kernel["what"].startswith(("fused", "few rows"))]
    assert len(fused) > 20 and all(kernel["loads_ahead"] for kernel in fused)


def test_no_weight_goes_through_shared_memory_on_its_way_to_a_matrix_unit(kernels):
    for kernel in kernels:
        if kernel["what"].startswith(("fused", "few rows")):
            assert kernel["matrix_unit"] and not kernel["weights_in_shared"], kernel


def test_hopper_s_matrix_unit_takes_the_weights_from_registers(kernels):
    hopper = [kernel for kernel in kernels if kernel["what"].startswith("fused") and kernel["capability"] == 90]
    assert len(hopper) == 7
    for kernel in hopper:
        assert kernel["wgmma"] and not kernel["weights_in_shared"], kernel
