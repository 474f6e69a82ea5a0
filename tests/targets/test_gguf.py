"""GGUF written from whole models and loaded by transformers and gguf-py: every weight is the one that was said."""

from __future__ import annotations

import threading

import gguf
import pytest
import torch
import transformers

import workbench as wb
from tests.targets.gguf_models import make
from tests.tiny_models import hushed
from workbench.checkpoint.contents import Part
from workbench.checkpoint.model_contents import ModelContents
from workbench.checkpoint.native import int4_layers
from workbench.config import DOMAINS
from workbench.errors import Cancelled, CheckpointError
from workbench.targets import TARGETS
from workbench.targets.gguf_tensors import Place

TARGET = TARGETS["gguf"]
IDS = torch.arange(7, 4000, 251)[None]


@pytest.fixture(scope="module")
def tokenizer():
    return wb.demo_model()[1]


def quantized(name: str, domain: str = "float", **changes):
    """A model of the zoo with int4 layers."""
    model = make(name, **changes)
    wb.quantize_(model, wb.Int4WeightOnlyConfig(group_size=64), solver="rtn", domain=domain)
    return model


def exported(model, tokenizer, folder):
    """Write a file; return its path and the layers."""
    contents = ModelContents(model, tokenizer)
    outline = contents.outline()
    TARGET.fit(outline).check()
    layers = list(TARGET.write(contents, outline, folder))
    assert {layer.name for layer in layers} == set(outline.int4)
    (path,) = folder.iterdir()
    return path, layers


def as_float16(weight):
    """What a loader must see: codes times d plus m, both rounded to float16."""
    d, m = weight.scale.half().float(), weight.minimum().half().float()
    if weight.domain == "symmetric":
        return (weight.codes.float() - 8) * d.repeat_interleave(weight.group_size, 1)[:, : weight.shape[1]]
    spread = [one.repeat_interleave(weight.group_size, 1)[:, : weight.shape[1]] for one in (d, m)]
    return weight.codes.float() * spread[0] + spread[1]


@pytest.mark.parametrize(
    "name, domain",
    [("llama", "float"), ("llama_biases", "int"), ("qwen2", "symmetric"), ("qwen3", "int"), ("gemma2", "float")],
)
def test_transformers_loads_the_very_weights_and_computes_the_same(tmp_path, tokenizer, name, domain):
    model = quantized(name, domain)
    path, layers = exported(model, tokenizer, tmp_path)
    dense = make(name)
    with hushed():
        loaded = type(dense).from_pretrained(tmp_path, gguf_file=path.name, config=dense.config, dtype=torch.float32)
    tensors = dict(loaded.named_parameters())
    wanted = {f"{name}.weight": as_float16(layer.quantized_weight()) for name, layer in int4_layers(model).items()}
    worst = 0.0
    for layer, module in int4_layers(model).items():
        assert torch.equal(tensors[f"{layer}.weight"], wanted[f"{layer}.weight"]), layer
        worst = max(worst, float((wanted[f"{layer}.weight"] - module.quantized_weight().dequantize()).abs().max()))
    assert max(one.max_error for one in layers) == pytest.approx(worst, abs=1e-7)
    for key, value in model.named_parameters():
        if "norm" in key and name.startswith("gemma"):
            assert torch.allclose(tensors[key], value, rtol=0, atol=1e-7)  # 1 is added in the file, and taken off again
        else:
            assert torch.equal(tensors[key], value)
    dense.load_state_dict({key: value for key, value in tensors.items()}, strict=False)
    with torch.inference_mode():
        assert torch.equal(loaded.eval()(IDS).logits, dense.eval()(IDS).logits)


def test_the_demo_model_loads_with_nothing_but_the_file(tmp_path):
    model, tokenizer = wb.demo_model()
    wb.quantize_(model, wb.Int4WeightOnlyConfig(group_size=128), solver="rtn", domain="symmetric")
    path, layers = exported(model, tokenizer, tmp_path)
    assert path.name == "model-Q4_0.gguf" and max(layer.max_error for layer in layers) == 0
    with hushed():
        loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name)
        words = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)
    tensors = dict(loaded.named_parameters())
    for name, layer in int4_layers(model).items():
        found = tensors[f"{name}.weight"]
        assert torch.equal(found, layer.quantized_weight().dequantize(found.dtype))
    text = "def f(x):\n    return 'It''s 42'  # naïve"
    assert words(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert loaded.config.tie_word_embeddings and loaded.config.eos_token_id == 0


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
@pytest.mark.parametrize("domain", DOMAINS)
def test_experts_are_stacked_as_llama_cpp_has_them(tmp_path, tokenizer, name, domain):
    model = quantized(name, domain)
    path, _ = exported(model, tokenizer, tmp_path)
    tensors = {one.name: one for one in gguf.GGUFReader(path).tensors}
    weight = int4_layers(model)["model.layers.1.mlp.experts.gate_up_proj"].quantized_weight()
    both = as_float16(weight).view(4, 2, -1, 128)
    for index, stem in enumerate(("gate", "up")):
        stored = tensors[f"blk.1.ffn_{stem}_exps.weight"]
        assert torch.equal(torch.from_numpy(gguf.dequantize(stored.data, stored.tensor_type)), both[:, index])
    router = tensors["blk.1.ffn_gate_inp.weight"]
    assert router.tensor_type is gguf.GGMLQuantizationType.F32
    keys = gguf.GGUFReader(path).fields
    assert keys[f"{keys['general.architecture'].contents()}.expert_count"].contents() == 4


def test_experts_of_their_own_are_stacked_too():
    data = torch.arange(24).view(6, 4)
    assert torch.equal(Place("up", part=(1, 2), experts=1).rows(data), data[3:])
    assert torch.equal(Place("up", part=(1, 2), experts=3).rows(data), data[1::2])
    assert torch.equal(Place("down", row=6).rows(data), data)


def test_mixed_recipes_keep_each_layer_s_type(tmp_path, tokenizer):
    model = make("llama3_positions").to(torch.bfloat16)
    wb.quantize_(model, wb.Int4WeightOnlyConfig(group_size=32), solver="rtn", domain="int", include=["*q_proj"])
    wb.quantize_(model, wb.Int4WeightOnlyConfig(group_size=128), solver="rtn", domain="symmetric", include=["*down*"])
    path, _ = exported(model, tokenizer, tmp_path)
    kinds = {one.name: one.tensor_type.name for one in gguf.GGUFReader(path).tensors}
    assert path.name == "model-Q4_1.gguf"
    assert kinds["blk.0.attn_q.weight"] == "Q4_1" and kinds["blk.0.ffn_down.weight"] == "Q4_0"
    assert kinds["blk.0.attn_k.weight"] == kinds["token_embd.weight"] == "BF16"
    assert kinds["blk.0.attn_norm.weight"] == kinds["rope_freqs.weight"] == "F32"


def test_llama_3_s_positions_are_those_of_transformers(tmp_path, tokenizer):
    model = quantized("llama3_positions")
    path, _ = exported(model, tokenizer, tmp_path)
    factors = next(one for one in gguf.GGUFReader(path).tensors if one.name == "rope_freqs.weight").data
    usual = 10_000.0 ** -(torch.arange(0, 32, 2) / 32)
    assert torch.allclose(model.model.rotary_emb.inv_freq, usual / torch.from_numpy(factors.copy()), rtol=1e-5)


def test_the_size_is_known_before(tmp_path, tokenizer):
    model = quantized("qwen2")
    fit = TARGET.fit(ModelContents(model, tokenizer).outline())
    path, _ = exported(model, tokenizer, tmp_path)
    assert 0 <= path.stat().st_size - fit.size_bytes < 200_000  # the tokenizer
    lines = TARGET.load_lines(tmp_path, ModelContents(model).outline())
    assert str(path) in lines.python and "llama-cli -m" in lines.shell and "ollama create" in lines.shell


def test_without_a_tokenizer_nothing_is_begun(tmp_path):
    contents = ModelContents(quantized("llama"))
    with pytest.raises(CheckpointError, match="pass tokenizer="):
        next(TARGET.write(contents, contents.outline(), tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_cancel_and_what_was_not_announced(tmp_path, tokenizer):
    contents = ModelContents(quantized("llama"), tokenizer)
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        list(TARGET.write(contents, contents.outline(), tmp_path, cancel))
    (tmp_path / "model-Q4_1.gguf").unlink()
    weight = next(iter(int4_layers(contents.model).values())).quantized_weight()
    contents.parts = lambda cancel: iter([Part("other", {}, weight)])
    with pytest.raises(CheckpointError, match="other was not announced"):
        list(TARGET.write(contents, contents.outline(), tmp_path))
