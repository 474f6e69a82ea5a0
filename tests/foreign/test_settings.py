"""Every key of a quantization_config is read, refused, of no account, or told: key by key, for each format."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme

import workbench as wb
from tests.foreign import test_awq, test_compressed_tensors, test_gptq
from tests.foreign.folders import folder
from tests.foreign.test_gguf import foreign_file
from tests.targets.exported import mixed, write
from tests.tiny_models import hushed
from workbench.errors import CheckpointError
from workbench.foreign import compressed_tensors, gptq, open_int4
from workbench.foreign.awq import AwqFolder
from workbench.foreign.compressed_tensors import CompressedTensorsFolder
from workbench.foreign.gptq import GptqFolder
from workbench.foreign.settings import MADE_BY, left_out
from workbench.targets.compressed_tensors import CompressedTensors

INT8 = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}


def ct(group=(), weights=(), **top):
    """A compressed-tensors configuration with these keys of the whole, of its group, and of the group's weights."""
    made = test_compressed_tensors.settings(**dict(weights))
    made["config_groups"]["group_0"] |= dict(group)
    return {**made, **top}


def opened(kind, found, tmp_path):
    path = tmp_path / "a"
    if kind == "compressed-tensors":
        return CompressedTensorsFolder(folder(path, test_compressed_tensors.tensors(), found))
    if kind == "gptq":
        return GptqFolder(folder(path, test_gptq.tensors()[0], test_gptq.settings(**found)))
    return AwqFolder(folder(path, test_awq.tensors()[0], test_awq.settings(**found)))


REFUSED = {
    "input activations in 8 bits": ("compressed-tensors", ct(group={"input_activations": INT8}), "input_activations"),
    "output activations": ("compressed-tensors", ct(group={"output_activations": INT8}), "output_activations"),
    "dynamic weights": ("compressed-tensors", ct(weights={"dynamic": True}), "dynamic"),
    "blocks": ("compressed-tensors", ct(weights={"block_structure": [8, 8]}), "block_structure"),
    "actorder without g_idx": ("compressed-tensors", ct(weights={"actorder": "group"}), "weight_g_idx"),
    "actorder true": ("compressed-tensors", ct(weights={"actorder": True}), "weight_g_idx"),
    "another actorder": ("compressed-tensors", ct(weights={"actorder": "mine"}), "actorder"),
    "sparsity": ("compressed-tensors", ct(sparsity_config={"format": "sparse-24-bitmask"}), "sparsity_config"),
    "sparse experts": ("compressed-tensors", ct(moe_sparsity_config={"layers": {}}), "moe_sparsity_config"),
    "transforms": ("compressed-tensors", ct(transform_config={"config_groups": {"R1": {}}}), "transform_config"),
    "symmetric with zero points": ("compressed-tensors", ct(weights={"symmetric": True}), "has a weight_zero_point"),
    "another group size": ("compressed-tensors", ct(weights={"group_size": 16}), "a scale for each 32"),
    "mixed bits": ("compressed-tensors", ct(config_groups={"a": {"weights": {"num_bits": 8}}}), "num_bits 8"),
    "another format of a group": ("compressed-tensors", ct(group={"format": "int-quantized"}), "format"),
    "gptq pack_dtype": ("gptq", {"pack_dtype": "int64"}, "pack_dtype 'int64'"),
    "gptq marlin": ("gptq", {"is_marlin_format": True}, "is_marlin_format"),
    "gptq rotation": ("gptq", {"rotation": "hadamard"}, "rotation"),
    "gptq activations": ("gptq", {"act_bits": 8}, "act_bits"),
    "gptq data type": ("gptq", {"data_type": "mx_fp"}, "data_type"),
    "gptq bits of one layer": ("gptq", {"dynamic": {"+:^lm_head$": {"bits": 8}}}, "dynamic: bits 8"),
    "gptq dynamic of another kind": ("gptq", {"dynamic": ["x"]}, "has dynamic"),
    "awq layout": ("awq", {"version": "gemv"}, "version 'gemv'"),
    "awq packing": ("awq", {"backend": "llm-awq"}, "llm-awq"),
    "awq pack_dtype": ("awq", {"pack_dtype": "int16"}, "pack_dtype"),
    "awq order": ("awq", {"desc_act": True}, "desc_act"),
    "awq one layer": ("awq", {"dynamic": {"+:^lm_head$": {"bits": 8}}}, "dynamic"),
    "awq rotation": ("awq", {"rotation": "random"}, "rotation"),
    "awq without zero points": ("awq", {"zero_point": False}, "zero_point"),
}


@pytest.mark.parametrize(("kind", "found", "said"), REFUSED.values(), ids=list(REFUSED))
def test_what_would_change_the_weights_is_refused(kind, found, said, tmp_path):
    with pytest.raises(CheckpointError, match=said):
        opened(kind, found, tmp_path)


NOTED = {
    "the cache": ("compressed-tensors", ct(kv_cache_scheme=INT8), "kv_cache_scheme is not carried: keys and values"),
    "a key of the whole": ("compressed-tensors", ct(new={"a": 1}), "new {'a': 1} is not carried"),
    "a key of a group": ("compressed-tensors", ct(group={"new": 1}), "config_groups: new 1 is not carried"),
    "a key of weights": ("compressed-tensors", ct(weights={"new": 1}), "config_groups: weights.new 1 is not carried"),
    "gptq adapter": ("gptq", {"adapter": {"rank": 8}}, "adapter {'rank': 8} is not carried"),
    "gptq of a layer": ("gptq", {"dynamic": {"^x$": {"new": 1}}}, "dynamic: new 1 is not carried"),
    "gptq cache": ("gptq", {"kv_cache_scheme": {"num_bits": 8}}, "kv_cache_scheme {'num_bits': 8} is not carried"),
    "awq adapter": ("awq", {"adapter": {"rank": 8}}, "adapter {'rank': 8} is not carried"),
}


@pytest.mark.parametrize(("kind", "found", "said"), NOTED.values(), ids=list(NOTED))
def test_what_is_not_carried_is_told(kind, found, said, tmp_path):
    [note] = opened(kind, found, tmp_path).outline().notes
    assert note.startswith(said)


SILENT = {
    "how it was made": ("compressed-tensors", ct(weights={"observer": "minmax", "observer_kwargs": {"a": 1}})),
    "order by weight": ("compressed-tensors", ct(weights={"actorder": "weight"})),
    "no transform": ("compressed-tensors", ct(transform_config={}, sparsity_config={"format": "dense"}, version="0.9")),
    "what is dense": ("compressed-tensors", ct(ignore=["lm_head"], quantization_status="compressed")),
    "gptq's tools": ("gptq", {"damp_percent": 0.1, "meta": {"quantizer": ["gptqmodel:5"]}, "true_sequential": True}),
    "gptq dense layers": ("gptq", {"dynamic": {"-:^lm_head$": {}}}),
    "gptq mixed groups": ("gptq", {"dynamic": {"+:^x$": {"group_size": 64}}, "pack_dtype": "torch.int32"}),
    "awq's tools": ("awq", {"modules_to_not_convert": ["lm_head"], "do_fuse": True, "dynamic": {"-:^a$": {}}}),
}


@pytest.mark.parametrize(("kind", "found"), SILENT.values(), ids=list(SILENT))
def test_what_no_weight_depends_on_is_not_told(kind, found, tmp_path):
    assert opened(kind, found, tmp_path).outline().notes == ()


def test_every_key_that_the_library_writes_is_known():
    module = compressed_tensors
    top = {*module._READ, *module._NO_ACCOUNT, "kv_cache_scheme"}
    assert set(QuantizationConfig.model_fields) <= top
    assert set(QuantizationScheme.model_fields) == set(module._READ_OF_GROUP)
    assert set(QuantizationArgs.model_fields) == {*module._READ_OF_WEIGHTS, *module._NO_ACCOUNT_OF_WEIGHTS}


@pytest.mark.parametrize("made", [transformers.GPTQConfig, transformers.AwqConfig], ids=["gptq", "awq"])
def test_every_key_that_transformers_writes_is_known(made):
    assert set(made(bits=4).to_dict()) <= {*gptq._READ, *MADE_BY, "zero_point", "version"}


def test_the_notes_reach_a_person(tmp_path):
    with hushed():
        write(CompressedTensors(), mixed("symmetric"), tmp_path / "ct")
        config = json.loads((tmp_path / "ct" / "config.json").read_text())
        config["quantization_config"]["kv_cache_scheme"] = INT8
        (tmp_path / "ct" / "config.json").write_text(json.dumps(config))
        report = wb.import_checkpoint(tmp_path / "ct", tmp_path / "native")
    assert "note: kv_cache_scheme is not carried" in str(report)
    assert "kv_cache_scheme is not carried" in (tmp_path / "native" / "README.md").read_text()


def test_layers_with_groups_of_their_own_are_read(tmp_path):
    """As GPTQModel writes them: `dynamic` names the layers, their tensors have the shapes."""
    fine, wanted = test_gptq.tensors()
    coarse, other = test_gptq.tensors(group_size=64)
    renamed = {name.replace("q_proj", "k_proj"): tensor for name, tensor in coarse.items()}
    found = test_gptq.settings(dynamic={r"+:.*\.k_proj$": {"group_size": 64, "sym": False}})
    contents = GptqFolder(folder(tmp_path / "a", {**fine, **renamed}, found))
    weights = {part.name.rpartition(".")[2]: part.weight for part in contents.parts() if part.weight is not None}
    assert {name: weight.group_size for name, weight in weights.items()} == {"q_proj": 32, "k_proj": 64}
    assert torch.equal(weights["q_proj"].dequantize(), wanted)
    assert torch.equal(weights["k_proj"].dequantize(), other)


def test_long_values_are_cut():
    assert left_out({"a": list(range(9)), "b": "x" * 500}, ()) == [
        "a of 9 entries is not carried",
        f"b '{'x' * 119} … is not carried",
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [([("general.type", "adapter")], "general.type 'adapter'"), ([("llama.attention.causal", "no")], "causal 'no'")],
)
def test_a_gguf_file_of_another_kind_is_refused(changes, said, tmp_path):
    path, _ = foreign_file(tmp_path / "theirs.gguf", changes=changes)
    with pytest.raises(CheckpointError, match=said):
        open_int4(path)


def test_settings_of_a_gguf_file_that_are_not_carried_are_told(tmp_path):
    changes = [("llama.logit_scale", "2"), ("tokenizer.ggml.mine", "x"), ("general.author", "a"), ("quantize.a", "b")]
    path, _ = foreign_file(tmp_path / "theirs.gguf", changes=changes)
    notes = open_int4(path).outline().notes
    assert notes[-2:] == ("llama.logit_scale '2' is not carried", "tokenizer.ggml.mine 'x' is not carried")
    assert not any("author" in note or "quantize" in note for note in notes)
