"""Loading models: refused or named, never guessed; and the loader of int4 checkpoints inside transformers."""

from __future__ import annotations

import huggingface_hub
import pytest
import torch
import transformers

import workbench as wb
from tests.tiny_models import edit_config, logits, make, saved
from workbench.checkpoint.save import save_checkpoint
from workbench.errors import CheckpointError, ModelError
from workbench.hf.loading import load_checkpoint, load_model
from workbench.hf.quantizer import Int4WorkbenchConfig
from workbench.hf.skeleton import open_source

G32 = wb.Int4WeightOnlyConfig(group_size=32)


@pytest.mark.parametrize("load", [load_model, open_source, load_checkpoint, wb.preflight])
def test_a_path_that_does_not_exist_is_named(load, tmp_path):
    with pytest.raises((ModelError, CheckpointError), match=r"no/model' does not exist|no/model/config.json' does not"):
        load(tmp_path / "no" / "model")


def test_a_hub_name_without_the_hub_is_explained(monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(ModelError, match=r"'some/model' is no folder here, and the hub did not give it"):
        load_model("some/model")


def test_a_file_and_a_folder_without_config_are_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="is a file"):
        load_model(tmp_path / "model.safetensors")
    for load in (load_model, open_source):
        with pytest.raises(ModelError, match=r"no config\.json.*To mend it"):
            load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"model_type": "of_the_future"}, "does not know the model"),
        ({"model_type": None}, "does not know the model"),
        ({"architectures": 3}, "architectures is 3"),
        ({"architectures": [None]}, "architectures is"),
        ({"num_attention_heads": 7, "hidden_size": -1}, "cannot be built|cannot be loaded"),
    ],
)
def test_a_config_that_cannot_be_is_named(changes, match, tmp_path):
    folder = saved("opt", tmp_path)
    edit_config(folder, **changes)
    for load in (load_model, open_source):
        with pytest.raises(ModelError, match=match):
            load(folder)


def test_code_of_a_checkpoint_is_never_run(tmp_path):
    folder = saved("qwen2", tmp_path)
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    edit_config(folder, model_type="evil", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"})
    for load in (load_model, open_source):
        with pytest.raises(ModelError, match="code of a checkpoint is never run"):
            load(folder)


def test_an_architecture_by_another_name_falls_back_to_the_config(tmp_path):
    folder = saved("qwen2", tmp_path)
    for names in (["NoSuchClass"], None, ["AutoModel"], ["torch"]):
        edit_config(folder, architectures=names)
        assert type(load_model(folder)[0]).__name__ == "Qwen2ForCausalLM"


def test_a_weight_that_the_folder_lacks_is_never_made_up(tmp_path):
    folder = saved("qwen2", tmp_path)
    layers = {"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3}
    edit_config(folder, **layers)
    with pytest.raises(ModelError, match=r"lacks 12 weights of the model, first 'model\.layers\.2\..*random"):
        load_model(folder)


def test_the_tokenizer_comes_along_or_is_none(tmp_path):
    assert load_model("demo")[1]("def").input_ids
    assert load_model(saved("qwen2", tmp_path))[1] is None


def test_a_dtype_and_a_device_are_taken(tmp_path):
    folder = saved("qwen2", tmp_path)
    model, _ = load_model(folder, dtype="bfloat16", device="cpu")
    assert model.dtype == torch.bfloat16
    assert load_model(folder)[0].dtype == torch.float32


def test_a_model_in_float16_keeps_what_its_family_keeps_in_float32(tmp_path):
    model, _ = load_model(saved("t5", tmp_path, torch.float16))
    wb.quantize_(model, G32)
    save_checkpoint(model, tmp_path / "int4")
    loaded, _ = load_checkpoint(tmp_path / "int4")
    block = loaded.encoder.block[0].layer[1].DenseReluDense
    assert (block.wo.dtype, block.wi.dtype) == (torch.float32, torch.float16)
    assert block.wo.weight.dtype == torch.float32
    assert block.wo.quantized_weight().scale.dtype == torch.bfloat16
    assert torch.equal(logits(loaded), logits(model))


def test_no_dense_copy_of_an_int4_weight_is_ever_made(tmp_path, monkeypatch):
    model = make("qwen2")
    wb.quantize_(model, G32)
    save_checkpoint(model, tmp_path / "int4")
    monkeypatch.setattr(wb.QuantizedWeight, "dequantize", lambda *_: pytest.fail("dequantized"))
    loaded, _ = load_checkpoint(tmp_path / "int4")
    linear = [name for name, module in loaded.named_modules() if isinstance(module, torch.nn.Linear)]
    assert linear == ["lm_head"]


def test_adapters_may_be_trained_over_it_and_it_may_be_saved(tmp_path):
    model = make("qwen2")
    wb.quantize_(model, G32)
    save_checkpoint(model, tmp_path / "int4")
    loaded, _ = load_checkpoint(tmp_path / "int4")
    assert loaded.hf_quantizer.is_trainable and loaded.hf_quantizer.is_serializable()
    assert loaded.is_quantized
    assert isinstance(loaded.config.quantization_config, Int4WorkbenchConfig)
    assert loaded.config.quantization_config.modules_to_not_convert == ["lm_head"]


def test_verify_is_asked_for_at_load(tmp_path):
    model = make("qwen2")
    wb.quantize_(model, G32)
    save_checkpoint(model, tmp_path / "int4")
    with (tmp_path / "int4" / "generation_config.json").open("a") as file:
        file.write("\n")
    load_checkpoint(tmp_path / "int4")
    with pytest.raises(CheckpointError, match=r"generation_config\.json"):
        load_checkpoint(tmp_path / "int4", verify=True)


PLACES = {
    "none": {},
    "cpu": {"device_map": "cpu"},
    "all": {"device_map": {"": "cpu"}},
    "auto": {"device_map": "auto", "max_memory": {"cpu": "1GiB"}},
}
FLOATS = {"auto": torch.bfloat16, "float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """A bfloat16 model in shards of 9 kB, with a layer of float32 scales; the model, and its folder."""
    folder = tmp_path_factory.mktemp("sharded") / "int4"
    model, _ = load_model(saved("qwen2", folder.parent, torch.bfloat16))
    up = model.model.layers[0].mlp
    up.up_proj = wb.Int4Linear.from_linear(up.up_proj, G32.resolved("cpu", domain="int", scale_dtype=torch.float32))
    wb.quantize_(model, G32)
    save_checkpoint(model, folder, max_shard_bytes=9_000)
    assert len(list(folder.glob("*.safetensors"))) > 4
    return model, folder


def tokens_of(model):
    return model.generate(torch.arange(2, 8)[None], max_new_tokens=6, do_sample=False)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("place", PLACES)
def test_from_pretrained_keeps_every_stored_value(place, dtype, sharded):
    model, folder = sharded
    loaded = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **PLACES[place])
    assert loaded.dtype == FLOATS[dtype] and {one.device.type for one in loaded.parameters()} == {"cpu"}
    ours, saved_as = loaded.state_dict(), model.state_dict()
    assert ours.keys() == saved_as.keys()
    for name, tensor in saved_as.items():
        kept = name.rpartition(".")[2] in ("weight_scale", "weight_zero", "weight_zp") or tensor.dtype == torch.uint8
        assert ours[name].dtype == (tensor.dtype if kept else FLOATS[dtype]), name
        assert torch.equal(ours[name], tensor.to(ours[name].dtype)), name
    layer = loaded.model.layers[0].mlp.up_proj
    assert layer.quantized_weight().scale.dtype == torch.float32 and layer.weight.dtype == FLOATS[dtype]
    assert torch.isfinite(logits(loaded)).all()
    if FLOATS[dtype] == torch.bfloat16:
        assert torch.equal(logits(loaded), logits(model)) and torch.equal(tokens_of(loaded), tokens_of(model))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_was_loaded_is_saved_and_loaded_again_the_same(dtype, sharded, tmp_path):
    loaded = transformers.AutoModelForCausalLM.from_pretrained(sharded[1], dtype=dtype)
    loaded.save_pretrained(tmp_path / "again", max_shard_size="9KB")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    ours, theirs = loaded.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys() and again.dtype == FLOATS[dtype]
    assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in ours)
    assert torch.equal(tokens_of(loaded), tokens_of(again))


def test_a_folder_is_whole_as_the_hub_takes_it(tmp_path):
    model, tokenizer = wb.demo_model()
    wb.quantize_(model, G32)
    save_checkpoint(model, tmp_path / "int4", tokenizer=tokenizer)
    names = {path.name for path in (tmp_path / "int4").iterdir()}
    tokenizers = {"tokenizer.json", "tokenizer_config.json"}
    assert names == {
        *("README.md", "config.json", "generation_config.json", "int4_manifest.json", "model.safetensors"),
        *tokenizers,
    }
    assert huggingface_hub.ModelCard.load(tmp_path / "int4" / "README.md").data.library_name == "transformers"
