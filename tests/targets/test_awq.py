"""AWQ folders against a slow reader that follows AutoAWQ's GEMM layout, bit by bit."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.targets.exported import choice, mixed, outline, quantized, weights, write
from tests.tiny_models import hushed
from workbench.recipe.recipe import Recipe, Rule
from workbench.targets.awq import Awq

TARGET = Awq()
PLACE_OF_ROW = {0: 0, 2: 1, 4: 2, 6: 3, 1: 4, 3: 5, 5: 6, 7: 7}


def slow_weight(tensors, name, group_size):
    """W[n, k] = (q - zero) * scale."""
    qweight, qzeros, scales = (tensors[f"{name}.{part}"] for part in ("qweight", "qzeros", "scales"))
    weight = torch.empty(scales.shape[1], qweight.shape[0])
    for n in range(weight.shape[0]):
        for k in range(weight.shape[1]):
            shift, group = 4 * PLACE_OF_ROW[n % 8], k // group_size
            code, zero = (int(qweight[k, n // 8]) >> shift) & 15, (int(qzeros[group, n // 8]) >> shift) & 15
            weight[n, k] = (code - zero) * float(scales[group, n])
    return weight


@pytest.mark.parametrize("domain", ["int", "symmetric"])
def test_the_weights_are_those_of_the_format(domain, tmp_path):
    model = quantized("qwen2", Recipe(None, (Rule("k_proj", choice(64, domain)),)), hidden_size=96)
    with hushed():
        written = write(TARGET, model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    for name, wanted in weights(model).items():
        assert torch.equal(slow_weight(tensors, name, 32), wanted)
        assert tensors[f"{name}.scales"].dtype == torch.float16
    assert max(layer.max_error for layer in written) == 0


def test_the_configuration_names_what_is_dense(tmp_path):
    with hushed():
        write(TARGET, mixed(), tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert (settings["version"], settings["group_size"], settings["zero_point"]) == ("gemm", 64, True)
    assert {"model.layers.0.self_attn.o_proj", "lm_head"} <= set(settings["modules_to_not_convert"])


def test_the_forecast_is_what_the_tensors_take(tmp_path):
    model = mixed()
    with hushed():
        write(TARGET, model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert TARGET.fit(outline(model)).size_bytes == sum(tensor.nbytes for tensor in tensors.values())
