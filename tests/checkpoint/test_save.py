"""Save and load: every family, dtype, group size and domain comes back bit for bit, by each way to load it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

import workbench as wb
import workbench.checkpoint.writer as writer
from tests import tiny_models
from tests.tiny_models import QUANTIZABLE, logits, make
from workbench.checkpoint.native import parse
from workbench.checkpoint.save import iter_write_quantized, save_checkpoint
from workbench.config import DOMAINS, GROUP_SIZES
from workbench.coverage.preflight import preflight_source
from workbench.demo import demo_path
from workbench.errors import Cancelled, CheckpointError, WeightError
from workbench.hf.loading import load_checkpoint, load_model
from workbench.hf.skeleton import open_source
from workbench.recipe.recipe import Choice, Recipe, Rule, as_recipe
from workbench.safetensors_folder import INDEX_FILE, SafetensorsFolder
from workbench.sources import ModelSource

ROOT = Path(__file__).parents[2]
G32 = wb.Int4WeightOnlyConfig(group_size=32)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def quantized(name, tmp_path, dtype=torch.float32, recipe=G32, **settings):
    """A model as a person gets it: loaded in its dtype, then quantized."""
    model, _ = load_model(tiny_models.saved(name, tmp_path, dtype))
    wb.quantize_(model, recipe, **settings)
    return model


def write(source, folder, recipe=None, **settings):
    recipe = as_recipe(G32) if recipe is None else recipe
    coverage = preflight_source(source, recipe)
    list(iter_write_quantized(source, coverage, recipe, folder, **settings))
    return coverage


def in_new_process(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)


# --- what is loaded is what was saved -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", QUANTIZABLE)
def test_every_family_comes_back_bit_for_bit_by_every_way(name, dtype, tmp_path):
    model = quantized(name, tmp_path, dtype)
    want = logits(model)
    save_checkpoint(model, tmp_path / "ours")
    loaded, tokenizer = load_checkpoint(tmp_path / "ours", verify=True)
    assert tokenizer is None
    assert torch.equal(logits(loaded), want)
    loaded.save_pretrained(tmp_path / "again")
    model.save_pretrained(tmp_path / "plain")
    write(open_source(tmp_path / name), tmp_path / "streamed")
    for folder in ("again", "plain", "streamed"):
        assert torch.equal(logits(load_checkpoint(tmp_path / folder)[0]), want), folder


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("group_size", GROUP_SIZES)
@pytest.mark.parametrize("name", ["llama_odd", "llama_wide"])
def test_every_group_size_and_domain_comes_back(name, group_size, domain, tmp_path):
    model = quantized(name, tmp_path, torch.bfloat16, wb.Int4WeightOnlyConfig(group_size=group_size), domain=domain)
    save_checkpoint(model, tmp_path / "ours")
    loaded, _ = load_checkpoint(tmp_path / "ours")
    assert torch.equal(logits(loaded), logits(model))
    forms = parse(model.config.quantization_config).values()
    assert {(form.group_size, form.domain) for form in forms} == {(group_size, domain)}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("domain", DOMAINS)
def test_float32_scales_come_back_in_float32(domain, dtype, tmp_path):
    model = make("llama_odd").to(dtype)
    settled = G32.resolved("cpu", domain=domain, scale_dtype=torch.float32)
    layer = wb.Int4Linear.from_linear(model.model.layers[0].mlp.down_proj, settled)
    model.model.layers[0].mlp.down_proj = layer
    save_checkpoint(model, tmp_path / "ours")
    loaded, _ = load_checkpoint(tmp_path / "ours")
    back, kept = loaded.model.layers[0].mlp.down_proj.quantized_weight(), layer.quantized_weight()
    assert back.scale.dtype == torch.float32
    assert torch.equal(back.scale, kept.scale) and torch.equal(back.codes, kept.codes)
    assert (back.zero is None and kept.zero is None) or torch.equal(back.zero, kept.zero)


def test_sharded_and_single_file_hold_the_same(tmp_path):
    model = quantized("qwen2", tmp_path, torch.bfloat16)
    save_checkpoint(model, tmp_path / "single")
    save_checkpoint(model, tmp_path / "sharded", max_shard_bytes=9_000)
    single, sharded = SafetensorsFolder(tmp_path / "single"), SafetensorsFolder(tmp_path / "sharded")
    assert set(single.names()) == set(sharded.names())
    assert all(torch.equal(single.read(name), sharded.read(name)) for name in single.names())
    index = json.loads((tmp_path / "sharded" / INDEX_FILE).read_text())
    assert len(set(index["weight_map"].values())) > 4
    assert torch.equal(logits(load_checkpoint(tmp_path / "sharded", verify=True)[0]), logits(model))


def test_tensors_of_a_module_stay_in_one_shard_and_shards_within_their_limit(tmp_path):
    model = quantized("qwen2", tmp_path, torch.bfloat16)
    save_checkpoint(model, tmp_path / "ours", max_shard_bytes=9_000)
    shard_of = json.loads((tmp_path / "ours" / INDEX_FILE).read_text())["weight_map"]
    for name in parse(model.config.quantization_config):
        assert len({file for tensor, file in shard_of.items() if tensor.startswith(f"{name}.")}) == 1
    for path in (tmp_path / "ours").glob("*.safetensors"):
        with safe_open(path, "pt") as shard:
            tensors = [shard.get_tensor(key) for key in shard.keys()]
        assert sum(tensor.nbytes for tensor in tensors) <= 9_000 or len(tensors) == 1


@pytest.mark.parametrize("tied", [True, False])
def test_an_int4_output_head_is_saved_untied(tied, tmp_path):
    model, _ = load_model(tiny_models.saved("qwen2", tmp_path, torch.bfloat16, tied=tied))
    embedding = model.model.embed_tokens.weight.clone()
    recipe = as_recipe(G32, include=["lm_head", "mlp"])
    wb.quantize_(model, recipe)
    assert isinstance(model.lm_head, wb.Int4Linear)
    save_checkpoint(model, tmp_path / "ours")
    write(open_source(tmp_path / "qwen2"), tmp_path / "streamed", recipe)
    model.save_pretrained(tmp_path / "plain")
    for folder in ("ours", "streamed", "plain"):
        loaded, _ = load_checkpoint(tmp_path / folder)
        assert isinstance(loaded.lm_head, wb.Int4Linear), folder
        assert torch.equal(loaded.model.embed_tokens.weight, embedding), folder
        assert torch.equal(logits(loaded), logits(model)), folder


def test_a_recipe_of_many_choices_comes_back_layer_by_layer(tmp_path):
    recipe = Recipe(
        default=Choice(wb.Int4WeightOnlyConfig(group_size=64)),
        rules=(
            Rule("layers.0.mlp.down_proj", Choice(G32, domain="symmetric")),
            Rule("k_proj", Choice(wb.Int4WeightOnlyConfig(group_size=128), domain="int")),
            Rule("layers.1.self_attn.o_proj", None),
        ),
    )
    model = quantized("qwen2", tmp_path, torch.bfloat16, recipe)
    save_checkpoint(model, tmp_path / "ours")
    loaded, _ = load_checkpoint(tmp_path / "ours")
    assert loaded.int4_recipe == recipe
    assert isinstance(loaded.model.layers[1].self_attn.o_proj, torch.nn.Linear)
    down, key = loaded.model.layers[0].mlp.down_proj, loaded.model.layers[1].self_attn.k_proj
    assert (down.group_size, down.domain) == (32, "symmetric")
    assert (key.group_size, key.domain) == (128, "int")
    assert torch.equal(logits(loaded), logits(model))


def test_a_tokenizer_and_generation_settings_travel_along(tmp_path):
    model, tokenizer = wb.demo_model()
    wb.quantize_(model, wb.Int4WeightOnlyConfig(group_size=64))
    model.generation_config.temperature = 0.5  # which save_pretrained would refuse without do_sample
    save_checkpoint(model, tmp_path / "ours", tokenizer=tokenizer)
    loaded, again = load_checkpoint(tmp_path / "ours")
    assert again("def main():").input_ids == tokenizer("def main():").input_ids
    assert loaded.generation_config.temperature == 0.5
    ids = again("The module provides", return_tensors="pt").input_ids
    loaded.generation_config.temperature = model.generation_config.temperature = None
    assert torch.equal(loaded.generate(ids, max_new_tokens=8), model.generate(ids, max_new_tokens=8))


def test_files_may_be_read_by_whom_the_umask_allows(tmp_path):
    before = os.umask(0o022)
    try:
        save_checkpoint(quantized("qwen2", tmp_path), tmp_path / "ours")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "ours").iterdir()} == {0o644}


def test_weights_that_share_storage_are_saved_apart(tmp_path):
    model = quantized("llama_odd", tmp_path)
    norms = [layer.input_layernorm for layer in model.model.layers]
    norms[1].weight = norms[0].weight  # a tie that no one declared
    save_checkpoint(model, tmp_path / "ours")
    assert torch.equal(logits(load_checkpoint(tmp_path / "ours")[0]), logits(model))


# --- other ways to load ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo_checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "int4"
    model, tokenizer = wb.demo_model()
    wb.quantize_(model, wb.Int4WeightOnlyConfig(group_size=64))
    save_checkpoint(model, folder, tokenizer=tokenizer, max_shard_bytes=2_000_000)
    torch.save(logits(model), folder.parent / "logits.pt")
    return folder


def test_plain_from_pretrained_loads_it_in_a_new_process(demo_checkpoint):
    done = in_new_process(
        "import torch, workbench.hf\n"
        "from transformers import AutoModelForCausalLM\n"
        f"model = AutoModelForCausalLM.from_pretrained({str(demo_checkpoint)!r}).eval()\n"
        f"want = torch.load({str(demo_checkpoint.parent / 'logits.pt')!r}, weights_only=True)\n"
        "with torch.inference_mode():\n"
        "    assert torch.equal(model(torch.arange(2, 14)[None]).logits, want)\n"
        "print(type(model.model.layers[0].mlp.up_proj).__name__)\n"
    )
    assert done.stdout.strip() == "Int4Linear", done.stderr


def test_a_process_without_the_workbench_fails_and_gives_no_random_weights(demo_checkpoint):
    done = in_new_process(
        "from transformers import AutoModelForCausalLM\n"
        f"AutoModelForCausalLM.from_pretrained({str(demo_checkpoint)!r})\n"
        "print('loaded')\n"
    )
    assert done.returncode != 0 and "loaded" not in done.stdout
    assert "mismatch" in done.stderr, done.stderr[-2000:]
    assert "model.layers.0.mlp.up_proj.weight" in done.stderr or "size mismatch" in done.stderr


def test_another_dtype_and_a_device_map_are_taken(demo_checkpoint):
    model = AutoModelForCausalLM.from_pretrained(demo_checkpoint, dtype=torch.float32, device_map="cpu")
    layer = model.model.layers[0].mlp.up_proj
    assert layer.dtype == layer.weight.dtype == model.model.embed_tokens.weight.dtype == torch.float32
    assert torch.isfinite(logits(model)).all()


def test_load_model_takes_a_checkpoint_too(demo_checkpoint):
    model, tokenizer = load_model(demo_checkpoint)
    assert isinstance(model.model.layers[0].mlp.up_proj, wb.Int4Linear)
    assert tokenizer is not None


# --- sizes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("name", QUANTIZABLE)
def test_bytes_on_disk_are_those_of_the_plan(name, domain, tmp_path):
    recipe = as_recipe(G32, domain=domain)
    source = open_source(tiny_models.saved(name, tmp_path, torch.bfloat16))
    coverage = write(source, tmp_path / "ours", recipe)
    stored = SafetensorsFolder(tmp_path / "ours")
    assert sum(stored.size_bytes(tensor) for tensor in stored.names()) == coverage.after_bytes


# --- nothing half-written -------------------------------------------------------------------------------------------


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


def test_cancel_in_the_middle_leaves_nothing(tmp_path):
    source, recipe, cancel = open_source(demo_path()), as_recipe(None), threading.Event()
    steps = iter_write_quantized(source, preflight_source(source, recipe), recipe, tmp_path / "ours", cancel=cancel)
    next(steps), next(steps)
    assert entries(tmp_path) != []
    cancel.set()
    with pytest.raises(Cancelled):
        next(steps)
    assert entries(tmp_path) == []


def test_walking_away_from_the_steps_leaves_nothing(tmp_path):
    source, recipe = open_source(demo_path()), as_recipe(None)
    steps = iter_write_quantized(source, preflight_source(source, recipe), recipe, tmp_path / "deep" / "er" / "ours")
    next(steps)
    steps.close()
    assert entries(tmp_path) == []


def test_a_nan_in_a_late_layer_leaves_nothing_and_is_named(tmp_path):
    model = make("qwen2")
    model.model.layers[1].mlp.down_proj.weight.data[3, 5] = float("nan")
    with pytest.raises(WeightError, match=r"layers\.1\.mlp\.down_proj\[3, 5\] is nan"):
        write(ModelSource(model), tmp_path / "ours")
    assert entries(tmp_path) == []


@pytest.mark.parametrize("place", ["save_file", "mkdir", "write_text", "fsync", "rename"])
@pytest.mark.parametrize("existing", [False, True])
def test_a_full_disk_anywhere_leaves_the_old_folder_alone(place, existing, tmp_path, monkeypatch):
    target = tmp_path / "home" / "ours"
    model = quantized("qwen2", tmp_path)
    target.parent.mkdir()
    if existing:
        save_checkpoint(model, target)
    before = {path.name: path.read_bytes() for path in target.rglob("*")} if existing else {}

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    holder = {"save_file": writer, "fsync": os}.get(place, Path)
    monkeypatch.setattr(holder, place, full)
    with pytest.raises(CheckpointError, match="disk is full"):
        save_checkpoint(model, target, overwrite=True)
    monkeypatch.undo()
    assert entries(target.parent) == (["ours"] if existing else [])
    assert not existing or {path.name: path.read_bytes() for path in target.rglob("*")} == before


def test_a_model_on_the_meta_device_is_refused(tmp_path):
    model = quantized("qwen2", tmp_path)
    model.model.norm.to("meta")
    with pytest.raises(CheckpointError, match=r"meta device.*model\.norm\.weight"):
        save_checkpoint(model, tmp_path / "ours")


def test_a_dense_model_and_a_bare_module_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no int4 layer"):
        save_checkpoint(make("qwen2"), tmp_path / "ours")
    bare = torch.nn.Sequential(torch.nn.Linear(64, 64))
    wb.quantize_(bare, G32)
    with pytest.raises(CheckpointError, match="no transformers configuration"):
        save_checkpoint(bare, tmp_path / "ours")
    assert entries(tmp_path) == []
