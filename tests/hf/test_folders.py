"""A model's folder: found, or refused with what it is."""

from __future__ import annotations

import pytest

import workbench as wb
from tests.tiny_models import edit_config, make
from workbench.checkpoint.save import save_checkpoint
from workbench.demo import demo_path
from workbench.errors import CheckpointError, ModelError
from workbench.foreign import open_int4
from workbench.hf.folders import local_folder
from workbench.hf.loading import load_checkpoint
from workbench.hf.skeleton import open_source

G32 = wb.Int4WeightOnlyConfig(group_size=32)


def test_demo_is_a_name_and_a_folder_is_a_path(tmp_path):
    assert local_folder("demo") == demo_path()
    assert local_folder(tmp_path) == local_folder(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["nothing", "./a/b", "/a/b", "~/a", "a/b/c", "C:/a"])
def test_names_that_are_no_hub_names_never_ask_the_hub(name, monkeypatch):
    monkeypatch.setattr("workbench.hf.folders.snapshot", lambda name: pytest.fail("asked the hub"))
    with pytest.raises(ModelError, match=r"does not exist.*hub name such as 'org/name'"):
        local_folder(name)


def test_a_quantized_folder_is_no_source(tmp_path):
    model = make("qwen2")
    wb.quantize_(model, G32)
    save_checkpoint(model, tmp_path / "int4")
    with pytest.raises(ModelError, match=r"quantized already.*workbench inspect"):
        open_source(tmp_path / "int4")
    edit_config(tmp_path / "int4", quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(ModelError, match="quantized already"):
        open_source(tmp_path / "int4")


@pytest.mark.parametrize(
    ("library", "settings"),
    [
        ("torchao", {"quantization_config": {"quant_method": "torchao"}}),
        ("mlx", {"quantization": {"bits": 4, "mode": "affine"}}),
        ("mlx", {"quantization": {"bits": 4}, "quantization_config": {"bits": 4}}),
        ("another library", {"quantization_config": {"bits": 4}}),
    ],
)
def test_a_format_that_is_not_read_is_named_and_nobody_is_sent_in_a_circle(library, settings, tmp_path):
    make("qwen2").save_pretrained(tmp_path)
    edit_config(tmp_path, **settings)
    with pytest.raises(CheckpointError, match=f"quantized by {library}, whose format is not read here.*awq or gguf"):
        open_int4(tmp_path)
    with pytest.raises(ModelError, match=f"quantized already, by {library}") as raised:
        open_source(tmp_path)
    assert raised.value.mend == "open the model that it was made from"


def test_an_int4_checkpoint_of_another_library_says_how_it_comes_in(tmp_path):
    wb.export(make("qwen2"), tmp_path / "awq", "awq", recipe=G32, domain="int")
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf" / "model.gguf").write_bytes(b"GGUF")
    for path in (tmp_path / "awq", tmp_path / "gguf", tmp_path / "gguf" / "model.gguf"):
        for load in (load_checkpoint, open_source):
            with pytest.raises((CheckpointError, ModelError)) as raised:
                load(path)
            assert "wb.import_checkpoint('" in str(raised.value) and "workbench import " in str(raised.value)
            assert str(tmp_path) in raised.value.mend and ("awq" in raised.value.what or "gguf" in raised.value.what)


def test_a_native_checkpoint_as_a_source_says_what_it_is_for(tmp_path):
    model = make("qwen2")
    wb.quantize_(model, G32)
    save_checkpoint(model, tmp_path / "int4")
    with pytest.raises(ModelError, match=r"wb\.load_checkpoint runs it, wb\.export converts it"):
        open_source(tmp_path / "int4")
