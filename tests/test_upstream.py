"""A key that stands for what a layer sees: the same for the same, another for all that decides it."""

import torch
from torch import nn

import workbench as wb
from workbench.digests import digest_of
from workbench.solvers import quantize_weight
from workbench.upstream import Upstream

CONFIG = wb.Int4WeightOnlyConfig(group_size=32)


def model():
    torch.manual_seed(1)
    made = nn.Sequential(nn.Linear(32, 8), nn.BatchNorm1d(8))
    made.register_buffer("table", torch.arange(3), persistent=False)
    return made


IDS, WITNESS = [torch.arange(6).reshape(2, 3)], torch.ones(2, 4)


def key(model, ids=IDS, witness=WITNESS, place="here", solved=()):
    upstream = Upstream(model, ids, witness)
    for name, weight in solved:
        upstream.add(name, weight)
    return upstream.key(place)


def test_the_same_twice_and_with_the_head_tied():
    assert key(model()) == key(model()) and len(key(model())) == 64
    tied = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    tied["b"].weight = tied["a"].weight
    assert key(tied) == key(tied)


def test_whatever_decides_the_inputs_makes_another(monkeypatch):
    weight = quantize_weight(torch.randn(8, 32, generator=torch.Generator().manual_seed(2)), CONFIG)
    coarse = quantize_weight(weight.dequantize(), CONFIG, domain="symmetric")
    changed, buffer, table = model(), model(), model()
    changed[0].bias.data[0] += 1
    buffer[1].running_mean[0] += 1
    table.table[0] += 1
    keys = {
        key(model()),
        *(key(one) for one in (changed, buffer, table)),
        key(model(), [torch.arange(6).reshape(3, 2)]),
        key(model(), [IDS[0][:1], IDS[0][1:]]),
        key(model(), witness=None),
        key(model(), witness=2 * WITNESS),
        key(model(), place="there"),
        key(model(), solved=[("0", weight)]),
        key(model(), solved=[("1", weight)]),
        key(model(), solved=[("0", coarse)]),
        key(model(), solved=[("0", weight), ("1", weight)]),
    }
    assert len(keys) == 13
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    assert key(model()) not in keys


def test_a_digest_is_of_codes_scales_and_zero_points():
    weight = quantize_weight(torch.randn(8, 64, generator=torch.Generator().manual_seed(2)), CONFIG)
    found = {digest_of(weight)}
    for part in (weight.codes, weight.scale, weight.zero):
        part[0, 0] += 1
        found.add(digest_of(weight))
    assert len(found) == 4
