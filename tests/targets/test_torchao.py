"""torchao's tile-packed int4 by formula; torchao itself loads what is written here in tests/peers."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open

import workbench as wb
from tests.oracles import random_weight
from tests.tiny_models import make
from workbench.checkpoint.contents import Outline
from workbench.checkpoint.model_contents import ModelContents
from workbench.checkpoint.native import ModuleFormat
from workbench.errors import CheckpointError
from workbench.recipe.recipe import as_recipe
from workbench.targets.folder import max_error
from workbench.targets.torchao import Torchao, padded

TORCHAO = Torchao()
G32, G64 = (as_recipe(wb.Int4WeightOnlyConfig(group_size=size)) for size in (32, 64))
SHAPES = [(8, 1024), (5, 96), (17, 333), (9, 1280)]


def outline(weight, kind="linear"):
    return Outline("a", {}, {"a.b": ModuleFormat.of(weight)}, {"a.b": kind}, (), {})


def tiles(qdata, n, k):
    """The codes, as tinygemm finds them on a GPU, one at a time; inner_k_tiles is 8."""
    codes = torch.zeros(n, k, dtype=torch.uint8)
    for row in range(n):
        for column in range(k):
            k_tile, rest = divmod(column, 128)
            word, rest = divmod(rest, 32)
            r, rest = divmod(rest, 8)
            pair, p = divmod(rest, 2)
            held = int(qdata[row // 8, k_tile, 4 * (row % 8) + pair, word])
            codes[row, column] = held >> 4 * (4 * p + r) & 15
    return codes


@pytest.mark.parametrize("shape", SHAPES)
def test_each_code_stands_where_the_kernel_looks(shape):
    weight = random_weight(*shape, 64)
    tensors = TORCHAO.encode("a.b", weight, outline(weight))
    rows, columns = padded(ModuleFormat.of(weight))
    assert (rows - shape[0], columns - shape[1]) < (8, 1024) and rows % 8 == columns % 1024 == 0
    qdata, pairs = tensors["a.b._weight_qdata"], tensors["a.b._weight_scale_and_zero"]
    assert qdata.dtype == torch.int32 and qdata.shape == (rows // 8, columns // 128, 32, 4)
    assert pairs.dtype == torch.bfloat16 and pairs.shape == (columns // 64, rows, 2)
    assert torch.equal(tiles(qdata, *shape), weight.codes)
    assert (tiles(qdata, rows, columns)[:, shape[1] :] == 8).all()  # with whatever scale, they add nothing


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("domain", ["float", "int", "symmetric"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("group_size", [32, 64, 128, 256])
def test_what_is_rounded_is_said_and_nothing_else_is(shape, domain, group_size, dtype):
    weight = random_weight(*shape, group_size, domain=domain, dtype=dtype)
    said = outline(weight)
    tensors = TORCHAO.encode("a.b", weight, said)
    stored = TORCHAO.decode("a.b", tensors, ModuleFormat.of(weight))
    assert torch.equal(stored.codes, weight.codes)
    assert torch.equal(stored.scale, weight.scale.bfloat16())
    assert torch.equal(stored.zero, weight.zero_in_weight_units().bfloat16())
    error = max_error(weight, stored)
    exact = dtype == torch.bfloat16 and domain != "int"
    assert (TORCHAO.rounds(said) == "") == exact and (error == 0) == exact
    step = float(weight.scale.float().abs().max())
    if domain != "float":
        assert error <= step / (37 if dtype == torch.bfloat16 else 17) and ("1/" in TORCHAO.rounds(said)) == (not exact)
    if dtype == torch.bfloat16:
        assert error <= 2**-8 * float(weight.zero_in_weight_units().abs().max())  # half of bfloat16's last bit
    assert sum(t.numel() * t.element_size() for t in tensors.values()) == TORCHAO.size_bytes(said)


@pytest.mark.parametrize(("dtype", "most"), [(torch.bfloat16, 1 / 37), (torch.float32, 15 / 256)])
def test_the_most_that_rounding_does_to_the_int_domain(dtype, most):
    """Every significand of a bfloat16 scale, and as many of float32 beside it, with every zero point and code."""
    scale = (torch.arange(128, 256) / 128).to(dtype)
    if dtype == torch.float32:
        near = torch.tensor([0.49999 / 128, -0.49999 / 128])
        scale = torch.cat((scale, (scale.unsqueeze(1) + near).flatten()))
    worst = 0.0
    for zero_point in range(16):
        zero = ((8 - zero_point) * scale).bfloat16().double()
        for code in range(16):
            stored = (code - 8) * scale.bfloat16().double() + zero
            away = (stored - (code - zero_point) * scale.double()).abs() / scale.double()
            assert dtype == torch.float32 or zero_point not in (0, 4, 6, 7, 8, 9, 10, 12) or float(away.max()) == 0
            worst = max(worst, float(away.max()))
    assert 0.98 * most <= worst <= most + 1e-12


def test_a_mixed_recipe_says_in_how_many_layers():
    forms = {f"a.{domain}": ModuleFormat(8, 64, 32, domain, "bfloat16") for domain in ("float", "int", "symmetric")}
    said = replace(outline(random_weight(8, 64, 32)), int4=forms, kinds=dict.fromkeys(forms, "linear"))
    assert TORCHAO.rounds(said) == "zero points of 1 layers of 3 to bfloat16 (by at most 1/37 of a scale)"
    wide = replace(said, int4=forms | {"a.float": replace(forms["a.float"], scale_dtype="float32")})
    assert TORCHAO.rounds(wide) == "scales and zero points of 2 layers of 3 to bfloat16"


@pytest.mark.parametrize("kind", ["experts", "conv1d", "stack"])
def test_other_kinds_are_refused(kind):
    fit = TORCHAO.fit(outline(random_weight(8, 64, 32), kind))
    assert fit.state == "refused" and f"kind {kind}" in str(fit) and "leave these layers dense" in str(fit)


def test_padding_is_forecast():
    notes = TORCHAO.fit(outline(random_weight(8, 1024, 64))).notes
    assert "compute capability 8.0" in notes[0] and len(notes) == 1
    notes = TORCHAO.fit(outline(random_weight(8, 1000, 32))).notes
    assert "multiples of 1024" in notes[1]


def test_values_beyond_bfloat16_are_refused():
    weight = random_weight(8, 64, 32, dtype=torch.float32)
    large = wb.QuantizedWeight(weight.codes, torch.full_like(weight.scale, 3.4e38), weight.zero, 32, "float")
    with pytest.raises(CheckpointError, match="outside bfloat16"):
        TORCHAO.encode("a.b", large, outline(large))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A Llama of mixed groups with dense layers, in several shards."""
    folder = tmp_path_factory.mktemp("torchao") / "mixed"
    folder.mkdir()
    model = make("llama_wide").to(torch.bfloat16)
    wb.quantize_(model, G64.with_rule("*.q_proj", G32.default).with_rule("*.v_proj", None))
    contents = ModelContents(model)
    target = Torchao()
    target.max_shard_bytes = 200_000
    layers = list(target.write(contents, contents.outline(), folder))
    assert {layer.max_error for layer in layers} == {0.0}
    return folder, contents.outline()


def test_every_shard_says_of_which_class_each_parameter_is(written):
    folder, said = written
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 1
    for shard in shards:
        with safe_open(shard, "pt") as file:
            metadata = file.metadata()
        names = json.loads(metadata["tensor_names"])
        assert set(names) == {*said.dense, *(f"{name}.weight" for name in said.int4)}
        assert metadata["format"] == "pt"
        assert json.loads(metadata["model.norm.weight"]) == {"_type": "Tensor"}
        assert json.loads(metadata["model.layers.0.self_attn.q_proj.weight"]) == {
            "_type": "Int4TilePackedTo4dTensor",
            "_data": {"block_size": [1, 32], "shape": [320, 320]},
            "_tensor_data_names": ["qdata", "scale_and_zero"],
        }


def test_groups_of_each_layer_stand_in_the_config(written):
    folder, said = written
    settings = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert settings["quant_method"] == "torchao"
    assert settings["modules_to_not_convert"] == ["model.layers.0.self_attn.v_proj", "lm_head"]
    default = settings["quant_type"]["default"]
    assert default["_type"] == "FqnToConfig" and set(default["_data"]["fqn_to_config"]) == set(said.int4)
    own = default["_data"]["fqn_to_config"]["model.layers.0.self_attn.q_proj"]
    assert (own["_type"], own["_version"], own["_data"]["group_size"]) == ("Int4WeightOnlyConfig", 2, 32)
    uniform = Outline("a", {}, {name: said.int4["model.layers.0.self_attn.k_proj"] for name in "ab"}, {}, (), {})
    one = TORCHAO.configured(uniform)["quantization_config"]["quant_type"]["default"]
    assert one["_type"] == "Int4WeightOnlyConfig" and one["_data"]["set_inductor_config"] is False
