"""Every weight of a model is listed, by kind and never by model name; layers are swapped where they are used."""

import copy

import pytest
import torch
import transformers
from torch import nn

from workbench import Int4Linear, Int4WeightOnlyConfig
from workbench.errors import ModelError
from workbench.layers import (
    QUANTIZABLE_KINDS,
    dense_tied_names,
    get_layer,
    layer_records,
    output_head,
    swap_layer,
    untie_embeddings,
)

SMALL = {"num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 64, "hidden_size": 32}
NO_TOKENS = {"bos_token_id": None, "eos_token_id": None}


def build(name, **changes):
    torch.manual_seed(0)
    if name == "llama":
        config = transformers.LlamaConfig(**SMALL, intermediate_size=64, num_key_value_heads=1, **changes)
        return transformers.LlamaForCausalLM(config)
    if name == "gpt2":
        config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=64, n_positions=32, **NO_TOKENS)
        return transformers.GPT2LMHeadModel(config)
    if name == "t5":
        config = transformers.T5Config(d_model=32, d_ff=64, d_kv=16, num_layers=2, num_heads=2, vocab_size=64)
        return transformers.T5ForConditionalGeneration(config)
    if name == "opt":
        config = transformers.OPTConfig(**SMALL, ffn_dim=64, max_position_embeddings=32, word_embed_proj_dim=32)
        return transformers.OPTForCausalLM(config)
    config = transformers.MixtralConfig(**SMALL, intermediate_size=64, num_key_value_heads=1, num_local_experts=4)
    return transformers.MixtralForCausalLM(config)


MODELS = ["llama", "gpt2", "t5", "opt", "mixtral"]


def by_kind(model):
    found = {}
    for record in layer_records(model):
        found.setdefault(record.kind, []).append(record.name)
    return found


def linear_names(model):
    """What a person would count: modules of the class nn.Linear itself, without the output head."""
    head = model.get_output_embeddings()
    return [name for name, module in model.named_modules() if type(module) is nn.Linear and module is not head]


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_is_listed_and_its_bytes_count_once(name):
    model = build(name)
    records = layer_records(model)
    assert len({record.name for record in records}) == len(records)
    listed = {record.name for record in records}
    for path, _ in model.named_parameters(remove_duplicate=False):
        assert path.removesuffix(".weight") in listed
    assert sum(record.size_bytes for record in records) == sum(p.numel() * p.element_size() for p in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_the_linear_layers_are_those_of_class_linear(name):
    model = build(name)
    assert by_kind(model).get("linear", []) == linear_names(model)
    for record in layer_records(model):
        if record.kind in ("linear", "output_head"):
            layer = get_layer(model, record.name)
            assert record.shape == (layer.out_features, layer.in_features)
            assert record.dtype == "float32"


@pytest.mark.parametrize("name", MODELS)
def test_a_model_on_meta_has_the_same_records(name):
    with torch.device("meta"):
        empty = build(name)
    assert {parameter.device.type for parameter in empty.parameters()} == {"meta"}
    assert layer_records(empty) == layer_records(build(name))


def test_conv1d_is_listed_as_what_it_is():
    found = by_kind(build("gpt2"))
    parts = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert found["conv1d"] == [f"transformer.h.{block}.{part}" for block in range(2) for part in parts]
    assert "linear" not in found


def test_fused_experts_and_their_router_are_listed_not_skipped():
    model = build("mixtral")
    records = {record.name: record for record in layer_records(model)}
    for block in range(2):
        up = records[f"model.layers.{block}.mlp.experts.gate_up_proj"]
        down = records[f"model.layers.{block}.mlp.experts.down_proj"]
        assert (up.kind, up.shape, up.size_bytes) == ("experts", (4, 128, 32), 4 * 4 * 128 * 32)
        assert (down.kind, down.shape) == ("experts", (4, 32, 64))
        assert records[f"model.layers.{block}.mlp.gate"].kind not in QUANTIZABLE_KINDS


@pytest.mark.parametrize(
    ("name", "ties"),
    [
        ("gpt2", {"lm_head": "transformer.wte"}),
        ("opt", {"lm_head": "model.decoder.embed_tokens"}),
        ("t5", {"encoder.embed_tokens": "shared", "decoder.embed_tokens": "shared", "lm_head": "shared"}),
        ("mixtral", {}),
    ],
)
def test_tied_weights_name_the_first_of_their_names(name, ties):
    model = build(name)
    assert dict(dense_tied_names(model)) == ties
    assert {record.name: record.size_bytes for record in layer_records(model) if record.tied_to} == dict.fromkeys(
        ties, 0
    )


@pytest.mark.parametrize("tied", [True, False])
def test_the_output_head_is_told_from_other_linear_layers(tied):
    model = build("llama", tie_word_embeddings=tied)
    assert by_kind(model)["output_head"] == ["lm_head"]
    assert output_head(model) is model.lm_head
    assert dict(dense_tied_names(model)) == ({"lm_head": "model.embed_tokens"} if tied else {})


def test_models_without_an_output_head():
    assert output_head(build("llama").model) is None
    assert output_head(nn.Sequential(nn.Linear(4, 4))) is None
    assert by_kind(nn.Linear(4, 4)) == {"linear": [""], "bias": ["bias"]}


def test_a_module_under_two_names_is_listed_under_both():
    shared = nn.Linear(64, 64)
    records = layer_records(nn.ModuleDict({"a": shared, "b": shared}))
    assert [(r.name, r.tied_to, r.size_bytes) for r in records if r.kind == "linear"] == [
        ("a", None, 16384),
        ("b", "a", 0),
    ]
    int4 = Int4Linear.from_linear(shared)
    records = layer_records(nn.ModuleDict({"a": int4, "b": int4}))
    found = [(r.name, r.tied_to, r.size_bytes) for r in records if r.kind == "int4_linear"]
    assert found == [("a", None, int4.size_bytes), ("b", "a", 0)]


class Doubled(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 2


def test_a_linear_layer_whose_weight_is_used_otherwise_is_no_candidate():
    attention = nn.MultiheadAttention(32, 2)
    found = by_kind(nn.ModuleDict({"attention": attention, "doubled": Doubled(4, 4), "plain": nn.Linear(4, 4)}))
    assert found["linear"] == ["plain"]
    assert found["NonDynamicallyQuantizableLinear"] == ["attention.out_proj"]
    assert found["parameter"] == ["attention.in_proj_weight", "attention.in_proj_bias"]
    assert found["Doubled"] == ["doubled"]


def test_other_kinds():
    parts = [nn.Embedding(4, 4), nn.LayerNorm(4), nn.Conv2d(1, 1, 3), nn.Bilinear(2, 2, 2), nn.LSTM(2, 2), nn.PReLU()]
    model = nn.ModuleDict({type(part).__name__: part for part in parts})
    kinds = {record.name: record.kind for record in layer_records(model)}
    weights = {name: kind for name, kind in kinds.items() if kind not in ("bias", "parameter")}
    assert weights == {
        "Embedding": "embedding",
        "LayerNorm": "norm",
        "Conv2d": "convolution",
        "Bilinear": "Bilinear",
        "PReLU": "PReLU",
    }
    assert kinds["LSTM.weight_ih_l0"] == "parameter"


# --- swapping --------------------------------------------------------------------------------------------------------


def swap_all(model, **settings):
    config = Int4WeightOnlyConfig(group_size=32, **settings)
    for record in layer_records(model):
        if record.kind == "linear":
            swap_layer(model, record.name, Int4Linear.from_linear(get_layer(model, record.name), config))
    return model


def inputs(name):
    ids = torch.arange(12).view(2, 6)
    return {"input_ids": ids, "decoder_input_ids": ids} if name == "t5" else {"input_ids": ids}


@pytest.mark.parametrize("name", ["llama", "t5", "opt", "mixtral"])
def test_a_model_runs_with_every_linear_layer_swapped_as_with_their_values_in_dense(name):
    model = build(name).eval()
    names = linear_names(model)
    dense = copy.deepcopy(model)
    swap_all(model)
    records = {record.name: record for record in layer_records(model)}
    assert [name for name, record in records.items() if record.kind == "int4_linear"] == names
    for path in names:
        with torch.no_grad():
            get_layer(dense, path).weight.copy_(get_layer(model, path).quantized_weight().dequantize())
    with torch.no_grad():
        ours, theirs = (each(**inputs(name)).logits for each in (model, dense))
    assert (ours - theirs).norm() <= 0.03 * theirs.norm()
    assert model.num_parameters() == sum(p.numel() for p in model.parameters())
    assert model.dtype == torch.float32
    assert model.half()(**inputs(name)).logits.dtype == torch.float16


def test_torch_s_encoder_layer_runs_with_swapped_layers():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True).eval()
    dense = copy.deepcopy(layer)
    swap_all(layer)
    assert {name for name, module in layer.named_modules() if isinstance(module, Int4Linear)} == {"linear1", "linear2"}
    for path in ("linear1", "linear2"):
        with torch.no_grad():
            get_layer(dense, path).weight.copy_(get_layer(layer, path).quantized_weight().dequantize())
    x = torch.randn(2, 5, 32)
    for mode in (torch.no_grad, torch.enable_grad):
        with mode():
            assert torch.allclose(layer(x), dense(x), atol=0.05)


def test_swapping_returns_the_old_layer_and_keeps_the_mode():
    model = build("llama").eval()
    name = "model.layers.1.mlp.up_proj"
    old = get_layer(model, name)
    new = Int4Linear.from_linear(old)
    assert new.training
    assert swap_layer(model, name, new) is old
    assert get_layer(model, name) is new and not new.training
    top = nn.Sequential(nn.Linear(4, 4))
    replacement = nn.Identity()
    swap_layer(top, "0", replacement)
    assert top[0] is replacement


def test_a_layer_that_is_not_there_is_named():
    with pytest.raises(ModelError, match=r"no layer 'model.layers.9.mlp'.*wb.preflight"):
        get_layer(build("llama"), "model.layers.9.mlp")


def test_untied_embeddings_are_not_tied_again():
    model = build("llama", tie_word_embeddings=True)
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    untie_embeddings(model)
    model.tie_weights()
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    assert model.config.tie_word_embeddings is False
    untie_embeddings(nn.Linear(4, 4))  # a model without a configuration has nothing to record
