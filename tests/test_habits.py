"""Habits from transformers and accelerate: `device_map`, `torch_dtype`, shards, hub names."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import huggingface_hub
import pytest
import torch
from huggingface_hub import errors
from transformers import AutoModelForCausalLM

import workbench as wb
from tests.stored_models import saved_fp8
from tests.tiny_models import hushed, logits, make, saved
from workbench.errors import ConfigError, ModelError
from workbench.hf.folders import local_folder
from workbench.hf.late import after_import
from workbench.hf.loading import load_checkpoint, load_model
from workbench.hf.placement import loading_dtype, placement

G32 = wb.Int4WeightOnlyConfig(group_size=32)
MIXED = {
    "model.embed_tokens": "disk",
    "model.layers.0": "cpu",
    "model.layers.1": "disk",
    "model.norm": "cpu",
    "model.rotary_emb": "cpu",
    "lm_head": "disk",
}


@pytest.fixture(autouse=True)
def _hushed():
    with hushed():
        yield


def int4_layers(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, wb.Int4Linear)}


def hooked(model):
    return {name for name, module in model.named_modules() if hasattr(module, "_hf_hook")}


# --- dtypes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("argument", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("written", [lambda d: d, str, lambda d: str(d).removeprefix("torch.")], ids=["it", "t.", "n"])
def test_a_dtype_by_each_of_its_names(dtype, argument, written, tmp_path):
    model, _ = load_model(saved("qwen2", tmp_path), **{argument: written(dtype)})
    assert model.dtype == dtype
    wb.quantize_(model, G32)
    layers = int4_layers(model).values()
    assert {layer.dtype for layer in layers} == {layer.weight.dtype for layer in layers} == {dtype}
    assert {layer.bias.dtype for layer in layers if layer.bias is not None} == {dtype}
    assert logits(model).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_auto_is_what_the_checkpoint_says(dtype, tmp_path):
    folder = saved("qwen2", tmp_path, dtype)
    assert load_model(folder)[0].dtype == load_model(folder, torch_dtype="auto")[0].dtype == dtype
    assert load_model(folder, dtype="auto", torch_dtype="float32")[0].dtype == torch.float32


def test_both_names_may_say_the_same_and_nothing_else():
    assert loading_dtype("bfloat16", torch.bfloat16) is torch.bfloat16
    with pytest.raises(ConfigError, match=r"dtype='float16' and torch_dtype=torch\.bfloat16.*give dtype alone"):
        loading_dtype("float16", torch.bfloat16)


@pytest.mark.parametrize("wrong", ["int8", "half", torch.int8, 16, None, "nn"])
def test_another_dtype_is_named(wrong):
    with pytest.raises(ConfigError, match=r"dtype=.*Allowed: 'auto', float16, bfloat16"):
        loading_dtype(wrong)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_checkpoint_of_int4_layers_is_loaded_in_another_dtype(dtype, tmp_path):
    model = make("qwen2").to(torch.bfloat16)
    wb.quantize_(model, G32)
    wb.save_checkpoint(model, tmp_path / "int4")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "int4", dtype=dtype)
    assert {layer.dtype for layer in int4_layers(loaded).values()} == {loaded.lm_head.weight.dtype} == {dtype}
    for name, layer in int4_layers(model).items():
        assert torch.equal(loaded.get_submodule(name).quantized_weight().codes, layer.quantized_weight().codes)


# --- devices --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device_map", ["auto", "cpu", torch.device("cpu"), {"": "cpu"}, {"": "disk"}, MIXED], ids=str)
def test_a_map_at_loading_then_int4(device_map, tmp_path):
    folder = saved("qwen2", tmp_path)
    whole = load_model(folder)[0]
    dense = logits(whole)
    wb.quantize_(whole, G32)
    model, _ = load_model(folder, device_map=device_map)
    assert torch.equal(logits(model), dense)
    before = hooked(model)
    report = wb.quantize_(model, G32)
    assert hooked(model) == before and len(int4_layers(model)) == 14
    assert torch.equal(logits(model), logits(whole))
    assert ("were offloaded" in str(report)) == ("disk" in str(device_map))
    if not before:
        model.to(torch.bfloat16)


@pytest.mark.parametrize("family", ["opt", "t5", "gpt2", "mixtral"])
def test_each_kind_of_weight_is_quantized_from_disk(family, tmp_path):
    folder = saved(family, tmp_path)
    whole = load_model(folder)[0]
    wb.quantize_(whole, G32)
    model, _ = load_model(folder, device_map={"": "disk"}, offload_folder=tmp_path / "away")
    wb.quantize_(model, G32)
    assert torch.equal(logits(model), logits(whole))
    wb.save_checkpoint(model, tmp_path / "int4")
    for device_map in (None, "auto", {"": "disk"}):
        loaded, _ = load_checkpoint(tmp_path / "int4", device_map=device_map)
        assert torch.equal(logits(loaded), logits(whole))


@pytest.mark.parametrize("device_map", ["auto", {"": "cpu"}, {"": "disk"}, MIXED], ids=str)
def test_a_native_checkpoint_under_a_map(device_map, tmp_path):
    model = make("qwen2")
    wb.quantize_(model, G32)
    wb.save_checkpoint(model, tmp_path / "int4")
    for loaded in (
        AutoModelForCausalLM.from_pretrained(tmp_path / "int4", device_map=device_map),
        load_checkpoint(tmp_path / "int4", device_map=device_map)[0],
    ):
        assert torch.equal(logits(loaded), logits(model))
        assert all(layer.device.type == "cpu" for layer in int4_layers(loaded).values())


def test_a_map_that_is_inferred_puts_on_disk_what_does_not_fit(tmp_path):
    folder = saved("qwen2", tmp_path)
    model, _ = load_model(folder, device_map="auto", max_memory={"cpu": 150_000}, offload_folder=tmp_path / "away")
    assert set(model.hf_device_map.values()) == {"cpu", "disk"}
    whole = load_model(folder)[0]
    assert torch.equal(logits(model), logits(whole))
    wb.quantize_(model, G32)
    wb.quantize_(whole, G32)
    assert torch.equal(logits(model), logits(whole))


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"device": "cpu", "device_map": "auto"}, r"device='cpu' and device_map='auto'.*give one of them"),
        ({"device_map": "autto"}, r"device_map='autto': no such device.*'auto', 'balanced'"),
        ({"device_map": {"": "tape"}}, r"no such device.*or 'disk'"),
        ({"device_map": 1.5}, "no such device"),
        ({"max_memory": {"cpu": 1}}, r'max_memory without device_map.*add device_map="auto"'),
        ({"offload_folder": "x"}, "offload_folder without device_map"),
    ],
)
def test_what_contradicts_itself_is_named_before_anything_is_read(given, match):
    with pytest.raises(ConfigError, match=match):
        load_model("no/such-model", **given)
    with pytest.raises(ConfigError, match=match):
        placement(**given)


def test_a_native_checkpoint_with_dense_experts_under_a_map(tmp_path):
    model = make("mixtral")
    wb.quantize_(model, G32, exclude="*.experts.*")
    wb.save_checkpoint(model, tmp_path / "int4")
    places = {"device_map": "auto", "max_memory": {"cpu": 200_000}, "offload_folder": tmp_path / "away"}
    loaded, _ = load_checkpoint(tmp_path / "int4", **places)
    assert "disk" in loaded.hf_device_map.values()
    assert torch.equal(logits(loaded), logits(model))


def test_weights_that_are_dequantized_on_the_way_go_to_devices_and_not_to_disk(tmp_path):
    folder = saved_fp8(make("qwen2"), tmp_path / "fp8")
    assert torch.equal(logits(load_model(folder, device_map="auto")[0]), logits(load_model(folder)[0]))
    with pytest.raises(ModelError, match=r"stored in FP8 or MXFP4.*workbench quantize MODEL"):
        load_model(folder, device_map={"": "disk"}, offload_folder=tmp_path / "away")


def test_a_map_that_leaves_weights_without_a_place_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"cannot be loaded: .*To mend it: check device_map"):
        load_model(saved("qwen2", tmp_path), device_map={"model.layers": "cpu", "lm_head": "disk"})


# --- folders --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device_map", [None, {"": "disk"}], ids=str)
@pytest.mark.parametrize("family", ["qwen2", "mixtral"])
def test_shards_and_a_single_file_load_the_same(family, device_map, tmp_path):
    folder = saved(family, tmp_path)
    single, _ = load_model(folder)
    single.save_pretrained(tmp_path / "shards", max_shard_size="40KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    assert [file.name for file in folder.glob("*.safetensors")] == ["model.safetensors"]
    away = None if device_map is None else tmp_path / "away"  # experts lie otherwise on disk than in memory
    sharded, _ = load_model(tmp_path / "shards", device_map=device_map, offload_folder=away)
    assert torch.equal(logits(sharded), logits(single))
    wb.quantize_(single, G32)
    wb.quantize_(sharded, G32)
    assert torch.equal(logits(sharded), logits(single))


def test_an_int4_checkpoint_in_shards_loads_under_a_map(tmp_path):
    model = make("qwen2")
    wb.quantize_(model, G32)
    wb.save_checkpoint(model, tmp_path / "int4", max_shard_bytes=20_000)
    assert len(list((tmp_path / "int4").glob("*.safetensors"))) > 2
    for device_map in (None, {"": "disk"}):
        assert torch.equal(logits(load_checkpoint(tmp_path / "int4", device_map=device_map)[0]), logits(model))


def test_the_name_of_the_weights_file_leads_to_its_folder(tmp_path):
    folder = saved("qwen2", tmp_path)
    with pytest.raises(ModelError, match=r"is a file.*name its folder, '.*qwen2'"):
        load_model(folder / "model.safetensors")


def test_pickled_weights_are_never_read(tmp_path):
    folder = saved("qwen2", tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"No safetensors weights.*\.bin"):
        load_model(folder)


# --- the hub --------------------------------------------------------------------------------------------------------


def response(status):
    return httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co/some/model"))


def test_a_hub_name_is_downloaded_and_loaded(tmp_path, monkeypatch):
    folder, asked = saved("qwen2", tmp_path), []

    def download(name, **settings):
        asked.append((name, settings))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    model, _ = load_model("some/model", dtype="bfloat16")
    assert model.dtype == torch.bfloat16
    assert local_folder("some/model") == folder
    assert wb.preflight("some/model", G32).rows
    assert {name for name, _ in asked} == {"some/model"}


def test_what_is_downloaded(monkeypatch, tmp_path):
    """Of a repository, what loading reads: neither code nor pickles, nor the same weights in a second form."""
    there = ["config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.model"]
    there += ["chat_template.jinja", "merges.txt", "added/chat.jinja"]
    not_wanted = ["modeling_x.py", "pytorch_model.bin", "consolidated.safetensors", "original/a.safetensors", "a.pth"]
    seen = {}
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda _, **settings: seen.update(settings) or tmp_path)
    local_folder("some/model")
    found = huggingface_hub.utils.filter_repo_objects(there + not_wanted, **seen)
    assert list(found) == there


@pytest.mark.parametrize(
    ("error", "mend"),
    [
        (lambda: errors.RepositoryNotFoundError("no", response=response(404)), "check the name; a private model needs"),
        (lambda: errors.GatedRepoError("no", response=response(403)), "accept the model's terms"),
        (lambda: ConnectionError("no"), "check the name and the network"),
        (lambda: OSError("disk full"), "check the name and the network"),
    ],
)
def test_what_the_hub_refuses_is_explained(error, mend, monkeypatch):
    def refuse(*_, **__):
        raise error()

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    monkeypatch.setattr("huggingface_hub.is_offline_mode", lambda: False)
    with pytest.raises(ModelError, match=rf"'some/model' is no folder here.*{mend}"):
        load_model("some/model")


def test_offline_nothing_is_asked_and_the_mend_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"'some/model' is no folder here.*unset HF_HUB_OFFLINE"):
        load_model("some/model")


def test_offline_a_model_that_was_downloaded_before_loads(monkeypatch, tmp_path):
    folder = saved("qwen2", tmp_path)
    cache = tmp_path / "hub"
    entry = cache / "models--some--model"
    (entry / "refs").mkdir(parents=True)
    (entry / "refs" / "main").write_text("abc")
    (entry / "snapshots").mkdir()
    folder.rename(entry / "snapshots" / "abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    real = huggingface_hub.snapshot_download
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **more: real(*a, cache_dir=cache, **more))
    assert torch.equal(logits(load_model("some/model")[0]), logits(make("qwen2")))


# --- acting on what others import -----------------------------------------------------------------------------------


def test_an_action_follows_an_import_once(tmp_path, monkeypatch):
    (Path(tmp_path) / "some_late_module.py").write_text("value = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    import sys

    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    calls = []
    after_import("some_late_module", lambda: calls.append(sys.modules["some_late_module"].value))
    after_import("no_such_module", lambda: calls.append("never"))
    assert calls == []
    import some_late_module

    assert calls == [some_late_module.value]
    after_import("some_late_module", lambda: calls.append("now"))
    assert calls == [3, "now"]
    sys.modules.pop("some_late_module")
    import some_late_module

    assert calls == [3, "now"]
    with pytest.raises(ModuleNotFoundError):
        import no_such_module  # noqa: F401


def test_the_config_of_a_model_under_a_map_is_saved_as_any(tmp_path):
    model, _ = load_model(saved("qwen2", tmp_path), device_map={"": "disk"})
    wb.quantize_(model, G32)
    wb.save_checkpoint(model, tmp_path / "int4")
    config = json.loads((tmp_path / "int4" / "config.json").read_text())
    assert "device_map" not in json.dumps(config)
