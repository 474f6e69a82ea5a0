"""Exports to torchao's tile-packed int4, loaded by torchao 0.18 itself and by transformers through it."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import workbench as wb
from tests.targets.mlx_zoo import dense_twin
from tests.tiny_models import make
from workbench.checkpoint.model_contents import ModelContents
from workbench.recipe.recipe import as_recipe
from workbench.targets.torchao import LAYOUT, Torchao, padded

ROOT = Path(__file__).parents[2]
TORCHAO_0_18 = ROOT / ".venv-peers" / "torchao-0.18"
G32, G64 = (as_recipe(wb.Int4WeightOnlyConfig(group_size=size)) for size in (32, 64))
MIXED = G64.with_rule("*.q_proj", G32.default).with_rule("*.v_proj", None).with_rule("lm_head", G64.default)
INT = as_recipe(wb.Int4WeightOnlyConfig(group_size=32), domain="int")
CASES = {
    "odd sides": ("llama_odd", G32),
    "tied, biases": ("qwen2", G64),
    "mixed groups, int4 head": ("llama_wide", MIXED),
    "int": ("llama_odd", INT),
    "dense experts": ("mixtral", G32.with_rule("*.experts.*", None)),
}


def exported(name, folder):
    """Write a case in two shards or more; return the model, what was written, and the logits of its dense twin."""
    kind, recipe = CASES[name]
    model = make(kind).to(torch.bfloat16)
    dense = copy.deepcopy(model)
    wb.quantize_(model, recipe)
    contents, target = ModelContents(model), Torchao()
    target.max_shard_bytes = 300_000
    folder.mkdir()
    written = list(target.write(contents, contents.outline(), folder))
    with torch.inference_mode():
        logits = dense_twin(dense, model)(input_ids=torch.arange(2, 14)[None]).logits
    return model, written, logits


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Case → (model, written, logits wanted, what torchao and transformers made of it), in one process of theirs."""
    root = tmp_path_factory.mktemp("torchao")
    made = {name: exported(name, root / name) for name in CASES}
    paths = os.pathsep.join([str(TORCHAO_0_18), str(ROOT)])
    script = Path(__file__).with_name("torchao_loading.py")
    folders = [str(root / name) for name in CASES]
    subprocess.run([sys.executable, script, *folders], check=True, timeout=400, env={**os.environ, "PYTHONPATH": paths})
    return {name: (*made[name], torch.load(f"{root / name}.pt", weights_only=True)) for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_torchao_reads_the_same_codes_scales_and_zeros(loaded, name):
    model, written, _, found = loaded[name]
    assert written
    for layer in written:
        ours, theirs = model.get_submodule(layer.name).quantized_weight(), found[f"{layer.name}.weight"]
        assert theirs["block_size"] == [1, ours.group_size] and theirs["shape"] == list(ours.shape)
        n, groups = ours.scale.shape
        codes = wb.packing.unpack(theirs["qdata"], LAYOUT, *padded(wb.checkpoint.native.ModuleFormat.of(ours)))
        assert torch.equal(codes[:n, : ours.shape[1]], ours.codes)
        scale, zero = theirs["scale_and_zero"][:groups, :n].transpose(0, 1).unbind(-1)
        assert torch.equal(scale, ours.scale)
        assert torch.equal(zero, ours.zero_in_weight_units().to(torch.bfloat16))
        assert (layer.max_error > 0) == (ours.domain == "int")


@pytest.mark.parametrize("name", CASES)
def test_transformers_gives_the_logits_of_the_dequantized_model(loaded, name):
    _, _, wanted, found = loaded[name]
    difference = (found["logits"].float() - wanted.float()).abs().max()
    assert float(difference) < 2**-5 * float(wanted.float().std())  # a last bit of bfloat16 here and there
