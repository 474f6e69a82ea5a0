"""GPTQ folders, v1 and v2, packed by loops; ours; and hostile ones."""

from __future__ import annotations

import pytest
import torch

from tests.foreign.folders import dequantized, folder, only_weight, packed_rows, parts
from tests.targets.exported import mixed, weights, write
from tests.tiny_models import hushed
from workbench.errors import CheckpointError
from workbench.foreign.gptq import GptqFolder
from workbench.targets.gptq import Gptq

NAME = "model.layers.0.self_attn.q_proj"


def settings(**changes):
    given = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False, "checkpoint_format": "gptq_v2"}
    return {**given, **changes}


def tensors(n=16, k=64, group_size=32, less=0, zero=None):
    codes, zeros, scale = parts(n, k, -(-k // group_size), zero_below=16 - less)
    zeros = torch.full_like(zeros, zero) if zero is not None else zeros + less
    return {
        f"{NAME}.qweight": packed_rows(codes).t(),
        f"{NAME}.qzeros": packed_rows((zeros - less).t()),
        f"{NAME}.scales": scale.t(),
        f"{NAME}.g_idx": torch.arange(k, dtype=torch.int32) // group_size,
        f"{NAME}.bias": torch.zeros(n, dtype=torch.float16),
    }, dequantized(codes, zeros, scale, group_size)


@pytest.mark.parametrize(("n", "k", "group_size"), [(16, 64, 32), (12, 64, 32), (16, 96, 64), (16, 384, 384)])
def test_v2_is_read_bit_for_bit(n, k, group_size, tmp_path):
    made, wanted = tensors(n, k, group_size)
    asked = -1 if group_size == k else group_size
    weight = only_weight(GptqFolder(folder(tmp_path / "a", made, settings(group_size=asked))))
    assert torch.equal(weight.dequantize(), wanted)
    assert weight.domain == "int"


@pytest.mark.parametrize("named", ["gptq", None])
def test_v1_stores_one_less(named, tmp_path):
    made, wanted = tensors(less=1)
    weight = only_weight(GptqFolder(folder(tmp_path / "a", made, settings(checkpoint_format=named))))
    assert torch.equal(weight.dequantize(), wanted)


def test_symmetric_folders_have_no_zero_points(tmp_path):
    made, wanted = tensors(less=1, zero=8)
    weight = only_weight(GptqFolder(folder(tmp_path / "a", made, settings(sym=True, checkpoint_format="gptq"))))
    assert (weight.domain, weight.zero) == ("symmetric", None)
    assert torch.equal(weight.dequantize(), wanted)


def test_a_folder_that_only_calls_itself_symmetric_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="called symmetric"):
        only_weight(GptqFolder(folder(tmp_path / "a", tensors()[0], settings(sym=True))))


def test_a_stored_15_in_v1_is_refused(tmp_path):
    made, _ = tensors()
    assert int(parts(16, 64, 2)[1].max()) == 15
    with pytest.raises(CheckpointError, match=r"which some loaders read as 16 .* convert the folder to gptq_v2"):
        only_weight(GptqFolder(folder(tmp_path / "a", made, settings(checkpoint_format="gptq"))))


def test_activation_order_is_refused_and_a_harmless_g_idx_is_not(tmp_path):
    made, wanted = tensors()
    path = folder(tmp_path / "a", made, settings(desc_act=True))
    assert torch.equal(only_weight(GptqFolder(path)).dequantize(), wanted)
    made[f"{NAME}.g_idx"] = made[f"{NAME}.g_idx"][torch.randperm(64, generator=torch.Generator().manual_seed(0))]
    folder(path, made, settings(desc_act=True))
    with pytest.raises(CheckpointError, match="columns grouped by activation order"):
        GptqFolder(path)


def test_what_we_wrote_comes_back(tmp_path):
    model = mixed()
    with hushed():
        write(Gptq(), model, tmp_path / "gptq")
    found = {part.name: part.weight for part in GptqFolder(tmp_path / "gptq").parts() if part.weight is not None}
    assert set(found) == set(weights(model))
    for name, wanted in weights(model).items():
        assert torch.equal(found[name].dequantize(), wanted)


HOSTILE = {
    "no zeros": {"qzeros": None},
    "no scales": {"scales": None},
    "scales of another width": {"scales": torch.ones(2, 8)},
    "one group too many": {"scales": torch.ones(3, 16)},
    "zeros not packed": {"qzeros": torch.zeros(2, 16, dtype=torch.int32)},
    "flat codes": {"qweight": torch.zeros(128, dtype=torch.int32)},
    "no codes": {"qweight": torch.zeros(0, 16, dtype=torch.int32)},
    "codes of eight bits": {"qweight": torch.zeros(16, 16, dtype=torch.int32)},
    "infinite scales": {"scales": torch.full((2, 16), float("inf"))},
    "short g_idx": {"g_idx": torch.zeros(8, dtype=torch.int32)},
    "negative g_idx": {"g_idx": torch.full((64,), -1, dtype=torch.int32)},
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=list(HOSTILE))
def test_hostile_tensors_are_refused(change, tmp_path):
    made = {**tensors()[0], **{f"{NAME}.{part}": tensor for part, tensor in change.items()}}
    path = folder(tmp_path / "a", {name: tensor for name, tensor in made.items() if tensor is not None}, settings())
    with pytest.raises(CheckpointError):
        list(GptqFolder(path).parts())


@pytest.mark.parametrize(
    "change",
    [{"bits": 8}, {"bits": None}, {"group_size": 0}, {"group_size": "32"}, {"checkpoint_format": "marlin"}, {"sym": 1}],
    ids=str,
)
def test_other_settings_are_refused(change, tmp_path):
    with pytest.raises(CheckpointError):
        GptqFolder(folder(tmp_path / "a", tensors()[0], settings(**change)))


def test_a_missing_g_idx_is_refused_where_the_order_matters(tmp_path):
    made = tensors()[0]
    del made[f"{NAME}.g_idx"]
    path = folder(tmp_path / "a", made, settings())
    assert only_weight(GptqFolder(path)).group_size == 32
    with pytest.raises(CheckpointError, match="g_idx"):
        GptqFolder(folder(path, made, settings(desc_act=True)))
