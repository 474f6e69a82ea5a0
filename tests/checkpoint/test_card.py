"""The model card: what the hub reads of it, what a person reads, and nothing that is not known."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

import workbench as wb
from tests.tiny_models import hushed, make
from workbench.checkpoint.card import CARD_FILE, Wrote, base_model, loading_class, model_card, native_lines
from workbench.checkpoint.findings import Findings
from workbench.checkpoint.integrity import verify_checkpoint
from workbench.checkpoint.manifest import MANIFEST_FILE
from workbench.checkpoint.model_contents import ModelContents
from workbench.errors import CheckpointError
from workbench.measure.paired import Comparison, WindowPair
from workbench.records.quality import Quality
from workbench.session.export import quality_found
from workbench.session.quality_plan import Plan
from workbench.session.quality_state import Measured, QualityState
from workbench.targets.run import verify_export

CONFIG = wb.Int4WeightOnlyConfig(group_size=32, zero_point_domain=wb.ZeroPointDomain.INT)
WROTE = Wrote("mlx", "MLX", "mlx-lm", "load()", "mlx_lm.generate", "max |Δw| 0", ("a note",))
WINDOWS = tuple(WindowPair(100, 300.0 + n, 303.0 + 1.5 * n, 2.0 + 0.1 * n, 90) for n in range(4))


@pytest.fixture(scope="module")
def made():
    model = make("qwen2")
    return model, wb.quantize_(model, wb.Recipe.preset("accurate").with_rule("o_proj", None))


@pytest.fixture
def outline(made):
    return ModelContents(made[0]).outline()


def parts(text):
    """Title → text of each section; the front matter as the hub reads it."""
    card = ModelCard(text)
    _, *sections = re.split(r"^## (.*)\n", card.text, flags=re.MULTILINE)
    return card.data.to_dict(), dict(zip(sections[::2], (one.strip() for one in sections[1::2]), strict=True))


def cells(table):
    """Rows of a table's cells, split where no backslash stands before the bar."""
    return [re.split(r"(?<!\\)\|", line)[1:-1] for line in table.splitlines() if line.startswith("|")]


def test_a_checkpoint_has_a_card_that_its_manifest_holds(made, tmp_path):
    wb.save_checkpoint(made[0], tmp_path / "out")
    assert CARD_FILE in json.loads((tmp_path / "out" / MANIFEST_FILE).read_text())["files"]
    head, found = parts((tmp_path / "out" / CARD_FILE).read_text())
    assert head["library_name"] == "transformers" and head["pipeline_tag"] == "text-generation"
    assert head["quantized_by"] == "int4-workbench" and head["tags"] == ["int4", "4-bit", "int4-workbench"]
    assert set(found) == {"How to load", "Recipe", "Coverage", "Size", "Notes", "Made with"}
    assert "has no tokenizer" in found["Notes"]
    assert "from_pretrained('out')" in found["How to load"] and str(tmp_path) not in str(found)
    assert "12 of 15 linear weights are int4" in found["Coverage"] and "`model.layers.0.self_attn.o_proj`" in str(found)
    assert cells(found["Recipe"])[2][:4] == [" 12 ", " linear ", " 32 ", " float "]
    assert '"preset"' in found["Recipe"] or '"rules"' in found["Recipe"]
    verify_checkpoint(tmp_path / "out")
    with (tmp_path / "out" / CARD_FILE).open("a") as file:
        file.write("A word.")
    with pytest.raises(CheckpointError, match=r"README\.md"):
        verify_checkpoint(tmp_path / "out")


@pytest.mark.parametrize("kind", ["qwen2", "t5", "gpt2"])
def test_the_lines_of_a_checkpoint_load_it(kind, made, tmp_path, monkeypatch):
    model = made[0] if kind == "qwen2" else make(kind)
    if kind != "qwen2":
        wb.quantize_(model, CONFIG)
    wb.save_checkpoint(model, tmp_path / "it's int4")
    monkeypatch.chdir(tmp_path)
    text = (tmp_path / "it's int4" / CARD_FILE).read_text()
    code = re.search(r"```python\n(.*?)```", text, flags=re.DOTALL).group(1)
    names = {}
    with hushed():
        exec(code, names)
    assert type(names["model"]) is type(model)


def test_a_shell_is_told_to_generate_what_can_be(tmp_path):
    folder = tmp_path / "int4"
    for called, generates in (("Qwen2ForCausalLM", True), ("GPT2LMHeadModel", True), ("BertModel", False)):
        python, shell = native_lines(folder, {"architectures": [called]}, tokenizer=True)
        assert bool(shell) == generates and native_lines(folder, {}, tokenizer=False)[1] == ""
        assert loading_class({"architectures": [called]}) in python


def test_what_was_found_out_is_told_and_nothing_else(made, tmp_path):
    model, report = made
    quality = Quality(12.5, 2.5, 99, 3, 33, 0, 12.25, 0.0123, (0.01, 0.02), 0.95)
    wb.save_checkpoint(model, tmp_path / "out", report=report, quality=quality)
    _, found = parts((tmp_path / "out" / CARD_FILE).read_text())
    rows = cells(found["Errors of the layers"])[2:]
    assert [row[0].strip(" `") for row in rows] == [one.name for one in report.layers]
    assert all(len(row) == 5 for row in rows)
    assert "12.250 → 12.500" in found["Quality"] and "1.0204" in found["Quality"]
    assert "0.01230 | 0.01000 to 0.02000" in found["Quality"] and "95.0%" in found["Quality"]


def test_an_export_says_what_its_loader_sees(made, tmp_path):
    for place in ("one", "two"):
        wb.export(made[0], tmp_path / place / "int4", "mlx", quality=Comparison(WINDOWS))
        assert verify_export(tmp_path / place / "int4")
    one, two = ((tmp_path / place / "int4" / CARD_FILE).read_text() for place in ("one", "two"))
    assert one == two
    head, found = parts(one)
    assert head["library_name"] == "mlx" and head["tags"][-1] == "mlx"
    assert "max \\|Δw\\|" in found["Weights in this format"] and "load('int4')" in found["How to load"]
    ratio = cells(found["Quality"])[3]
    low, high = (float(word) for word in ratio[2].split(" to "))
    assert low < float(ratio[1]) < high


def test_layers_that_are_solved_on_the_way_are_told(tmp_path):
    wb.export(make("qwen2"), tmp_path / "out", "compressed-tensors", recipe=CONFIG)
    _, found = parts((tmp_path / "out" / CARD_FILE).read_text())
    assert len(cells(found["Errors of the layers"])) == 2 + 14
    assert "mean \\|error\\|" in found["Errors of the layers"]


def test_sizes_are_those_of_the_same_tensors(outline):
    said = parts(model_card(replace(outline, config={"dtype": "bfloat16"}), WROTE, Findings(), 1000))[1]["Size"]
    assert "the same weights in bfloat16" in said and "1.00 kB" in said
    said = parts(model_card(replace(outline, config={}), WROTE, Findings(), 1000))[1]["Size"]
    assert "the same weights" not in said and "1.00 kB" in said


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("org/model-1.5_b", "org/model-1.5_b"),
        ("/home/me/hub/models--org--model/snapshots/0123abc", "org/model"),
        ("C:\\hub\\models--org--model\\snapshots\\0123abc", "org/model"),
        *((name, "") for name in ("demo", "./org/model", "a/b/c", "/models/mine", "Qwen2ForCausalLM", "", "a/b\nc: d")),
    ],
)
def test_the_base_model_is_a_hub_name_or_left_out(outline, name, base):
    assert base_model(name) == base
    text = model_card(replace(outline, model=name), WROTE, Findings(), 1)
    assert parts(text)[0].get("base_model") == (base or None)
    assert "/home/me" not in text and "C:" not in text


def test_a_folder_here_is_no_hub_name(tmp_path, monkeypatch):
    (tmp_path / "org" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert base_model("org/model") == ""


def test_the_base_model_goes_along_with_the_checkpoint(made, tmp_path):
    model = made[0]
    model.config._name_or_path = "org/model"
    wb.save_checkpoint(model, tmp_path / "int4")
    model.config._name_or_path = ""
    wb.export(tmp_path / "int4", tmp_path / "mlx", "mlx")
    head, _ = parts((tmp_path / "mlx" / CARD_FILE).read_text())
    assert head["base_model"] == "org/model" and head["base_model_relation"] == "quantized"


@pytest.mark.parametrize(
    "name", ["a|b", "a\n---\nb: c", "``` `x`", "<script>x</script>", "[x](http://y)", "</details>"]
)
def test_no_name_breaks_out_of_its_place(outline, made, name):
    layers = (replace(made[1].layers[0], name=name, notes=(name,)),)
    hostile = replace(outline, model=name, dense_layers=(name,))
    head, found = parts(model_card(hostile, replace(WROTE, notes=(name,)), Findings(layers, text=name), 1))
    assert head["quantized_by"] == "int4-workbench" and "b" not in head
    assert all(len(row) == 5 for row in cells(found["Errors of the layers"]))
    assert "<script" not in str(found) and found["Errors of the layers"].count("</details>") == 1
    assert "](http" not in str(found).replace("\\](http", "").replace("`[x](http://y)`", "")


def test_a_session_gives_the_quality_that_it_measured(tmp_path):
    state = QualityState("a text given here", 10, None, 128, 4, False)
    assert quality_found(state) == Findings()
    measured = Measured(Plan("", "", ""), Comparison(WINDOWS), 128, 4, 4, ("a note",))
    state = replace(state, measured=measured, path=tmp_path / "wiki.txt", origin=str(tmp_path / "wiki.txt"))
    assert quality_found(state) == Findings((), measured.comparison, "wiki.txt", ("a note",))
    assert "fitted to" in quality_found(replace(state, calibrated_on=True)).text
