"""Pages of mapped files are let go of, and read again as they were; nothing else is touched."""

from __future__ import annotations

import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from workbench.checkpoint.mapped import MappedFiles

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux lets go of pages")


@pytest.fixture
def stored(tmp_path):
    tensors = {"a": torch.randint(0, 256, (3, 50_000), dtype=torch.uint8), "b": torch.randn(20_000)}
    save_file(tensors, tmp_path / "x.safetensors")
    return tmp_path / "x.safetensors", tensors


@linux
def test_what_is_let_go_of_is_read_again_as_it_was(stored):
    path, tensors = stored
    with safe_open(path, "pt") as file:
        found = {name: file.get_tensor(name) for name in tensors}
        mapped = MappedFiles([path])
        let_go = {name: mapped.forget(tensor) for name, tensor in found.items()}
        for name, tensor in tensors.items():
            assert torch.equal(found[name], tensor)
            assert tensor.nbytes - 2 * 4096 <= let_go[name] <= tensor.nbytes or let_go[name] == 0
    assert sum(let_go.values()) > 0


def test_tensors_elsewhere_are_left_alone(stored, tmp_path):
    path, tensors = stored
    mapped = MappedFiles([path])
    mine = tensors["b"].clone()
    assert mapped.forget(mine) == 0
    assert torch.equal(mine, tensors["b"])
    assert MappedFiles([tmp_path / "missing"]).forget(mine) == 0
    assert MappedFiles([]).forget(mine) == 0
