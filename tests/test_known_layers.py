"""Layers that are known from before: the same source as through transformers, without it; anything else asks it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from tests.tiny_models import saved
from workbench import known_layers
from workbench.demo import demo_path
from workbench.hf.skeleton import open_source, skeleton
from workbench.kinds import QUANTIZABLE_KINDS
from workbench.known_layers import DEMO_LAYERS, layers_key, layers_text, open_known
from workbench.safetensors_folder import SafetensorsFolder
from workbench.session import open_session
from workbench.sources import ListedLayers
from workbench.user_cache import cache_folder


@pytest.fixture(autouse=True)
def nothing_known(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))


def kept():
    return sorted((cache_folder() / "layers").glob("*"))


def test_the_shipped_layers_of_the_demo_model_are_those_that_transformers_gives():
    listed = ListedLayers.of(skeleton(demo_path()))
    expected = layers_text(listed, layers_key(SafetensorsFolder(demo_path())))
    assert (demo_path() / DEMO_LAYERS).read_text(encoding="utf-8") == expected
    assert open_known("demo").records() == open_source("demo").records()


@pytest.mark.parametrize("name", ["qwen2", "gpt2", "mixtral"])
def test_a_folder_opens_the_second_time_as_the_first(name, tmp_path):
    folder = saved(name, tmp_path, torch.bfloat16)
    assert open_known(folder) is None
    first = open_source(folder)
    second = open_known(folder)
    if second is None:  # only where names or weights are converted on their way
        assert not first.folder.as_stored and kept() == []
        return
    assert (second.records(), second.notes(), second.name) == (first.records(), first.notes(), first.name)
    for record in first.records():
        if record.kind in QUANTIZABLE_KINDS:
            assert torch.equal(first.weight(record.name), second.weight(record.name))


@pytest.fixture
def folder(tmp_path):
    folder = saved("qwen2", tmp_path, torch.float32)
    open_source(folder)
    assert open_known(folder) is not None
    return folder


@pytest.mark.parametrize("change", ["config", "dtype", "version", "code"])
def test_what_the_layers_depend_on_makes_them_unknown(folder, change, monkeypatch):
    if change == "config":
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "more": 1}))
    elif change == "dtype":
        saved("qwen2", folder.parent, torch.bfloat16)
    else:
        known_layers._makers.cache_clear()
        if change == "version":
            monkeypatch.setattr(known_layers, "version", lambda _name: "0")
        else:
            monkeypatch.setattr(known_layers, "_CODE", ("kinds.py",))
    try:
        assert open_known(folder) is None
    finally:
        known_layers._makers.cache_clear()


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "\x00", "[" * 100_000])
def test_a_damaged_list_is_as_none(folder, text):
    (file,) = kept()
    file.write_text(text)
    assert open_known(folder) is None
    open_source(folder)
    assert open_known(folder) is not None


@pytest.mark.parametrize("at, value", [(0, 1), (1, None), (2, ["8", 8]), (2, [-8, 8]), (3, []), (4, 1.5), (5, 3)])
def test_a_list_with_a_wrong_value_is_as_none(folder, at, value):
    (file,) = kept()
    data = json.loads(file.read_text())
    data["records"][0][at] = value
    file.write_text(json.dumps(data))
    assert open_known(folder) is None


def test_what_is_no_folder_is_left_to_transformers(tmp_path):
    (tmp_path / "file").write_text("")
    for strange in (tmp_path, tmp_path / "none", tmp_path / "file", "org/name"):
        assert open_known(strange) is None


def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    folder = saved("qwen2", tmp_path, torch.float32)
    assert open_source(folder).records() and open_known(folder) is None


def test_the_app_shows_the_demo_model_without_transformers():
    code = (
        "import sys, workbench as wb; app = wb.Workbench(); assert app.wait(60) and app.view.exact;"
        "print([name for name in ('transformers', 'plotly', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_session_opens_a_folder_either_way(folder):
    assert open_session(str(folder)).coverage.rows == open_session(open_source(folder)).coverage.rows
