"""AWQ folders packed by loops; ours; and hostile ones."""

from __future__ import annotations

import pytest
import torch

from tests.foreign.folders import AWQ_ORDER, dequantized, folder, only_weight, packed_rows, parts
from tests.targets.exported import mixed, weights, write
from tests.tiny_models import hushed
from workbench.errors import CheckpointError
from workbench.foreign.awq import AwqFolder
from workbench.targets.awq import Awq

NAME = "model.layers.0.mlp.down_proj"


def settings(**changes):
    return {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm", **changes}


def tensors(n=16, k=64, group_size=32):
    codes, zero, scale = parts(n, k, -(-k // group_size))
    return {
        f"{NAME}.qweight": packed_rows(codes.t(), AWQ_ORDER),
        f"{NAME}.qzeros": packed_rows(zero.t(), AWQ_ORDER),
        f"{NAME}.scales": scale.t(),
    }, dequantized(codes, zero, scale, group_size)


@pytest.mark.parametrize(("n", "k", "group_size"), [(16, 64, 32), (8, 100, 32), (16, 256, 128), (16, 300, 300)])
def test_codes_zero_points_and_scales_are_read_bit_for_bit(n, k, group_size, tmp_path):
    made, wanted = tensors(n, k, group_size)
    asked = -1 if group_size == k else group_size
    weight = only_weight(AwqFolder(folder(tmp_path / "a", made, settings(group_size=asked))))
    assert torch.equal(weight.dequantize(), wanted)


def test_the_names_of_older_settings_are_known(tmp_path):
    made, wanted = tensors()
    old = {"quant_method": "awq", "w_bit": 4, "q_group_size": 32, "version": "GEMM"}
    assert torch.equal(only_weight(AwqFolder(folder(tmp_path / "a", made, old))).dequantize(), wanted)


def test_what_we_wrote_comes_back(tmp_path):
    model = mixed()
    with hushed():
        write(Awq(), model, tmp_path / "awq")
    found = {part.name: part.weight for part in AwqFolder(tmp_path / "awq").parts() if part.weight is not None}
    assert set(found) == set(weights(model))
    for name, wanted in weights(model).items():
        assert torch.equal(found[name].dequantize(), wanted)


HOSTILE = {
    "no zeros": {"qzeros": None},
    "no scales": {"scales": None},
    "scales of another width": {"scales": torch.ones(2, 8)},
    "zeros of another width": {"qzeros": torch.zeros(2, 4, dtype=torch.int32)},
    "flat codes": {"qweight": torch.zeros(128, dtype=torch.int32)},
    "scales of NaN": {"scales": torch.full((2, 16), float("nan"))},
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=list(HOSTILE))
def test_hostile_tensors_are_refused(change, tmp_path):
    made = {**tensors()[0], **{f"{NAME}.{part}": tensor for part, tensor in change.items()}}
    path = folder(tmp_path / "a", {name: tensor for name, tensor in made.items() if tensor is not None}, settings())
    with pytest.raises(CheckpointError):
        list(AwqFolder(path).parts())


@pytest.mark.parametrize(
    "change",
    [{"bits": 8}, {"zero_point": False}, {"version": "gemv"}, {"group_size": None}, {"group_size": 2.0}],
    ids=str,
)
def test_other_settings_are_refused(change, tmp_path):
    with pytest.raises(CheckpointError):
        AwqFolder(folder(tmp_path / "a", tensors()[0], settings(**change)))
