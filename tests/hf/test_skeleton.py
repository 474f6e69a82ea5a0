"""A skeleton: every module, no memory."""

from __future__ import annotations

from tests.tiny_models import saved
from workbench.hf.skeleton import skeleton


def test_a_skeleton_takes_no_memory(tmp_path):
    model = skeleton(saved("mixtral", tmp_path))
    assert all(parameter.is_meta for parameter in model.parameters())
