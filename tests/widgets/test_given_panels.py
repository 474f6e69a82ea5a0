"""The app over a model that is int4 already: what it shows of it, and that nothing offers what takes the original."""

from __future__ import annotations

import pytest

import workbench as wb
from tests.widgets.opened import opened
from tests.widgets.test_app import click, facts
from workbench.demo import demo_eval_text
from workbench.widgets.app import Workbench
from workbench.widgets.tabs import GIVEN_TABS

pytestmark = pytest.mark.usefixtures("quick_roofline")
Q_PROJ = "model.layers.0.self_attn.q_proj"
TIMEOUT_S = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    model, tokenizer = wb.demo_model()
    wb.quantize_(model, wb.Int4WeightOnlyConfig(group_size=64))
    return wb.save_checkpoint(model, tmp_path_factory.mktemp("int4") / "out", tokenizer=tokenizer)


@pytest.fixture
def app(wire, folder):
    with opened(folder) as app:
        yield app


def away(panel):
    return "wb-away" in panel._dom_classes


def enabled(commands):
    return {button["id"] for button in commands.buttons if button["enabled"]}


def test_the_table_shows_kind_form_bytes_and_bits_and_offers_no_choice(app):
    columns = app.layers.table.columns
    at = columns["name"].index(Q_PROJ)
    assert app.layers.table.current == Q_PROJ
    row = {name: values[at] for name, values in columns.items()}
    assert (row["kind"], row["decision"], row["reason"]) == ("int4_linear", "int4", "g64 float")
    assert (row["group_size"], row["shape"], row["bits_per_weight"]) == (64, [256, 256], 4.5)
    assert columns["decision"][columns["name"].index("lm_head")] == "dense"
    assert app.layers.table.group_sizes == [] and not app.layers.table.show_totals
    assert "42 layers in int4 already, 4.50 bits per weight" in app.layers.verdict.verdict
    assert "on this CPU" in app.layers.verdict.verdict


def test_a_layer_s_form_stands_in_place_of_its_errors(app):
    layer, recipe, _ = app.given
    assert away(app.errors) and away(app.microscope) and away(app.configure) and away(app.recipe_panel)
    assert facts(layer.facts) == {
        "Group size": "64",
        "Zero-point domain": "float",
        "Scales": "bfloat16",
        "Bits per weight": "4.50",
        "Solver": "rtn",
    }
    assert "its errors take the original" in layer.facts.verdict and "wb.Workbench(" in layer.facts.notes[0]
    payload = layer.heatmap.payload
    assert (payload.title, payload.col_name, payload.total_cols) == (Q_PROJ, "group", 4)
    assert sum(layer.codes.chart.counts) == 256 * 256
    layer.form.change("stored_metric", "dequantized")
    assert app.wait(TIMEOUT_S)
    assert (layer.heatmap.payload.col_name, layer.heatmap.payload.total_cols) == ("input feature", 256)
    app.session.select(["lm_head"])
    assert layer.heatmap.payload is None and layer.heatmap.message
    assert layer.facts.facts == [] and "Dense" in layer.facts.verdict
    assert "It was made with this one:" in recipe.facts.verdict and '"group_size": 64' in recipe.facts.code
    assert app.wait(TIMEOUT_S) and app.status.problems == []


def test_the_header_s_buttons_say_why_they_are_off(app):
    assert enabled(app.tools) == set()
    assert {button["tooltip"].partition(":")[0] for button in app.tools.buttons} == {"The model is int4 already"}
    assert [tab["id"] for tab in app.tabs.tabs] == [tab.id for tab in GIVEN_TABS]


def test_every_format_answers_and_a_click_converts(app, tmp_path):
    rows = {row["id"]: row for row in app.export.formats.rows}
    assert rows["native"]["state"] == "exact" and not app.export.formats.busy
    assert rows["awq"]["state"] == "refused" and not rows["awq"]["fixable"]
    app.export.formats.selected = "awq"
    assert "export" not in enabled(app.export.commands) and app.export.fitting.buttons == []
    assert app.export.refusal.verdict == "AWQ cannot hold this model."
    app.export.formats.selected = "native"
    app.export.form.set_values(directory=str(tmp_path / "out"), verify=False)
    click(app.export.commands, "export")
    assert app.wait(TIMEOUT_S)
    assert facts(app.export.result)["max |Δw|"] == "0"
    assert "wb.load" in app.export.result.code or "from_pretrained" in app.export.result.code


def test_the_perplexity_of_the_model_alone_is_measured(app):
    panel = app.given[2]
    assert away(app.quality) and panel.numbers.verdict == "Not measured yet: give a text first."
    panel.text.change("text", demo_eval_text()[:4000])
    panel.form.change("windows", 8)
    click(panel.commands, "measure")
    assert app.wait(TIMEOUT_S)
    assert facts(panel.numbers)["Perplexity"] == f"{app.session.perplexity.latest.quality.perplexity:.4g}"
    assert enabled(panel.commands) == {"measure"}
    panel.text.change("text", demo_eval_text()[:3000])
    assert panel.numbers.facts == [] and panel.numbers.verdict == "Not measured yet."


def test_a_checkpoint_that_does_not_run_here_says_what_to_do(wire, tmp_path, folder):
    int4 = wb.Int4WeightOnlyConfig(group_size=64, zero_point_domain=wb.ZeroPointDomain.INT)
    wb.export("demo", tmp_path / "gptq", "gptq", recipe=int4)
    app = Workbench(tmp_path / "gptq")
    assert app.wait(TIMEOUT_S)
    panel = app.given[2]
    assert "gptq does not run here" in panel.numbers.verdict and enabled(panel.commands) == set()
    assert any(note.startswith("gptq stores ") for note in app.layers.verdict.notes)
    app.close()
