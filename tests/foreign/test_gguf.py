"""GGUF files come in with their codes bit for bit: ours, and those that gguf-py writes."""

from __future__ import annotations

import sys

import gguf
import numpy as np
import pytest
import torch

import workbench as wb
from tests.targets.gguf_models import make
from tests.tiny_models import hushed
from workbench.checkpoint.model_contents import ModelContents
from workbench.checkpoint.native import int4_layers
from workbench.errors import CheckpointError, EnvironmentProblem
from workbench.foreign import open_int4
from workbench.foreign.gguf_config import shortest
from workbench.targets import TARGETS

TARGET = TARGETS["gguf"]
IDS = torch.arange(7, 4000, 251)[None]


@pytest.fixture(scope="module")
def tokenizer():
    return wb.demo_model()[1]


def written(name, domain, tokenizer, folder):
    """Export a model of the zoo; return it and the file."""
    model = make(name)
    wb.quantize_(model, wb.Int4WeightOnlyConfig(group_size=64), solver="rtn", domain=domain)
    folder.mkdir()
    contents = ModelContents(model, tokenizer)
    list(TARGET.write(contents, contents.outline(), folder))
    return model, next(folder.iterdir())


@pytest.mark.parametrize(
    "name, domain",
    [
        ("llama_biases", "float"),
        ("llama3_positions", "symmetric"),
        ("mixtral", "int"),
        ("qwen2_moe", "float"),
        ("gemma3_text", "symmetric"),
    ],
)
def test_a_file_of_ours_comes_back(tmp_path, tokenizer, name, domain):
    model, path = written(name, domain, tokenizer, tmp_path / "out")
    report = wb.import_checkpoint(tmp_path / "out", tmp_path / "native")
    with hushed():
        loaded, words = wb.load_checkpoint(tmp_path / "native")
    ours, theirs = int4_layers(model), int4_layers(loaded)
    assert set(ours) == set(theirs) and report.fit.notes == ()
    for layer in ours:
        before, after = ours[layer].quantized_weight(), theirs[layer].quantized_weight()
        assert torch.equal(before.codes, after.codes)
        assert float((before.dequantize() - after.dequantize()).abs().max()) <= (0 if domain == "symmetric" else 2**-11)
    known = {"_name_or_path", "architectures", "dtype", "head_dim", "quantization_config", "transformers_version"}
    settings = [{k: v for k, v in one.config.to_dict().items() if k not in known} for one in (model, loaded)]
    assert settings[0] == settings[1]
    assert words("It's 42\n")["input_ids"] == tokenizer("It's 42\n")["input_ids"]
    if domain == "symmetric":
        with torch.inference_mode():
            assert torch.allclose(model(IDS).logits, loaded(IDS).logits, atol=0.02)
    again = tmp_path / "again"
    again.mkdir()
    contents = open_int4(path)
    list(TARGET.write(contents, contents.outline(), again))
    first, second = (gguf.GGUFReader(one) for one in (path, next(again.iterdir())))
    stored = {one.name: one.data for one in second.tensors}
    for one in first.tensors:
        assert stored[one.name].tobytes() == one.data.tobytes() or "norm" in one.name or one.name == "rope_freqs.weight"


def foreign_file(path, *, head="Q8_0", changes=()):
    """A llama as another program writes it: gguf-py's own quantizer, whose Q4_0 scales may be negative."""
    rng = np.random.default_rng(3)
    writer = gguf.GGUFWriter(path, "llama")
    keys = {"context_length": 64, "embedding_length": 64, "block_count": 1, "feed_forward_length": 96}
    keys |= {"attention.head_count": 4, "attention.head_count_kv": 2, "vocab_size": 50}
    for key, value in keys.items():
        writer.add_uint32(f"llama.{key}", value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_string("general.name", "theirs")
    for key, value in changes:
        writer.add_string(key, value)
    shapes = {"attn_q": (64, 64), "attn_k": (32, 64), "attn_v": (32, 64), "attn_output": (64, 64)}
    shapes |= {"ffn_gate": (96, 64), "ffn_up": (96, 64), "ffn_down": (64, 96)}
    values = {}
    kinds = {f"blk.0.{name}.weight": "Q4_0" for name in shapes} | {
        "blk.0.ffn_down.weight": "Q4_1",
        "output.weight": head,
    }
    shapes = {f"blk.0.{name}.weight": shape for name, shape in shapes.items()}
    shapes |= {"output.weight": (50, 64), "token_embd.weight": (50, 64)}
    for name, shape in shapes.items():
        values[name] = rng.standard_normal(shape).astype(np.float32)
        if name in kinds:
            kind = gguf.GGMLQuantizationType[kinds[name]]
            data = gguf.quants.quantize(values[name], kind)
            values[name] = gguf.dequantize(data, kind)
            writer.add_tensor(name, data, raw_dtype=kind)
        else:
            writer.add_tensor(name, values[name])
    for name in ("output_norm.weight", "blk.0.attn_norm.weight", "blk.0.ffn_norm.weight"):
        writer.add_tensor(name, np.ones(64, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, values


def test_a_file_of_another_program(tmp_path):
    path, values = foreign_file(tmp_path / "theirs.gguf")
    report = wb.import_checkpoint(path, tmp_path / "native")
    assert report.fit.notes[:-1] == (
        "1 tensors in Q8_0 become dense float32",
        "no tokenizer is written: it has no list of tokens with their types",
    )
    assert "tokenizer.save_pretrained" in report.fit.notes[-1]  # the mend
    assert "note: 1 tensors in Q8_0" in str(report)
    found = {part.name: part for part in open_int4(tmp_path / "native").parts()}
    for name, stem in (("self_attn.v_proj", "attn_v"), ("mlp.gate_proj", "ffn_gate"), ("mlp.down_proj", "ffn_down")):
        weight = found[f"model.layers.0.{name}"].weight
        wanted = torch.from_numpy(values[f"blk.0.{stem}.weight"])
        assert torch.allclose(weight.dequantize(), wanted, rtol=0, atol=1e-6)
        assert weight.domain == ("float" if stem == "ffn_down" else "symmetric")
    assert any(bool((part.weight.scale < 0).any()) for part in found.values() if part.weight is not None)
    q = found["model.layers.0.self_attn.q_proj"].weight.dequantize()
    wanted = torch.from_numpy(values["blk.0.attn_q.weight"]).view(4, 8, 2, 64).swapaxes(1, 2).reshape(64, 64)
    assert torch.allclose(q, wanted, rtol=0, atol=1e-6)
    head = found["lm_head"]
    assert head.weight is None and torch.equal(
        head.tensors["lm_head.weight"], torch.from_numpy(values["output.weight"])
    )
    assert open_int4(path).outline().dense_layers == ("lm_head",)


def test_other_types_need_gguf_py(tmp_path, monkeypatch):
    path, _ = foreign_file(tmp_path / "theirs.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(
        EnvironmentProblem, match=r"output.weight is stored in Q8_0.*pip install 'int4-workbench\[gguf\]'"
    ):
        wb.import_checkpoint(path, tmp_path / "native")
    assert not (tmp_path / "native").exists()


@pytest.mark.parametrize(
    "changes, said",
    [
        ([("split.count", "3")], "is one of 3 parts.*llama-gguf-split --merge"),
        ([("llama.rope.scaling.type", "longrope")], "rope scaling 'longrope'"),
        ([("llama.attention.key_length", "x")], "attention.key_length 'x'"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, changes, said):
    path, _ = foreign_file(tmp_path / "theirs.gguf", changes=changes)
    with pytest.raises(CheckpointError, match=said):
        open_int4(path)


def test_folders_and_other_files(tmp_path):
    foreign_file(tmp_path / "one.gguf")
    assert open_int4(tmp_path).outline().model == "theirs"
    foreign_file(tmp_path / "two.gguf")
    with pytest.raises(CheckpointError, match=r"holds 2 GGUF files.*one.gguf, two.gguf"):
        open_int4(tmp_path)


def test_numbers_have_the_fewest_digits():
    assert shortest(float(np.float32(1e-6))) == 1e-6
    assert shortest(float(np.float32(1 / 3))) == 0.33333334
    assert shortest(10_000.0) == 10_000.0
