"""Writing an export: whole or not at all, recorded, and found damaged when it is."""

from __future__ import annotations

import json
import threading
from xml.etree import ElementTree

import pytest
import torch

import workbench as wb
from tests.tiny_models import make
from workbench.checkpoint.model_contents import ModelContents
from workbench.checkpoint.solved_contents import SolvedContents
from workbench.checkpoint.stored_contents import CheckpointContents
from workbench.coverage.preflight import preflight_source
from workbench.errors import Cancelled, CheckpointError, ConfigError
from workbench.hf.reverse_names import NamedContents
from workbench.recipe.recipe import as_recipe
from workbench.sources import ModelSource
from workbench.targets.run import (
    RECORD_FILE,
    ExportReport,
    TargetTable,
    accept_export_changes,
    iter_export_to,
    steps_of,
    verify_export,
)

CONFIG = wb.Int4WeightOnlyConfig(group_size=32, zero_point_domain=wb.ZeroPointDomain.INT)


def int4(family="qwen2"):
    model = make(family)
    wb.quantize_(model, CONFIG)
    return model


@pytest.fixture(scope="module")
def model():
    return int4()


@pytest.fixture(scope="module")
def native(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("native") / "out"
    wb.save_checkpoint(model, folder)
    return folder


def same_parts(one, other):
    ours = {name: tensor for part in one.parts() for name, tensor in part.tensors.items()}
    theirs = {name: tensor for part in other.parts() for name, tensor in part.tensors.items()}
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    weights, others = ({part.name: part.weight for part in c.parts() if part.weight} for c in (one, other))
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        assert torch.equal(weight.codes, others[name].codes)
        assert torch.equal(weight.dequantize(), others[name].dequantize())


@pytest.mark.parametrize("family", ["qwen2", "gpt2", "mixtral", "t5"])
def test_model_source_and_checkpoint_have_the_same_contents(family, tmp_path):
    model, dense = int4(family), make(family)
    source, recipe = ModelSource(dense), as_recipe(CONFIG)
    contents = [ModelContents(model), SolvedContents(source, preflight_source(source, recipe), recipe)]
    wb.save_checkpoint(model, tmp_path / "out")
    contents.append(CheckpointContents(tmp_path / "out"))
    for other in contents[1:]:
        same_parts(contents[0], other)
    outlines = [one.outline() for one in contents]
    for outline in outlines[1:]:
        assert outline.int4.keys() == outlines[0].int4.keys()
        assert [form.shape for form in outline.int4.values()] == [form.shape for form in outlines[0].int4.values()]
        assert outline.dense == outlines[0].dense
        assert outline.native_bytes == outlines[0].native_bytes
        assert outline.config["architectures"] == outlines[0].config["architectures"]


@pytest.mark.parametrize("target", ["native", "mlx", "compressed-tensors"])
def test_what_is_written_is_the_same_from_model_and_checkpoint(model, native, target, tmp_path):
    reports = [wb.export(origin, tmp_path / name, target) for name, origin in (("model", model), ("disk", native))]
    assert [report.target for report in reports] == [target, target]
    shards = [sorted((tmp_path / name).glob("*.safetensors")) for name in ("model", "disk")]
    assert [path.name for path in shards[0]] == [path.name for path in shards[1]]
    from safetensors.torch import load_file

    for ours, theirs in zip(*shards, strict=True):
        one, other = load_file(ours), load_file(theirs)
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_dense_model_is_quantized_on_the_way(tmp_path):
    wb.export(make("qwen2"), tmp_path / "out", "compressed-tensors", recipe=CONFIG)
    wb.export(int4(), tmp_path / "two", "compressed-tensors")
    ours, theirs = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "two"))
    assert ours == theirs


def test_a_recipe_for_what_is_int4_already_is_refused(model, native, tmp_path):
    for origin in (model, native):
        with pytest.raises(ConfigError, match="int4 already"):
            wb.export(origin, tmp_path / "out", "mlx", recipe=CONFIG)


def test_an_unknown_format_names_the_known(model, tmp_path):
    with pytest.raises(ConfigError, match="native, compressed-tensors"):
        wb.export(model, tmp_path / "out", "onnx")


def test_cancel_leaves_nothing(native, tmp_path):
    cancel = threading.Event()
    steps = iter_export_to("mlx", CheckpointContents(native), tmp_path / "out", cancel=cancel)
    next(steps)
    cancel.set()
    with pytest.raises(Cancelled):
        list(steps)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_kept_unless_it_may_be_replaced(model, tmp_path):
    wb.export(model, tmp_path / "out", "mlx")
    before = (tmp_path / "out" / "config.json").read_bytes()
    with pytest.raises(CheckpointError, match="overwrite=True"):
        wb.export(model, tmp_path / "out", "compressed-tensors")
    assert (tmp_path / "out" / "config.json").read_bytes() == before
    wb.export(model, tmp_path / "out", "compressed-tensors", overwrite=True)
    assert json.loads((tmp_path / "out" / RECORD_FILE).read_text())["target"] == "compressed-tensors"


def test_every_damage_is_named(model, tmp_path):
    report = wb.export(model, tmp_path / "out", "mlx")
    assert isinstance(report, ExportReport)
    assert verify_export(tmp_path / "out") == report.files - 1
    path = tmp_path / "out" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: its bytes"):
        verify_export(tmp_path / "out")
    path.write_bytes(data[:-4])
    with pytest.raises(CheckpointError, match="bytes, saved with"):
        verify_export(tmp_path / "out")
    path.unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: missing"):
        verify_export(tmp_path / "out")


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", "c:\\x"])
def test_a_record_that_points_outside_is_refused(model, tmp_path, name):
    wb.export(model, tmp_path / "out", "mlx")
    record = json.loads((tmp_path / "out" / RECORD_FILE).read_text())
    record["files"][name] = {"sha256": "0", "size_bytes": 1}
    (tmp_path / "out" / RECORD_FILE).write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="outside the folder"):
        verify_export(tmp_path / "out")


@pytest.fixture
def edited(model, tmp_path):
    """An export whose model card a person wrote on, with a picture added and the generation configuration removed."""
    folder = tmp_path / "out"
    wb.export(model, folder, "mlx")
    (folder / "README.md").write_text("# Mine\n")
    (folder / "picture.svg").write_text("<svg/>")
    (folder / "generation_config.json").unlink()
    return folder


def test_a_card_that_a_person_edits_is_accepted_and_still_watched(edited):
    with pytest.raises(CheckpointError, match=r"README\.md: has 7 bytes.*workbench verify DIR --accept"):
        verify_export(edited)
    assert accept_export_changes(edited) == ["README.md", "generation_config.json", "picture.svg"]
    assert verify_export(edited) == len(list(edited.iterdir())) - 1
    assert accept_export_changes(edited) == []
    (edited / "README.md").write_text("# Else\n")
    with pytest.raises(CheckpointError, match=r"README\.md: its bytes"):
        verify_export(edited)


@pytest.mark.parametrize("damage", ["changed", "removed", "added"])
def test_weights_are_never_accepted(edited, damage):
    record, path = (edited / RECORD_FILE).read_bytes(), edited / "model.safetensors"
    if damage == "added":
        path = edited / "more.safetensors"
    path.unlink(missing_ok=True)
    if damage != "removed":
        path.write_bytes(b"other")
    with pytest.raises(CheckpointError, match=rf"Weights of .* are damaged: {path.name}"):
        accept_export_changes(edited)
    with pytest.raises(CheckpointError) as raised:
        verify_export(edited)
    assert "--accept" not in str(raised.value)
    assert (edited / RECORD_FILE).read_bytes() == record


def test_a_link_is_not_accepted(edited):
    (edited / "README.md").unlink()
    (edited / "README.md").symlink_to(edited / "picture.svg")
    with pytest.raises(CheckpointError, match=r"'README\.md' in .* is a link"):
        accept_export_changes(edited)


def test_the_table_is_text_and_html(model):
    table = wb.export_targets(model)
    assert "compressed-tensors" in str(table)
    page = table._repr_html_()
    root = ElementTree.fromstring(page)  # every tag is closed, every character escaped
    assert [one.text for one in root.findall(".//tbody/tr/th")] == list(table.fits)
    assert {one.get("scope") for one in root.findall(".//thead//th")} == {"col"}
    assert [one.text for one in root.findall(".//tbody/tr/td[2]")] == [fit.state for fit in table.fits.values()]
    assert "script" not in page and "http" not in page and root.find("ul") is not None
    odd = TargetTable("<b>&", {"native": table.fits["native"]})
    assert ElementTree.fromstring(odd._repr_html_()).find("div/b").text == "Export targets of <b>&"
    assert ElementTree.fromstring(odd._repr_html_()).find("ul") is None
    assert wb.export_targets(make("qwen2"), CONFIG).fits["awq"].state == table.fits["awq"].state


class Words:
    """A tokenizer that is saved as these files."""

    def __init__(self, **files: dict):
        self.files = files

    def save_pretrained(self, folder):
        for name, data in self.files.items():
            (folder / f"{name}.json").write_text(json.dumps(data))


def test_the_tokenizer_is_looked_at_where_one_is_at_hand(model, native):
    said = wb.export_targets(model).fit("gguf")  # a live model may get one when it is written
    assert said.state == "rounded" and any("tokenizer is looked at before the first layer" in one for one in said.notes)
    other = Words(tokenizer={"model": {"type": "Unigram"}, "pre_tokenizer": {"type": "Metaspace"}})
    found = wb.export_targets(model, tokenizer=other).fit("gguf")
    assert found.state == "refused" and "model Unigram" in found.misfits[0].what
    [misfit] = wb.export_targets(native).fit("gguf").misfits  # a folder has what it has
    assert "there is none" in misfit.what and "copy the tokenizer's files into the folder" in misfit.mend
    assert wb.export_targets(native).fit("mlx").state != "refused"


@pytest.mark.parametrize("target", ["native", "mlx", "compressed-tensors"])
def test_the_steps_of_an_export_are_counted_beforehand(target, tmp_path):
    model = make("mixtral")
    wb.quantize_(model, wb.Int4WeightOnlyConfig(group_size=32), domain="symmetric", solver="rtn")
    contents = NamedContents(ModelContents(model))
    *steps, _ = iter_export_to(target, contents, tmp_path / "out")
    assert len(steps) == steps_of(target, contents.outline())
