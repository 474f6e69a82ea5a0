"""A measured table of the paths on the GPU: every path at every batch, and products that follow it."""

from __future__ import annotations

import torch

from tests.oracles import random_weight
from workbench.choice import available_paths, chosen_path, current_table
from workbench.packed import pack_weight
from workbench.tuning import tune


def test_the_paths_are_measured_and_the_fastest_is_taken(device):
    batches = (1, 32, 512)
    table = tune([(256, 512)], device=device, group_sizes=(64,), batch_sizes=batches, budget_s=0.002)
    assert {(point.batch, point.path) for point in table.points} <= {
        (batch, path) for batch in batches for path in available_paths(device)
    }
    assert {point.batch for point in table.points} == set(batches)
    assert all(point.time_ms > 0 for point in table.points)
    assert current_table(device) == table
    packed = pack_weight(random_weight(256, 512), device)
    assert {chosen_path(packed, batch, torch.bfloat16) for batch in batches} <= set(available_paths(device))
