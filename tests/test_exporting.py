"""Export: written, verified, loaded again, generated; and cancelled at any step without a trace."""

from __future__ import annotations

import threading

import pytest

import workbench as wb
from tests import tiny_models
from tests.tiny_models import make
from workbench.checkpoint.integrity import accept_changes, verify_checkpoint
from workbench.checkpoint.writer import size_on_disk
from workbench.coverage.preflight import preflight_source
from workbench.errors import Cancelled, CheckpointError
from workbench.exporting import ExportResult, iter_export, sample_text
from workbench.hf.loading import load_checkpoint
from workbench.hf.skeleton import open_source
from workbench.recipe.recipe import as_recipe
from workbench.records.progress import Progress
from workbench.sources import ModelSource

RECIPE = as_recipe(wb.Int4WeightOnlyConfig(group_size=64))


@pytest.fixture(autouse=True)
def _hushed():
    with tiny_models.hushed():
        yield


def export(source, directory, **settings):
    coverage = preflight_source(source, RECIPE)
    return iter_export(source, coverage, RECIPE, directory, **settings)


def test_the_demo_model_is_exported_verified_and_generates(tmp_path):
    *steps, result = export(open_source("demo"), tmp_path / "int4")
    assert all(isinstance(step, Progress) for step in steps)
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert steps[-1].label == "verifying" and steps[-1].done == steps[-1].total
    assert isinstance(result, ExportResult) and result.verified
    assert result.size_bytes == size_on_disk(tmp_path / "int4")
    assert result.files == len(list((tmp_path / "int4").iterdir()))
    assert [f"{layer.name}, {layer.solver}" for layer in result.layers] == [step.label for step in steps[:-1]]
    assert result.sample.startswith("The module provides") and len(result.sample) > 30
    assert "loaded again and generated" in result.checked


def test_a_live_model_gives_the_same_checkpoint_with_its_tokenizer(tmp_path):
    model, tokenizer = wb.demo_model()
    *_, live = export(ModelSource(model), tmp_path / "live", tokenizer=tokenizer)
    *_, streamed = export(open_source("demo"), tmp_path / "streamed")
    assert live.sample == streamed.sample != ""
    assert load_checkpoint(tmp_path / "live")[1] is not None
    assert not any(isinstance(module, wb.Int4Linear) for module in model.modules())


def test_without_verifying_nothing_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("workbench.hf.loading.load_checkpoint", lambda *_: pytest.fail("loaded"))
    *_, result = export(ModelSource(make("qwen2")), tmp_path / "int4", verify=False)
    assert (result.verified, result.checked, result.sample) == (False, "", "")


def test_a_model_without_tokenizer_gives_no_text(tmp_path):
    *_, result = export(ModelSource(make("qwen2")), tmp_path / "int4")
    assert result.verified and result.sample == ""
    assert sample_text(tmp_path / "int4") == ""


def test_a_line_that_needs_a_tokenizer_is_shown_once_there_is_one(tmp_path):
    model, tokenizer = wb.demo_model()
    *_, without = export(ModelSource(model), tmp_path / "without", verify=False)
    assert without.report.load.shell == "" and without.report.load.python
    [note] = [one for one in without.report.fit.notes if "tokenizer" in one]
    card = (tmp_path / "without" / "README.md").read_text()
    assert note in card and "workbench generate" not in card
    *_, whole = export(ModelSource(model), tmp_path / "whole", tokenizer=tokenizer, verify=False)
    assert whole.report.load.shell.startswith("workbench generate ")
    assert not any("tokenizer" in one for one in whole.report.fit.notes)
    assert "workbench generate" in (tmp_path / "whole" / "README.md").read_text()


def test_what_is_said_of_a_missing_tokenizer_mends_it(tmp_path):
    model, tokenizer = wb.demo_model()
    *_, result = export(ModelSource(model), tmp_path / "int4", verify=False)
    assert any("tokenizer.save_pretrained" in one and "verify --accept" in one for one in result.report.fit.notes)
    tokenizer.save_pretrained(tmp_path / "int4")
    accept_changes(tmp_path / "int4")
    verify_checkpoint(tmp_path / "int4")
    assert sample_text(tmp_path / "int4", new_tokens=2)


def test_an_export_to_another_format_says_that_the_tokenizer_is_missing(tmp_path):
    model, tokenizer = wb.demo_model()
    *_, without = export(ModelSource(model), tmp_path / "without", target="mlx")
    *_, whole = export(ModelSource(model), tmp_path / "whole", target="mlx", tokenizer=tokenizer)
    assert any("has no tokenizer" in one for one in without.report.fit.notes)
    assert "has no tokenizer" in (tmp_path / "without" / "README.md").read_text()
    assert not any("has no tokenizer" in one for one in whole.report.fit.notes)


@pytest.mark.parametrize("after", [1, 5, 14])
def test_cancel_while_writing_leaves_nothing(after, tmp_path):
    cancel = threading.Event()
    steps = export(ModelSource(make("qwen2")), tmp_path / "int4", cancel=cancel)
    for _ in range(after):
        next(steps)
    cancel.set()
    if after < 14:
        with pytest.raises(Cancelled):
            next(steps)
        assert list(tmp_path.iterdir()) == []
    else:  # the last layer is written: the checkpoint is whole, and only verifying stops
        with pytest.raises(Cancelled, match="is whole"):
            list(steps)
        load_checkpoint(tmp_path / "int4", verify=True)


def test_an_existing_folder_is_replaced_only_when_asked(tmp_path):
    list(export(ModelSource(make("qwen2")), tmp_path / "int4", verify=False))
    with pytest.raises(CheckpointError, match="exists and is not empty"):
        list(export(ModelSource(make("qwen2")), tmp_path / "int4", verify=False))
    *_, result = export(ModelSource(make("opt")), tmp_path / "int4", overwrite=True)
    assert type(load_checkpoint(result.directory)[0]).__name__ == "OPTForCausalLM"


def test_cancel_while_the_loaded_checkpoint_generates_ends_before_its_next_layer(tmp_path, monkeypatch):
    *_, whole = export(open_source("demo"), tmp_path / "int4", verify=False)
    cancel, ran = threading.Event(), []
    model, tokenizer = load_checkpoint(whole.directory)
    model.model.layers[0].register_forward_pre_hook(lambda *_: cancel.set())
    model.model.layers[1].register_forward_pre_hook(lambda *_: ran.append(1))
    monkeypatch.setattr("workbench.hf.loading.load_checkpoint", lambda directory: (model, tokenizer))
    with pytest.raises(Cancelled):
        sample_text(whole.directory, cancel=cancel)
    assert ran == []
