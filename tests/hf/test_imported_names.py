"""A mixture of experts in another library's folder becomes the model that it was."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

import workbench as wb
from tests.stored_models import built
from tests.targets.exported import choice, write_named
from tests.tiny_models import logits
from workbench.checkpoint.model_contents import ModelContents
from workbench.errors import CheckpointError
from workbench.recipe.recipe import Recipe, Rule
from workbench.targets.awq import Awq
from workbench.targets.compressed_tensors import CompressedTensors


def quantized(family, *rules, domain="symmetric"):
    model = built(family, torch.bfloat16)
    wb.quantize_(model, Recipe(choice(32, domain), rules))
    return model


@pytest.mark.parametrize("target", [CompressedTensors(), Awq()], ids=lambda target: target.name)
@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "deepseek_v3", "llava"])
def test_it_comes_back_with_every_code(family, target, tmp_path):
    domain = "int" if target.name == "awq" else "symmetric"
    dense = [Rule("gate_up_proj", None)] if family == "qwen3_moe" else []  # a stack that stays dense
    dense += [Rule("q_proj", None)] if family == "mixtral" else []
    model = quantized(family, *dense, domain=domain)
    write_named(target, model, tmp_path / "theirs")
    wb.import_checkpoint(tmp_path / "theirs", tmp_path / "native")
    loaded, _ = wb.load_checkpoint(tmp_path / "native", verify=True)
    before = {part.name: part.weight for part in ModelContents(model).parts() if part.weight is not None}
    after = {part.name: part.weight for part in ModelContents(loaded).parts() if part.weight is not None}
    assert set(after) == set(before)
    for name, weight in after.items():
        assert torch.equal(weight.codes, before[name].codes), name
        assert torch.equal(weight.dequantize(), before[name].dequantize()), name
    if target.name != "awq":
        assert torch.equal(logits(loaded), logits(type(loaded).from_pretrained(tmp_path / "native")))


def changed(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_a_stack_in_part_is_refused(tmp_path):
    write_named(CompressedTensors(), quantized("mixtral"), tmp_path / "theirs")
    expert = "model.layers.0.block_sparse_moe.experts.2.w1"

    def one_less(tensors):
        for part in ("weight_packed", "weight_scale", "weight_shape"):
            del tensors[f"{expert}.{part}"]

    changed(tmp_path / "theirs", one_less)
    with pytest.raises(CheckpointError, match="7 of 8 matrices in int4"):
        wb.import_checkpoint(tmp_path / "theirs", tmp_path / "native")


def test_experts_of_an_unknown_model_are_refused(tmp_path):
    write_named(CompressedTensors(), quantized("mixtral"), tmp_path / "theirs")
    config = tmp_path / "theirs" / "config.json"
    config.write_text(config.read_text().replace("MixtralForCausalLM", "NoSuchModel"))
    with pytest.raises(CheckpointError, match="no place for"):
        wb.import_checkpoint(tmp_path / "theirs", tmp_path / "native")


def test_a_dense_stack_in_part_is_refused(tmp_path):
    write_named(CompressedTensors(), quantized("mixtral", Rule("gate_up_proj", None)), tmp_path / "theirs")
    changed(tmp_path / "theirs", lambda tensors: tensors.pop("model.layers.0.block_sparse_moe.experts.2.w1.weight"))
    with pytest.raises(CheckpointError, match="has 7 of 8 matrices"):
        wb.import_checkpoint(tmp_path / "theirs", tmp_path / "native")
    assert not (tmp_path / "native").exists()
