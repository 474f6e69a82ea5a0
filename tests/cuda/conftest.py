"""Tests of what only a GPU can show; they need torch, numpy, safetensors and pytest, and nothing else.

With WORKBENCH_CUDA_TESTS_ON=cpu the same tests run on the CPU, as far as they can, which tries their own code.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

DEVICE = os.environ.get("WORKBENCH_CUDA_TESTS_ON", "cuda")
FOLDER = Path(__file__).parent


def missing() -> str:
    """What keeps these tests from running; "" for nothing."""
    if DEVICE == "cpu":
        return ""
    if not torch.cuda.is_available():
        return "no GPU"
    if torch.version.hip is not None:
        return "the GPU is not NVIDIA's"
    return "" if torch.cuda.get_device_capability() >= (8, 0) else "the GPU has no bfloat16 products"


def pytest_collection_modifyitems(items):
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker(pytest.mark.cuda)
            if reason := missing():
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def device():
    return DEVICE


@pytest.fixture
def gpu(device):
    """The device, for tests of what a CPU does not have at all."""
    if device == "cpu":
        pytest.skip("needs the GPU itself")
    return device


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """No measured table of this machine decides what the tests run."""
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    from workbench.choice import forget_tables

    forget_tables()
    yield
    forget_tables()
