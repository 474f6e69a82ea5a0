"""A checkpoint made on one device runs on the other and writes the same text; moving a layer changes no bit."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.cuda.tiny_lm import TinyLM, greedy
from tests.oracles import assert_close, oracle_weight, random_weight
from workbench import Int4Linear

PROMPTS = [[3], [17, 5, 80], [1, 2, 3, 4, 5, 6, 7]]
SEED = 5
LEAST_LEAD = 0.3  # of a chosen word, in deviations of the logits: devices differ by about a hundredth


def through_a_file(model, path):
    save_file({name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}, path)
    return load_file(path)


@pytest.mark.parametrize(("made_on", "runs_on"), [("cpu", "gpu"), ("gpu", "cpu")])
def test_the_same_tokens_on_the_other_device(made_on, runs_on, tmp_path, device):
    devices = {"cpu": "cpu", "gpu": device}
    made = TinyLM(SEED, devices[made_on])
    saved = through_a_file(made, tmp_path / "model.safetensors")
    loaded = TinyLM(SEED + 1, devices[runs_on], solver="rtn")
    loaded.load_state_dict(saved)
    again = loaded.state_dict()
    assert set(again) == set(saved)
    assert all(torch.equal(again[name].cpu(), tensor) for name, tensor in saved.items())
    texts = [greedy(made, prompt) for prompt in PROMPTS]
    for prompt, (wanted, lead) in zip(PROMPTS, texts, strict=True):
        assert lead > LEAST_LEAD, "the text of this model hangs on a rounding: choose another seed"
        assert greedy(loaded, prompt)[0] == wanted
        tokens = torch.tensor([wanted])
        with torch.no_grad():
            first, second = (model(tokens.to(model.embedding.weight.device)).cpu().float() for model in (made, loaded))
        assert float((first - second).abs().max()) < LEAST_LEAD / 2 * float(first.std())
    assert len({tuple(wanted[-20:]) for wanted, _ in texts}) == len(PROMPTS)


def test_a_moved_model_writes_the_same_text(device):
    model = TinyLM(SEED)
    wanted = [greedy(model, prompt)[0] for prompt in PROMPTS]
    model.to(device)
    assert model.head.packed.device.type == device
    assert [greedy(model, prompt)[0] for prompt in PROMPTS] == wanted
    model.to("cpu")
    assert [greedy(model, prompt)[0] for prompt in PROMPTS] == wanted


@pytest.mark.parametrize("scale_dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("inner_k_tiles", [2, 4, 8])
@pytest.mark.parametrize("domain", ["float", "int", "symmetric"])
@pytest.mark.parametrize("shape", [(48, 128), (17, 333)])
def test_there_and_back_is_exact(shape, domain, inner_k_tiles, scale_dtype, device):
    weight = random_weight(*shape, 32, domain, scale_dtype)
    layer = Int4Linear(weight, torch.linspace(-1, 1, shape[0]), inner_k_tiles=inner_k_tiles)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    bits = layer.packed.clone()
    x = torch.randn(5, shape[1], generator=torch.Generator().manual_seed(1))
    layer.to(device)
    assert layer.packed.device.type == device
    found = layer(x.to(device)).cpu() - layer.bias.cpu()
    assert_close(found, x, oracle_weight(weight))
    moved = layer.state_dict()
    assert all(torch.equal(moved[name].cpu(), tensor) for name, tensor in before.items())
    layer.to("cpu")
    after = layer.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)
    assert torch.equal(layer.packed, bits)
