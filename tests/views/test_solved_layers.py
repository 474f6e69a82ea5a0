"""Layers solved before: found by what they are, to the bit, and by nothing less."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from workbench.config import Int4WeightOnlyConfig
from workbench.recipe.recipe import Choice
from workbench.solvers import solve
from workbench.views.cache import ViewCache, solve_and_measure
from workbench.views.solved_layers import SolvedLayers, key_of


def settings(solver="refined", domain=None, group_size=32):
    return Choice(Int4WeightOnlyConfig(group_size=group_size), solver=solver, domain=domain).resolved("cpu")


@pytest.fixture
def weight():
    torch.manual_seed(5)
    return torch.randn(6, 77)


def same(one, other):
    parts = zip((one.codes, one.scale, one.zero), (other.codes, other.scale, other.zero), strict=True)
    return all((a is None and b is None) or torch.equal(a, b) for a, b in parts)


@pytest.mark.parametrize("domain", ["float", "int", "symmetric"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_kept_is_recalled_to_the_bit_in_another_process_too(weight, domain, dtype, tmp_path):
    weight, config = weight.to(dtype), settings(domain=domain)
    solved = solve(weight, config)
    first = SolvedLayers(folder=tmp_path)
    key, found = first.recall("a", weight, config, "")
    assert found is None and len(key) == 64
    first.keep(key, solved)
    key_again, again = SolvedLayers(folder=tmp_path).recall("another name", weight.clone(), config, "")
    assert key_again == key and same(again.weight, solved.weight) and again.weight.solved_by == solved.weight.solved_by
    assert (again.trace, again.solver, again.notes) == (solved.trace, solved.solver, solved.notes)


def test_whatever_decides_a_result_makes_another_key(weight):
    config, inputs = settings("calibrated"), "a key of its inputs"
    changed = weight.clone()
    changed[3, 3] = torch.nextafter(changed[3, 3], torch.tensor(9.0))
    keys = {
        key_of(weight, config, inputs),
        key_of(changed, config, inputs),
        key_of(weight.double().to(torch.bfloat16), config, inputs),
        key_of(weight.reshape(77, 6), config, inputs),
        key_of(weight, config, "another"),
        key_of(weight, config, ""),
        key_of(weight, settings("calibrated", group_size=64), inputs),
        key_of(weight, settings("refined"), inputs),
    }
    assert len(keys) == 8
    assert key_of(weight, replace(config, inner_k_tiles=2, notes=("x",)), inputs) == key_of(weight, config, inputs)


def test_round_to_nearest_is_not_kept(weight, tmp_path):
    layers, config = SolvedLayers(folder=tmp_path), settings("rtn")
    key, found = layers.recall("a", weight, config, "")
    layers.keep(key, solve(weight, config))
    assert (key, found, list(tmp_path.iterdir())) == ("", None, [])


def test_a_view_of_this_very_weight_is_taken_and_of_no_other(weight, tmp_path):
    cache, config = ViewCache(), settings()
    cache.put("a", config, solve_and_measure(weight, "a", config, None))
    layers = SolvedLayers(cache, tmp_path)
    assert same(layers.recall("a", weight, config, "")[1].weight, solve(weight, config).weight)
    assert layers.recall("a", weight.clone(), config, "")[1] is not None  # a folder's weight is read anew
    assert layers.recall("b", weight, config, "")[1] is None
    assert layers.recall("a", weight, settings("hqq"), "")[1] is None
    before = weight.clone()
    weight.mul_(2)  # as training does
    assert layers.recall("a", weight, config, "")[1] is None
    assert layers.recall("a", before, config, "")[1] is None  # the view's own weight is no longer what was solved


def test_a_damaged_file_is_no_result(weight, tmp_path):
    layers, config = SolvedLayers(folder=tmp_path), settings()
    key, _ = layers.recall("a", weight, config, "")
    layers.keep(key, solve(weight, config))
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:], b"", b"not a file"):
        path.write_bytes(damaged)
        assert layers.recall("a", weight, config, "")[1] is None
    path.write_bytes(whole)
    assert layers.recall("a", weight, config, "")[1] is not None


def test_what_is_whole_is_forgotten_and_the_oldest_beyond_the_bound(weight, tmp_path):
    import os

    config = settings()
    solved = solve(weight, config)
    layers = SolvedLayers(folder=tmp_path)
    for place in range(3):
        key, _ = layers.recall("a", weight + place, config, "")
        layers.keep(key, solved)
        os.utime(tmp_path / f"{key}.safetensors", (2e9 + place, 2e9 + place))
    size = (tmp_path / f"{key}.safetensors").stat().st_size
    small = SolvedLayers(folder=tmp_path, max_bytes=2 * size)
    key, _ = small.recall("a", weight + 9, config, "")
    small.keep(key, solved)
    assert len(list(tmp_path.iterdir())) == 2
    small.forget()
    layers.forget()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_nothing_stops_no_export(weight, tmp_path):
    (tmp_path / "file").write_text("in the way")
    layers, config = SolvedLayers(folder=tmp_path / "file"), settings()
    key, _ = layers.recall("a", weight, config, "")
    layers.keep(key, solve(weight, config))
    assert layers.recall("a", weight, config, "")[1] is None
