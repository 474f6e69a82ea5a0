"""A skeleton: every module, no memory."""

from __future__ import annotations

import pytest

from tests import tiny_models
from tests.tiny_models import saved
from workbench.hf.skeleton import skeleton


@pytest.fixture(autouse=True)
def _hushed():
    with tiny_models.hushed():
        yield


def test_a_skeleton_takes_no_memory(tmp_path):
    model = skeleton(saved("mixtral", tmp_path))
    assert all(parameter.is_meta for parameter in model.parameters())
