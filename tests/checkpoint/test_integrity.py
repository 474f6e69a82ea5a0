"""Damage is found: any flipped byte of a tensor by verify, and nothing but a CheckpointError ever comes of loading."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import workbench as wb
import workbench.checkpoint.manifest as manifest
from tests import tiny_models
from workbench.checkpoint.integrity import inside, iter_verify, read_json, read_quantization, verify_checkpoint
from workbench.checkpoint.manifest import MANIFEST_FILE
from workbench.checkpoint.save import save_checkpoint
from workbench.errors import CheckpointError
from workbench.hf.loading import load_checkpoint
from workbench.safetensors_folder import INDEX_FILE

CONFIG = "config.json"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "ours"
    model = tiny_models.make("qwen2")
    wb.quantize_(model, wb.Int4WeightOnlyConfig(group_size=32), domain="int")
    save_checkpoint(model, folder, max_shard_bytes=40_000)
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "copy"))


@pytest.fixture(autouse=True)
def _hushed():
    with tiny_models.hushed():
        yield


def shards(folder):
    return sorted(folder.glob("*.safetensors"))


def edit(path, change):
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def unsealed(folder):
    """The same checkpoint without its manifest: what it says is then taken for what was saved."""
    (folder / MANIFEST_FILE).unlink(missing_ok=True)
    return folder


def resealed(folder, change):
    """Change the manifest as its maker would: its own hash agrees again."""
    edit(folder / MANIFEST_FILE, lambda data: (change(data), data.pop("manifest_sha256")))
    edit(folder / MANIFEST_FILE, lambda data: data.update(manifest_sha256=manifest._own_hash(data)))


def edit_tensors(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def shard_with(folder, suffix):
    return next((path, name) for path in shards(folder) for name in load_file(path) if name.endswith(suffix))


def damaged(folder, match):
    with pytest.raises(CheckpointError, match=match):
        verify_checkpoint(folder)


def unloadable(folder, match):
    with pytest.raises(CheckpointError, match=match):
        load_checkpoint(folder)


# --- flipped bytes --------------------------------------------------------------------------------------------------


def flip(path, place, chance):
    """Change one byte, and return what puts it back."""
    data = bytearray(path.read_bytes())
    before = bytes(data)
    data[place] ^= chance.randrange(1, 256)
    path.write_bytes(data)
    return lambda: path.write_bytes(before)


def loads_or_says(folder):
    """Load; the only error that may come of it is a CheckpointError."""
    try:
        load_checkpoint(folder)
    except CheckpointError:
        return False
    return True


def test_a_whole_checkpoint_is_whole(whole):
    names = [found.what for found in iter_verify(whole)]
    assert verify_checkpoint(whole) == len(names)
    assert {"headers", CONFIG, INDEX_FILE, *(path.name for path in shards(whole))} <= set(names)


def test_every_flip_in_tensor_bytes_is_found(copy):
    chance = random.Random(11)
    for path in shards(copy):
        header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
        for _ in range(6):
            mend = flip(path, chance.randrange(header, path.stat().st_size), chance)
            damaged(copy, rf"bytes in {path.name} are not those that were saved")
            loads_or_says(copy)
            mend()
    verify_checkpoint(copy)


@pytest.mark.parametrize("name", [CONFIG, INDEX_FILE, MANIFEST_FILE, "header"])
def test_flips_elsewhere_are_found_or_harmless(name, copy):
    chance = random.Random(f"flips of {name}")
    path = shards(copy)[0] if name == "header" else copy / name
    end = 8 + int.from_bytes(path.read_bytes()[:8], "little") if name == "header" else path.stat().st_size
    facts = read_json(copy / MANIFEST_FILE)
    for _ in range(60):
        mend = flip(path, chance.randrange(end), chance)
        try:
            verify_checkpoint(copy)
        except CheckpointError:
            pass
        else:
            assert name == MANIFEST_FILE and read_json(path) == facts  # a blank for another
        assert not loads_or_says(copy) or read_json(copy / MANIFEST_FILE) == facts
        mend()
    verify_checkpoint(copy)
    assert loads_or_says(copy)


def places(data, path=()):
    """Yield the path of every value in nested JSON."""
    for key in data if isinstance(data, dict) else range(len(data)):
        yield (*path, key)
        if isinstance(data[key], dict | list):
            yield from places(data[key], (*path, key))


@pytest.mark.parametrize("name", [CONFIG, INDEX_FILE])
def test_values_of_any_other_type_are_said_or_harmless(name, copy):
    chance = random.Random(f"values of {name}")
    text = (copy / name).read_text()
    for path in places(json.loads(text)):
        data = json.loads(text)
        holder = data
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = chance.choice([None, True, -1, 1.5, 10**30, "", "x", [], {}, [[]], {"a": None}])
        (copy / name).write_text(json.dumps(data))
        loads_or_says(copy)
        damaged(copy, ".")


# --- missing, cut, foreign ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0, 7, 8, 100, -1])
def test_a_truncated_shard_is_named(kept, copy):
    path = shards(copy)[1]
    path.write_bytes(path.read_bytes()[:kept])
    damaged(copy, rf"{path.name}.*no readable safetensors file")
    unloadable(copy, rf"{path.name}.*no readable safetensors file")


def test_a_missing_shard_is_named(copy):
    shards(copy)[1].unlink()
    damaged(copy, "missing")
    unloadable(copy, r"model-00002-of-.*missing")


def test_a_shard_of_another_format_is_named(copy):
    shards(copy)[0].write_bytes(b"PK\x03\x04 a zip file, not safetensors" * 50)
    unloadable(copy, "no readable safetensors file")


@pytest.mark.parametrize("name", ["../elsewhere.safetensors", "/etc/passwd", "a/b.safetensors", "", ".."])
def test_an_index_that_points_outside_is_refused(name, copy):
    edit(copy / INDEX_FILE, lambda data: data["weight_map"].update({"model.norm.weight": name}))
    unloadable(copy, "outside its folder|missing|no readable")
    damaged(copy, ".")


def test_a_manifest_that_points_outside_is_refused(copy):
    resealed(copy, lambda data: data["files"].update({"../x": {"sha256": "", "size_bytes": 0}}))
    damaged(copy, "outside the folder")


@pytest.mark.parametrize(
    ("name", "good"),
    [
        *((good, True) for good in ("a.json", "a/b.json")),
        *((bad, False) for bad in ("", "../a", "a/../../b", "/a", "C:\\a", "a\\..\\b", "./a", "a//b")),
    ],
)
def test_names_that_stay_inside(name, good):
    assert inside(name) == good


def test_an_index_that_names_a_lost_tensor_is_refused(copy):
    name = next(iter(read_json(copy / INDEX_FILE)["weight_map"].values()))
    edit(copy / INDEX_FILE, lambda data: data["weight_map"].update({"model.ghost.weight": name}))
    unloadable(copy, r"model\.ghost\.weight")


def test_a_dense_weight_that_is_lost_is_never_made_up(copy):
    path, name = shard_with(copy, "input_layernorm.weight")
    edit_tensors(path, lambda tensors: tensors.pop(name))
    edit(copy / INDEX_FILE, lambda data: data["weight_map"].pop(name))
    damaged(copy, "in no shard")
    unloadable(copy, rf"{path.name} is not the file that was saved")
    unloadable(unsealed(copy), rf"lacks 1 weights.*{name}.*random")


def test_a_file_without_its_manifest_entry_is_found(copy):
    resealed(copy, lambda data: data["files"].pop(CONFIG))
    damaged(copy, r"config\.json: not in the manifest")


def test_a_tensor_beside_the_manifest_is_found(copy):
    edit_tensors(shards(copy)[0], lambda tensors: tensors.update(extra=torch.zeros(3)))
    damaged(copy, "extra: not in the manifest")


def test_a_folder_without_manifest_loads_but_cannot_be_verified(copy):
    (copy / MANIFEST_FILE).unlink()
    assert loads_or_says(copy)
    damaged(copy, r"has no int4_manifest.json, where the hashes stand\..*--format native --out NEW")


# --- values ---------------------------------------------------------------------------------------------------------


def test_a_zero_point_above_15_is_refused(copy):
    path, name = shard_with(copy, "q_proj.weight_zp")
    edit_tensors(path, lambda tensors: tensors[name].view(-1)[3:4].fill_(16))
    unloadable(copy, r"q_proj: weight_zp holds 16.*0 to 15")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_scale_that_is_no_number_is_refused(value, copy):
    path, name = shard_with(copy, "q_proj.weight_scale")
    edit_tensors(path, lambda tensors: tensors[name].view(-1)[3:4].fill_(value))
    unloadable(copy, r"q_proj: weight_scale holds NaN or infinity")


def test_verify_sees_bad_values_even_when_the_hashes_agree(copy):
    path, name = shard_with(copy, "q_proj.weight_scale")
    edit_tensors(path, lambda tensors: tensors[name].view(-1)[3:4].fill_(float("nan")))
    model_files = [found for found in iter_verify(copy) if found.problem]
    assert {found.what for found in model_files} == {name}


@pytest.mark.parametrize("change", ["shape", "dtype", "missing"])
def test_a_tensor_of_another_form_is_named(change, copy):
    path, name = shard_with(copy, "o_proj.weight_scale")

    def apply(tensors):
        if change == "shape":
            tensors[name] = tensors[name][:, :1].contiguous()
        elif change == "dtype":
            tensors[name] = tensors[name].float()
        else:
            tensors[f"{name}_old"] = tensors.pop(name)

    edit_tensors(path, apply)
    unloadable(copy, r"o_proj\.weight_scale")
    damaged(copy, r"o_proj\.weight_scale")


def test_a_config_of_another_model_is_refused(copy):
    edit(copy / CONFIG, lambda data: data.update(intermediate_size=128))
    unloadable(copy, "config.json is not the file that was saved")
    unsealed(copy)
    unloadable(copy, r"mlp\..*is \[.*the model's \[")
    fewer = {"intermediate_size": 96, "num_hidden_layers": 1, "layer_types": ["full_attention"]}
    edit(copy / CONFIG, lambda data: data.update(fewer))
    unloadable(copy, r"no place for .* first 'model\.layers\.1")


# --- what stands in config.json -------------------------------------------------------------------------------------


def quantization(copy, **changes):
    edit(copy / CONFIG, lambda data: data["quantization_config"].update(changes))


def test_a_newer_major_version_is_refused_and_a_minor_one_taken(copy):
    quantization(copy, format_version="2.0")
    unloadable(unsealed(copy), r"format_version '2\.0'.*1\.x.*update")
    quantization(copy, format_version="1.7", a_key_of_the_future={"x": 1})
    assert loads_or_says(copy)


def test_an_unknown_code_layout_is_refused(copy):
    quantization(copy, code_layout="column_major")
    unloadable(copy, "code_layout 'column_major'")


def test_a_damaged_recipe_is_said(copy):
    quantization(copy, recipe={"format_version": 9})
    unloadable(unsealed(copy), r"recipe in config\.json is damaged")


@pytest.mark.parametrize("name", [CONFIG, INDEX_FILE, MANIFEST_FILE])
def test_a_key_that_stands_twice_is_refused(name, copy):
    text = (copy / name).read_text()
    key = text.split('"')[1]
    (copy / name).write_text(text.replace("{", f'{{"{key}": 1, ', 1))
    damaged(copy, f"names the key '{key}' twice")
    assert not loads_or_says(copy)


@pytest.mark.parametrize("text", ["", "[]", "{", "nul", "\xff", "1" * 5000, "[" * 100_000])
def test_json_that_is_no_object_is_refused(text, tmp_path):
    (tmp_path / CONFIG).write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match="config"):
        read_quantization(tmp_path)


def test_a_path_that_holds_no_checkpoint_is_named(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "away").symlink_to("/")  # which nobody looks at
    with pytest.raises(CheckpointError, match=r"config.json' does not exist.*name a checkpoint folder"):
        verify_checkpoint(tmp_path)
    (tmp_path / "file").write_text("")
    for path, said in ((tmp_path / "file", "is a file"), (tmp_path / "nowhere", "nowhere' does not exist")):
        with pytest.raises(CheckpointError, match=said):
            verify_checkpoint(path)
    unloadable(tmp_path / "nowhere", "does not exist")
    unloadable(tmp_path, "does not exist")
    model = tiny_models.saved("qwen2", tmp_path)
    unloadable(model, "no int4 checkpoint of the workbench: nothing says that it is quantized")
