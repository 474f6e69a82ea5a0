"""Live against GPTQModel: it loads our GPTQ v2 and AWQ folders on a CPU and computes with our very weights.

It needs a newer torch than the other peers have: make peers-gptqmodel has an environment of its own.
"""

from __future__ import annotations

from typing import Any

import gptqmodel
import pytest
import torch

from tests.targets.exported import choice, outline, quantized, weights, write
from workbench.recipe.recipe import Recipe, Rule
from workbench.targets.awq import Awq
from workbench.targets.gptq import Gptq

SIZES = {"hidden_size": 128, "intermediate_size": 256}
BACKENDS = {"gptq": "GPTQ_TORCH", "awq": "TORCH"}


def multiplied(layer):
    """The weight [N, K] that a layer multiplies with: each product with a column of the identity has one term."""
    layer.bias = None
    return layer(torch.eye(layer.in_features, dtype=torch.float16)).T


@pytest.mark.parametrize("domain", ["int", "symmetric"])
@pytest.mark.parametrize("target", [Gptq(), Awq()], ids=lambda target: target.name)
def test_it_computes_with_our_weights(target, domain, tmp_path):
    recipe = Recipe(choice(64, domain), (Rule("down_proj", choice(128, domain)),))
    model = quantized("qwen2", recipe, torch.float16, **SIZES)
    write(target, model, tmp_path)
    backend = getattr(gptqmodel.BACKEND, BACKENDS[target.name])
    checked(gptqmodel.GPTQModel.load(str(tmp_path), device="cpu", backend=backend, dtype=torch.float16).model, model)


@pytest.mark.timeout(3600)  # GPTQModel compiles the kernels that it takes by itself, once
@pytest.mark.parametrize("target", [Gptq(), Awq()], ids=lambda target: target.name)
def test_the_printed_lines_load_it(target, tmp_path):
    model = quantized("qwen2", Recipe(choice(64, "int")), torch.float16, **SIZES)
    write(target, model, tmp_path)
    names: dict[str, Any] = {}
    exec(target.load_lines(tmp_path, outline(model)).python, names)
    loaded, ids = names["model"].model, torch.arange(2, 14)[None]
    with torch.inference_mode():
        found, wanted = loaded(ids.to(loaded.device)).logits.cpu().float(), model(ids).logits.float()
    assert (found - wanted).abs().max() < 0.02 * wanted.abs().max()


def checked(loaded, model):
    """Hold each int4 layer that was loaded against the model that was written."""
    layers = {name: layer for name, layer in loaded.named_modules() if hasattr(layer, "qweight")}
    wanted = weights(model)
    assert set(layers) == set(wanted)
    with torch.inference_mode():
        for name, layer in layers.items():
            assert torch.equal(multiplied(layer), wanted[name].half()), name
