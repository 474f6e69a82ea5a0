"""pack-quantized folders: ours, those that the library packs itself, and hostile ones."""

from __future__ import annotations

import json

import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

import workbench as wb
from tests.foreign.folders import dequantized, folder, only_weight, packed_rows, parts
from tests.targets.exported import mixed, weights, write
from tests.tiny_models import hushed
from workbench.checkpoint.model_contents import ModelContents
from workbench.errors import CheckpointError
from workbench.foreign.compressed_tensors import CompressedTensorsFolder
from workbench.targets.compressed_tensors import CompressedTensors
from workbench.targets.run import iter_export_to

NAME = "model.layers.0.self_attn.q_proj"


def settings(group_size=32, symmetric=False, **changes):
    weights_of = {"num_bits": 4, "type": "int", "symmetric": symmetric, "strategy": "group", "group_size": group_size}
    group = {"targets": ["Linear"], "weights": {**weights_of, **changes}}
    return {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": group}}


def tensors(n=16, k=64, groups=2):
    codes, zero, scale = parts(n, k, groups)
    return {
        f"{NAME}.weight_packed": packed_rows(codes),
        f"{NAME}.weight_scale": scale,
        f"{NAME}.weight_shape": torch.tensor([n, k]),
        f"{NAME}.weight_zero_point": packed_rows(zero.t()).t(),
        "model.norm.weight": torch.ones(k, dtype=torch.float16),
    }


@pytest.mark.parametrize("domain", ["int", "symmetric"])
def test_what_we_wrote_comes_back(domain, tmp_path):
    model = mixed(domain)
    with hushed():
        write(CompressedTensors(), model, tmp_path / "ct")
        *_, report = iter_export_to("native", CompressedTensorsFolder(tmp_path / "ct"), tmp_path / "native")
        loaded, _ = wb.load_checkpoint(tmp_path / "native", verify=True)
    assert report.max_error == 0
    before = {part.name: part.weight for part in ModelContents(model).parts() if part.weight is not None}
    after = {part.name: part.weight for part in ModelContents(loaded).parts() if part.weight is not None}
    assert set(after) == set(before)
    for name, weight in after.items():
        assert torch.equal(weight.codes, before[name].codes)
        assert torch.equal(weight.dequantize(), before[name].dequantize())
    assert "model.layers.0.self_attn.o_proj.weight" in loaded.state_dict()
    assert set(weights(loaded)) == set(weights(model))


@pytest.mark.parametrize(("strategy", "group_size"), [("group", 32), ("group", 128), ("channel", None)])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_what_the_library_packs_is_read_as_it_reads_it(dtype, symmetric, strategy, group_size, tmp_path):
    n, k = 24, 384
    groups = 1 if group_size is None else k // group_size
    scheme = QuantizationScheme(
        targets=["Linear"],
        weights=QuantizationArgs(num_bits=4, type="int", symmetric=symmetric, strategy=strategy, group_size=group_size),
    )
    _, zero, scale = parts(n, k, groups)
    state = {"weight": torch.randn(n, k, dtype=dtype) * 0.02, "weight_scale": scale.to(dtype)}
    state["weight_zero_point"] = torch.zeros_like(zero.char()) if symmetric else (zero.to(torch.int8) - 8)
    library = BaseCompressor.get_value_from_registry("pack-quantized")
    stored = library.compress(state, scheme)
    path = folder(
        tmp_path / "theirs",
        {f"{NAME}.{part}": tensor for part, tensor in stored.items()},
        settings(group_size, symmetric, strategy=strategy),
    )
    contents = CompressedTensorsFolder(path)
    weight = only_weight(contents)
    wide = {**stored, "weight_scale": stored["weight_scale"].float()}
    assert torch.equal(weight.dequantize(), library.decompress(wide, scheme)["weight"])
    assert weight.domain == ("symmetric" if symmetric else "int")
    assert weight.scale.dtype == (torch.bfloat16 if dtype == torch.bfloat16 else torch.float32)
    assert contents.outline().int4[NAME].group_size == (group_size or 256)


def test_float16_scales_and_zero_points_are_exact(tmp_path):
    codes, zero, scale = parts(16, 64, 2)
    weight = only_weight(CompressedTensorsFolder(folder(tmp_path / "a", tensors(), settings())))
    assert torch.equal(weight.codes, codes)
    assert torch.equal(weight.zero, zero)
    assert torch.equal(weight.dequantize(), dequantized(codes, zero, scale, 32))


def test_what_is_dense_stays_dense(tmp_path):
    outline = CompressedTensorsFolder(folder(tmp_path / "a", tensors(), settings())).outline()
    assert list(outline.int4) == [NAME]
    assert outline.dense == {"model.norm.weight": (torch.float16, (64,))}
    assert "quantization_config" not in outline.config


def test_columns_in_order_are_taken_and_those_by_activation_order_refused(tmp_path):
    order = torch.arange(64, dtype=torch.int32) // 32
    path = folder(tmp_path / "a", {**tensors(), f"{NAME}.weight_g_idx": order}, settings(actorder="group"))
    assert only_weight(CompressedTensorsFolder(path)).group_size == 32
    folder(path, {**tensors(), f"{NAME}.weight_g_idx": order.flip(0)}, settings(actorder="group"))
    with pytest.raises(CheckpointError, match="activation order"):
        CompressedTensorsFolder(path)


def test_zero_scales_of_nan_are_refused(tmp_path):
    made = tensors()
    made[f"{NAME}.weight_scale"][3, 1] = float("nan")
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        only_weight(CompressedTensorsFolder(folder(tmp_path / "a", made, settings())))


HOSTILE = {
    "no scale": {"weight_scale": None},
    "no shape": {"weight_shape": None},
    "scale of another height": {"weight_scale": torch.ones(8, 2)},
    "scales that do not divide": {"weight_scale": torch.ones(16, 3)},
    "more scales than columns": {"weight_scale": torch.ones(16, 128)},
    "flat scale": {"weight_scale": torch.ones(16)},
    "empty scale": {"weight_scale": torch.ones(16, 0)},
    "integer scale": {"weight_scale": torch.ones(16, 2, dtype=torch.int32)},
    "negative shape": {"weight_shape": torch.tensor([16, -64])},
    "huge shape": {"weight_shape": torch.tensor([16, 2**40])},
    "shape of eight bits": {"weight_shape": torch.tensor([16, 32])},
    "long shape": {"weight_shape": torch.tensor([16, 64, 1])},
    "float shape": {"weight_shape": torch.tensor([16.0, 64.0])},
    "bytes as codes": {"weight_packed": torch.zeros(16, 8, dtype=torch.uint8)},
    "flat codes": {"weight_packed": torch.zeros(128, dtype=torch.int32)},
    "zero points not packed": {"weight_zero_point": torch.zeros(16, 2, dtype=torch.int32)},
    "zero points of another dtype": {"weight_zero_point": torch.zeros(2, 2, dtype=torch.int64)},
    "a weight beside its codes": {"weight": torch.zeros(16, 64)},
    "groups of 16": {"weight_scale": torch.ones(16, 4), "weight_zero_point": torch.zeros(2, 4, dtype=torch.int32)},
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=list(HOSTILE))
def test_hostile_tensors_are_refused(change, tmp_path):
    made = {**tensors(), **{f"{NAME}.{part}": tensor for part, tensor in change.items()}}
    path = folder(tmp_path / "a", {name: tensor for name, tensor in made.items() if tensor is not None}, settings())
    with pytest.raises(CheckpointError):
        list(CompressedTensorsFolder(path).parts())


@pytest.mark.parametrize(
    "found",
    [
        {"quant_method": "compressed-tensors"},
        {**settings(), "config_groups": []},
        {**settings(), "config_groups": {"group_0": 4}},
        {**settings(), "config_groups": {"group_0": {"weights": None}}},
        {**settings(), "format": "int-quantized"},
        {**settings(), "transform_config": {"config_groups": {"R1": {}}}},
        settings(num_bits=8),
        settings(num_bits=4.0),
        settings(type="float"),
        settings(strategy="tensor"),
    ],
    ids=str,
)
def test_other_settings_are_refused(found, tmp_path):
    with pytest.raises(CheckpointError):
        CompressedTensorsFolder(folder(tmp_path / "a", tensors(), found))


def test_a_folder_without_codes_is_refused(tmp_path):
    path = folder(tmp_path / "a", {"model.norm.weight": torch.ones(4)}, settings())
    with pytest.raises(CheckpointError, match="holds no int4 weight"):
        CompressedTensorsFolder(path)
    assert json.loads((path / "config.json").read_text())["model_type"] == "llama"
