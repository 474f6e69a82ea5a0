"""Checkpoints made by someone who means harm: each is refused before transformers opens a file, in words."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests import tiny_models
from tests.checkpoint.fuzzed import make_whole
from tests.checkpoint.mutations import again, header_end
from workbench.checkpoint.files import check_config, check_files, read_json
from workbench.checkpoint.integrity import check_before_load, read_quantization
from workbench.checkpoint.manifest import MANIFEST_FILE, read_manifest, write_manifest
from workbench.errors import CheckpointError
from workbench.hf.loading import load_checkpoint, load_model
from workbench.safetensors_folder import INDEX_FILE, SINGLE_FILE
from workbench.strict_json import MAX_VALUES, parse_object

CONFIG = "config.json"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make_whole(tmp_path_factory.mktemp("whole") / "ours")


@pytest.fixture
def copy(whole, tmp_path):
    return again(whole, tmp_path / "copy")


@pytest.fixture(autouse=True)
def _hushed():
    with tiny_models.hushed():
        yield


def edit(path, change):
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def edit_header(path, change):
    data, end = path.read_bytes(), header_end(path)
    header = json.loads(data[8:end])
    change(header)
    put_header(path, json.dumps(header).encode(), data[end:])


def put_header(path, text, data):
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def reseal(folder):
    """Make the manifest agree with what the folder holds now, as its maker would."""
    tensors = read_manifest(folder).tensors
    write_manifest(folder, tensors)
    return folder


def shard(folder, number=0):
    return sorted(folder.glob("*.safetensors"))[number]


def refused(folder, match):
    """Refused in the same words by our loader and, after `import workbench.hf`, by transformers' own."""
    with pytest.raises(CheckpointError, match=match):
        load_checkpoint(folder)
    with pytest.raises(CheckpointError, match=match):
        load_model(folder)
    with pytest.raises(CheckpointError, match=match):
        AutoModelForCausalLM.from_pretrained(folder)


def refused_by_ours(folder, match):
    with pytest.raises(CheckpointError, match=match):
        load_checkpoint(folder)


# --- headers that lie -----------------------------------------------------------------------------------------------

NAME = "model.layers.0.self_attn.q_proj.weight"


def entry(header):
    """The facts of the tensor that lies first."""
    return min((e for name, e in header.items() if name != "__metadata__"), key=lambda e: e["data_offsets"])


HEADERS = {
    "beyond the file": lambda e: e["data_offsets"].__setitem__(1, 10**9),
    "before the file": lambda e: e["data_offsets"].__setitem__(0, -1),
    "backwards": lambda e: e["data_offsets"].reverse(),
    "a hole": lambda e: e.update(data_offsets=[e["data_offsets"][0] + 1, e["data_offsets"][1]]),
    "a huge shape": lambda e: e.update(shape=[2**62, 4]),
    "nothing at all": lambda e: e.clear(),
    "a shape of zero": lambda e: e.update(shape=[0, 5]),
    "a shape of many sides": lambda e: e.update(shape=[1] * 1000),
    "a shape of text": lambda e: e.update(shape="16"),
    "a negative shape": lambda e: e.update(shape=[-1, -1]),
    "a shape of true": lambda e: e.update(shape=[True, 1]),
    "another dtype": lambda e: e.update(dtype="F32"),
    "an unknown dtype": lambda e: e.update(dtype="F2"),
    "a dtype that is a list": lambda e: e.update(dtype=[]),
    "an unknown key": lambda e: e.update(run="code"),
    "offsets of three": lambda e: e["data_offsets"].append(1),
    "offsets beyond 64 bits": lambda e: e.update(data_offsets=[0, 2**70]),
}


@pytest.mark.parametrize("lie", HEADERS)
def test_a_header_that_lies_is_refused(lie, copy):
    edit_header(shard(copy), lambda header: HEADERS[lie](entry(header)))
    (copy / MANIFEST_FILE).unlink()
    refused_by_ours(copy, "no readable safetensors file")
    with pytest.raises(CheckpointError, match=re.escape(shard(copy).name)):
        check_before_load(copy)


@pytest.mark.parametrize("length", [2**63, 2**40, 10**6, 100_000_001])
def test_a_header_longer_than_its_file_is_never_allocated(length, copy):
    path = shard(copy)
    path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])
    refused_by_ours(copy, "a header of .* bytes in a file of")


@pytest.mark.parametrize(
    "text", [b"[]", b"{", b'{"a": ' + b"[" * 100_000, b'{"a": 1, "a": 1}', b'{"__metadata__": {"a": 1}}', b"\xff" * 9]
)
def test_a_header_that_is_no_header_is_refused(text, copy):
    put_header(shard(copy), text, b"")
    refused_by_ours(copy, "no readable safetensors file")


def test_tensors_over_the_same_bytes_are_refused(copy):
    def overlap(header):
        names = [name for name in header if name != "__metadata__"]
        header[f"{names[0]}_again"] = header[names[0]]

    edit_header(shard(copy), overlap)
    refused_by_ours(copy, "the tensors overlap")


def test_headers_in_any_order_are_read(copy):
    def turned(header):
        items = list(header.items())[::-1]
        header.clear()
        header.update(items)

    for path in copy.glob("*.safetensors"):
        edit_header(path, turned)
    assert load_checkpoint(reseal(copy), verify=True)[0] is not None


def test_a_header_that_exchanges_two_tensors_needs_the_manifest_to_be_seen(copy):
    def swap(header):
        same = [
            n for n, e in header.items() if n != "__metadata__" and n.endswith(("gate_proj.weight", "up_proj.weight"))
        ]
        header[same[0]], header[same[1]] = header[same[1]], header[same[0]]

    path = next(p for p in copy.glob("*.safetensors") if any("gate_proj.weight" in n for n in load_file(p)))
    edit_header(path, swap)
    refused(copy, f"{path.name} is not the file that was saved")


# --- files that are none --------------------------------------------------------------------------------------------

FILES = [
    CONFIG,
    INDEX_FILE,
    MANIFEST_FILE,
    "model-00001-of-00002.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
]


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes are POSIX's")
@pytest.mark.parametrize("kind", ["link", "device", "pipe", "circle", "nowhere"])
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_none_is_refused_and_never_opened(name, kind, copy, tmp_path):
    path = copy / name
    content = path.read_bytes() if path.exists() else b"{}"
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)  # opening it would wait for ever
    elif kind == "link":
        (tmp_path / "outside").write_bytes(content)
        path.symlink_to(tmp_path / "outside")
    else:
        path.symlink_to({"device": "/dev/zero", "circle": path.name, "nowhere": "gone"}[kind])
    refused_by_ours(copy, "is a link to|no plain file|cannot be read")
    with pytest.raises(CheckpointError):
        check_files(copy)


@pytest.mark.skipif(sys.platform == "win32", reason="links are POSIX's")
def test_links_within_the_folder_and_into_the_hubs_cache_are_followed(whole, tmp_path):
    snapshot = again(whole, tmp_path / "models--a--b" / "snapshots" / "0123")
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(snapshot.iterdir())):
        path.rename(blobs / str(number))
        path.symlink_to(Path("..") / ".." / "blobs" / str(number))
    (snapshot / "copy.md").symlink_to(CONFIG)
    assert load_checkpoint(snapshot, verify=True)[0] is not None
    assert AutoModelForCausalLM.from_pretrained(snapshot) is not None


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/hosts", "a\\b.safetensors", "sub/x.safetensors"])
def test_an_index_that_points_outside_is_refused(name, copy):
    edit(copy / INDEX_FILE, lambda data: data["weight_map"].update({NAME: name}))
    refused_by_ours(copy, "outside its folder")


def test_a_second_set_of_weights_is_refused(copy):
    save_file({"a": torch.zeros(1)}, copy / SINGLE_FILE)
    refused_by_ours(copy, f"holds both {SINGLE_FILE} and {INDEX_FILE}")


def test_an_adapter_that_names_another_model_is_refused(copy):
    (copy / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "someone/else"}))
    refused_by_ours(copy, "holds an adapter too")


# --- JSON -----------------------------------------------------------------------------------------------------------

BOMBS = {
    "deep": '{"a": ' + "[" * 200_000,
    "digits": '{"a": ' + "9" * 5000 + "}",
    "values": '{"a": [' + "0," * MAX_VALUES + "0]}",
    "objects": '{"a": [' + "{}," * MAX_VALUES + "0]}",
    "twice": '{"a": 1, "a": 2}',
    "no object": "[1]",
    "not text": '{"a": "\udcff"}',
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_json_bomb_is_refused(bomb, copy):
    data = BOMBS[bomb].encode("utf-8", "surrogateescape")
    for name in (CONFIG, INDEX_FILE, MANIFEST_FILE):
        before = (copy / name).read_bytes()
        (copy / name).write_bytes(data)
        refused_by_ours(copy, "cannot be read|is damaged")
        (copy / name).write_bytes(before)
    with pytest.raises(ValueError):
        parse_object(data)


def test_json_larger_than_any_is_not_read(copy):
    with (copy / CONFIG).open("r+b") as file:
        file.truncate(10**12)  # takes no room on the disk
    refused_by_ours(copy, "more than .* bytes of JSON")


# --- what config.json would have built ------------------------------------------------------------------------------

BUILT = {
    "num_hidden_layers": (10**9, "num_hidden_layers: 1000000000"),
    "num_labels": (10**9, "num_labels"),
    "max_position_embeddings": (2**40, "max_position_embeddings"),
    "transformers_weights": ("../x.safetensors", "weights read from"),
    "attn_implementation": ("someone/kernel", "fetch code and run it"),
    "vocab_size": (2**31, "elements in the checkpoint"),
    "intermediate_size": (2**31, r"the model's \["),
    "head_dim": (2**32, "buffers of|elements in"),
    "tie_word_embeddings": (False, r"lacks 1 weights.*lm_head\.weight.*random"),
    "architectures": (["LlamaForCausalLM"], "no place for"),
}


@pytest.mark.parametrize("key", BUILT)
def test_a_configuration_that_builds_more_than_there_is_is_refused(key, copy):
    value, match = BUILT[key]
    edit(copy / CONFIG, lambda data: data.update({key: value}))
    refused_by_ours(copy, "config.json is not the file that was saved|" + match)
    refused_by_ours(reseal(copy), match)


def test_what_models_have_is_not_too_much(whole):
    check_config({**read_json(whole / CONFIG), "max_position_embeddings": 10_485_760, "num_experts": 512}, 9)
    check_config({"num_hidden_layers": 9000, "text_config": {"num_hidden_layers": 9000}}, 9000)
    with pytest.raises(CheckpointError, match="num_hidden_layers: 9000"):
        check_config({"text_config": {"depths": [1, 2], "num_hidden_layers": 9000}}, 100)


def test_another_domain_of_a_module_is_refused(copy):
    modules = read_quantization(copy)["modules"]
    one = min(modules)
    edit(
        copy / CONFIG,
        lambda data: data["quantization_config"]["modules"][one].update(zero_point_domain="symmetric"),
    )
    refused(reseal(copy), rf"{one}\.weight_zp' does not belong to a weight of the domain 'symmetric'")


def test_a_module_that_is_called_dense_is_refused(copy):
    edit(
        copy / CONFIG, lambda data: data["quantization_config"]["modules"].pop(min(read_quantization(copy)["modules"]))
    )
    with pytest.raises(CheckpointError):
        load_checkpoint(reseal(copy))


# --- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "value", "match"),
    [
        ("weight_scale", float("nan"), "weight_scale holds NaN or infinity"),
        ("weight_scale", float("inf"), "weight_scale holds NaN or infinity"),
        ("weight_zp", 16, "weight_zp holds 16.*0 to 15"),
        ("weight_zp", 255, "weight_zp holds 255.*0 to 15"),
    ],
)
def test_values_out_of_range_are_refused_though_every_hash_agrees(suffix, value, match, copy):
    path = next(p for p in copy.glob("*.safetensors") if any(n.endswith(suffix) for n in load_file(p)))
    tensors = load_file(path)
    name = next(n for n in tensors if n.endswith(suffix))
    tensors[name].view(-1)[-1] = value
    save_file(tensors, path, metadata={"format": "pt"})
    refused(reseal(copy), match)


# --- changes that a person wants ------------------------------------------------------------------------------------


def test_a_configuration_that_a_person_changed_is_told_and_can_be_accepted(copy, capsys):
    from workbench.cli.main import main

    edit(copy / CONFIG, lambda data: data.update(rope_theta=5e5))
    refused(copy, "config.json is not the file that was saved.*--accept")
    assert main(["verify", str(copy), "--accept"]) == 0
    assert "config.json accepted" in capsys.readouterr().out
    assert load_checkpoint(copy, verify=True)[0] is not None


def test_damaged_tensors_are_never_accepted(copy, capsys):
    from workbench.cli.main import main

    path = shard(copy)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    before = (copy / MANIFEST_FILE).read_bytes()
    assert main(["verify", str(copy), "--accept"]) == 2
    assert "are not those that were saved" in capsys.readouterr().err
    assert (copy / MANIFEST_FILE).read_bytes() == before
