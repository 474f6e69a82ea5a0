"""What the hub calls a model's tensors, against what transformers writes."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

import workbench as wb
from tests.stored_models import OTHERWISE, built
from tests.targets.exported import choice
from tests.tiny_models import make
from workbench.checkpoint.model_contents import ModelContents
from workbench.hf.reverse_names import NamedContents, reverse_names
from workbench.recipe.recipe import Recipe
from workbench.targets.stored_names import StoredContents


def quantized(name):
    model = built(name, torch.float32)
    wb.quantize_(model, Recipe(choice(32, "symmetric")))
    return model


@pytest.mark.parametrize("name", list(OTHERWISE))
def test_every_tensor_is_that_of_the_dense_folder(name, tmp_path):
    dense = built(name, torch.float32)
    dense.save_pretrained(tmp_path)
    wanted = load_file(tmp_path / "model.safetensors")
    contents = NamedContents(ModelContents(quantized(name)))
    stored = StoredContents(contents, contents.outline())
    shapes = {full: tuple(tensor.shape) for full, tensor in wanted.items()}
    outline = stored.outline()
    found = {full: shape for full, (_, shape) in outline.dense.items()}
    for module, form in outline.int4.items():
        transposed = (*form.shape[:-2], form.in_features, form.out_features)
        full = module if form.experts else f"{module}.weight"
        found[full] = transposed if shapes.get(full) == transposed else form.shape
    assert found == shapes
    for part in stored.parts():
        for full, tensor in part.tensors.items():
            assert torch.equal(tensor, wanted[full]), full
        if part.weight is not None and outline.kinds[part.name] == "expert":
            error = (part.weight.dequantize() - wanted[f"{part.name}.weight"]).abs().max()
            assert error < wanted[f"{part.name}.weight"].abs().max() / 5, part.name


def test_a_plain_model_has_no_other_names():
    model = make("qwen2")
    wb.quantize_(model, Recipe(choice(32)))
    assert reverse_names(ModelContents(model).outline()) == {}


def test_a_model_that_transformers_does_not_know_keeps_its_names():
    model = make("qwen2")
    wb.quantize_(model, Recipe(choice(32)))
    contents = ModelContents(model)
    outline = contents.outline()
    outline.config["architectures"] = ["NoSuchModel"]
    assert reverse_names(outline) == {}


def test_an_export_has_the_names_of_the_hub(tmp_path):
    report = wb.export(quantized("mixtral"), tmp_path / "ct", "compressed-tensors")
    names = set(load_file(tmp_path / "ct" / "model.safetensors"))
    assert "model.layers.0.block_sparse_moe.experts.3.w2.weight_packed" in names
    assert report.max_error == 0
    table = wb.export_targets(built("mixtral", torch.float32), Recipe(choice(32, "symmetric")))
    assert table.fits["compressed-tensors"].state == "exact"
