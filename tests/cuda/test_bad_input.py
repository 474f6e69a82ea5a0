"""What the op leaves unchecked is refused before it runs, on every path, in a process of its own: it could end one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.oracles import random_weight
from workbench.affine import QuantizedWeight
from workbench.choice import available_paths
from workbench.errors import KernelError
from workbench.packed import pack_weight

ROOT = Path(__file__).parents[2]


def in_a_process_of_its_own(*arguments):
    command = [sys.executable, "-m", "tests.cuda.bad_inputs", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_every_bad_input_is_refused_with_value_and_mend(device):
    found = json.loads(in_a_process_of_its_own("refused", device))
    assert len(found) == 25 * len(available_paths(device)) + 1
    for name, (kind, message) in found.items():
        assert kind == "KernelError" and ("Allowed: " in message or "To mend it: " in message), (name, kind, message)


def test_activations_that_start_in_the_middle_of_a_word(device):
    """Contiguous, but not aligned as the op reads them: a slice of a larger buffer can be."""
    in_a_process_of_its_own("misaligned", device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_scales_that_bfloat16_cannot_hold_are_refused(dtype, device):
    weight = random_weight(16, 64, dtype=dtype)
    for value in (float("nan"), float("inf")):
        weight.scale[3, 0] = value
        with pytest.raises(KernelError, match=r"scale\[3, 0\].*not finite in bfloat16"):
            pack_weight(weight.to(device), device)


def test_codes_beyond_four_bits_are_refused(device):
    weight = random_weight(16, 64)
    weight.codes[5, 7] = 16
    with pytest.raises(KernelError, match=r"\[5, 7\] is 16"):
        pack_weight(weight.to(device), device)


def test_a_weight_without_elements_is_refused(device):
    parts = (torch.zeros(0, 64, dtype=torch.uint8), torch.zeros(0, 1), torch.zeros(0, 1))
    with pytest.raises(KernelError, match="no elements"):
        pack_weight(QuantizedWeight(*parts, 64, "float").to(device), device)
