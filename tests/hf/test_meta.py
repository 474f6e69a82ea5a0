"""Modules are built on the meta device as they would be elsewhere, and without the time for their values."""

from __future__ import annotations

import gc
import threading

import pytest
import torch
from torch import nn

from workbench.hf.meta import collector_paused, no_values


def test_modules_are_made_without_values():
    with no_values():
        layers = nn.Sequential(nn.Linear(3, 4), nn.Embedding(5, 6), nn.Conv1d(2, 3, 4), nn.MultiheadAttention(8, 2))
    assert all(parameter.is_meta for parameter in layers.parameters())
    assert [list(p.shape) for p in layers[:2].parameters()] == [[4, 3], [4], [5, 6]]


def test_numbers_that_a_constructor_reads_back_have_values():
    with no_values():
        assert [rate.item() for rate in torch.linspace(0, 1, 3)] == [0.0, 0.5, 1.0]
        assert torch.linspace(0, 1, 3, device="meta").is_meta


def test_real_tensors_are_still_initialized():
    with no_values():
        weight = nn.init.uniform_(torch.zeros(8, device="cpu"), 1, 2)
        assert weight.normal_(5, 0.1).mean() > 4
    assert weight.min() > 1


def test_other_threads_keep_their_device_and_values():
    made = []
    with no_values():
        worker = threading.Thread(target=lambda: made.append(nn.Linear(8, 8)))
        worker.start()
        worker.join()
    assert not made[0].weight.is_meta and made[0].weight.abs().sum() > 0


@pytest.mark.parametrize("before", [True, False])
def test_the_collector_is_as_it_was(before):
    was_on = gc.isenabled()
    try:
        (gc.enable if before else gc.disable)()
        with pytest.raises(ZeroDivisionError), collector_paused():
            assert not gc.isenabled()
            raise ZeroDivisionError
        assert gc.isenabled() == before
    finally:
        (gc.enable if was_on else gc.disable)()
