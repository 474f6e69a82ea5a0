"""The app without a browser: every panel shows the one session, and what a person does reaches it."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ipywidgets
import pytest
import torch
from torch import nn

import workbench as wb
from tests.coverage.test_preflight import Stacked
from tests.widgets.opened import opened
from workbench.errors import ModelError
from workbench.hf.loading import demo_model
from workbench.measure.candidates import present_paths
from workbench.options import OPTIONS_OF
from workbench.recipe.recipe import Choice, Recipe, Rule
from workbench.records.errors import ErrorTrace, LayerResult
from workbench.records.speed import SpeedPoint
from workbench.session import Event, open_session
from workbench.widgets.app import Workbench
from workbench.widgets.convergence_panel import chart_of
from workbench.widgets.export_panel import notes_of
from workbench.widgets.layers_panel import facts_of
from workbench.widgets.solver_fields import FIELDS_OF
from workbench.widgets.speed_panel import BATCH_SIZES

pytestmark = pytest.mark.usefixtures("quick_roofline")
LAYERS = ["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj"]


@pytest.fixture
def app(wire) -> Iterator[Workbench]:
    with opened() as app:
        yield app


def change(app: Workbench, field: str, value: Any) -> None:
    """Move a control of the configuration panel as a page does."""
    app.configure.form._handle_custom_msg({"type": "change", "id": field, "value": value, "turn": 1}, [])
    assert app.wait(30)


def pick(app: Workbench, *names: str) -> None:
    """Select layers as a page does, the last of them on show."""
    table = app.layers.table
    rows = [table.columns["name"].index(name) for name in names]
    table._handle_custom_msg({"type": "select", "rows": rows, "current": rows[-1], "turn": 1}, [])


def click(commands: Any, command: str) -> None:
    commands._handle_custom_msg({"type": "command", "command": command, "click": "c"}, [])


def facts(widget: Any) -> dict[str, str]:
    return {fact["label"]: fact["value"] for fact in widget.facts}


def test_it_opens_on_the_demo_model_with_coverage_and_a_heatmap(app: Workbench) -> None:
    assert facts(app.layers.verdict)["Weights"] == "42 of 57"
    assert len(app.layers.table.columns["name"]) == 57
    assert app.errors.heatmap.payload is not None and app.errors.heatmap.payload.title == LAYERS[0]
    assert app.errors.heatmap.payload.badge == "exact"
    assert not app.errors.heatmap.busy
    assert facts(app.errors.numbers)["Bits per weight"] == "4.50"
    assert repr(app).startswith("Workbench('demo', 42 of 57")


def test_a_model_that_cannot_be_opened_is_one_error_and_no_more(tmp_path: Path, recwarn) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        Workbench(tmp_path / "nothing")
    gc.collect()
    assert [str(one.message) for one in recwarn if "unraisable" in str(one.category).lower()] == []


def test_nothing_that_the_page_needs_is_left_out_and_nothing_needs_a_network(app: Workbench) -> None:
    for widget in ipywidgets.widgets.widget._instances.values():
        for text in (getattr(widget, "_esm", ""), getattr(widget, "_css", "")):
            assert "import " not in str(text).split("export default")[0].replace("// ", "").split("\n")[0]
            assert "https://" not in str(text) and "http://" not in str(text).replace("http://www.w3.org", "")


def test_a_control_changes_the_recipe_the_table_and_the_heatmap(app: Workbench) -> None:
    before = app.errors.heatmap.payload
    change(app, "group_size", 128)
    assert app.recipe.default == Choice(wb.Int4WeightOnlyConfig(group_size=128))
    after = app.errors.heatmap.payload
    assert before is not None and after is not None
    assert after.seq > before.seq and (before.total_cols, after.total_cols) == (4, 2)
    assert "g128" in app.layers.table.columns["reason"][1]
    change(app, "solver", "hqq")
    assert facts(app.errors.numbers)["Mean |error|"] and "× round-to-nearest" in app.errors.numbers.facts[1]["hint"]
    assert any("hqq" in note for note in app.configure.form.notes)


def test_what_cannot_be_is_said_and_the_control_goes_back(app: Workbench) -> None:
    change(app, "solver", "hqq")
    change(app, "domain", "symmetric")
    assert "symmetric" in app.status.problems[0]["text"]
    assert app.configure.form.values["domain"] == "auto"
    assert app.recipe.default is not None and app.recipe.default.domain is None
    change(app, "group_size", 32)
    assert app.recipe.default.config.group_size == 32


def set_option(app: Workbench, field: str, value: Any) -> None:
    """Change a setting of the solver as a page does."""
    app.configure.settings._handle_custom_msg({"type": "change", "id": field, "value": value, "turn": 1}, [])
    assert app.wait(30)


def test_the_settings_of_the_chosen_solver_can_be_changed_and_undone(app: Workbench) -> None:
    settings = app.configure.settings
    tiles = {"inner_k_tiles": 8}
    assert (settings.values, settings.hint, settings.fold) == (tiles, "rtn, defaults", "closed")
    change(app, "solver", "hqq")
    assert settings.values == vars(wb.HqqOptions()) | tiles
    before = app.errors.numbers.facts
    set_option(app, "lp_norm", 0.4)
    set_option(app, "iters", 2)
    assert app.recipe.default == Choice(
        wb.Int4WeightOnlyConfig(64, use_hqq=True), options=wb.HqqOptions(lp_norm=0.4, iters=2)
    )
    assert settings.hint == "hqq, lp_norm 0.4, iters 2"
    assert app.errors.numbers.facts != before
    assert "options=wb.HqqOptions(lp_norm=0.4" in app.session.as_python()
    click(app.tools, "undo")
    click(app.tools, "undo")
    assert (settings.values, settings.hint) == (vars(wb.HqqOptions()) | tiles, "hqq, defaults")
    change(app, "solver", "refined")
    assert settings.values == vars(wb.RefinedOptions()) | tiles
    set_option(app, "inner_k_tiles", 2)
    assert app.session.resolved().inner_k_tiles == 2 and settings.values["inner_k_tiles"] == 2


@pytest.mark.parametrize(("value", "said"), [(3, "lp_norm=3"), ("abc", "'abc'"), (None, "a finite number")])
def test_a_setting_that_cannot_be_is_refused_and_put_back(app: Workbench, value: Any, said: str) -> None:
    change(app, "solver", "hqq")
    set_option(app, "lp_norm", value)
    assert said in app.status.problems[0]["text"]
    assert app.configure.settings.values["lp_norm"] == 0.7
    assert app.recipe.default is not None and app.recipe.default.options is None


def test_every_option_of_every_solver_has_a_control_and_no_control_has_none() -> None:
    for solver, kind in OPTIONS_OF.items():
        names = [] if kind is None else list(vars(kind()))
        assert sorted(field.id for field in FIELDS_OF[solver]) == sorted(names)
        for field in FIELDS_OF[solver]:
            assert field.help.startswith(f"{field.id}: ")
            if kind is not None:
                field.check(vars(kind())[field.id])


def test_the_convergence_of_the_solver_is_shown_and_round_to_nearest_has_none(app: Workbench) -> None:
    chart = app.convergence.chart
    assert chart.chart.series == () and "nothing to converge" in chart.chart.empty
    change(app, "solver", "hqq")
    (series,) = chart.chart.series
    trace = app.view.trace
    assert (series.name, len(series.x)) == ("hqq", 21)
    assert series.y == trace.relative and series.y[0] == 1.0 > series.y[-1]
    assert (chart.chart.title, chart.chart.y_label) == ("Convergence: hqq", "mean |error|")
    assert chart.chart.subtitle == (
        f"{LAYERS[0]} · {trace.improved_groups:,} of 1,024 groups better than round-to-nearest"
    )
    assert not chart.busy
    change(app, "solver", "rtn")
    assert chart.chart.series == ()


@pytest.mark.parametrize(
    ("values", "empty"), [((0.0, 0.0), "is exact here"), ((float("inf"), 2.0), "no finite error"), ((0.5, 0.4), "")]
)
def test_a_trace_without_a_ratio_says_so(app: Workbench, values: tuple[float, float], empty: str) -> None:
    view = replace(
        app.view, trace=ErrorTrace("mean |error|", values, 3, 0), config=replace(app.view.config, solver="hqq")
    )
    shown = chart_of(view)
    assert empty in shown.empty
    assert bool(shown.series) == (not empty)


def test_python_selects_and_the_table_follows(app: Workbench) -> None:
    app.session.select(LAYERS, current=LAYERS[1])
    assert app.wait(30)
    assert (app.session.current, app.layers.table.current) == (LAYERS[1], LAYERS[1])
    assert app.layers.table.selected == app.selection == app.session.selection
    assert app.errors.heatmap.payload is not None and app.errors.heatmap.payload.title == LAYERS[1]


def test_the_page_selects_and_the_session_follows(app: Workbench) -> None:
    pick(app, LAYERS[1], LAYERS[0])
    assert app.session.selection == LAYERS and app.session.current == LAYERS[0]
    pick(app, LAYERS[1])
    assert app.wait(30)
    assert app.session.current == LAYERS[1]
    assert app.view.name == LAYERS[1]


def test_a_setting_right_after_two_picks_is_that_of_the_second(app: Workbench) -> None:
    change(app, "scope", "this layer")
    for name in LAYERS:
        pick(app, name)
    change(app, "group_size", 32)
    assert [app.session.coverage.configs[name].group_size for name in LAYERS] == [64, 32]
    assert app.layers.table.current == LAYERS[1]


def test_an_export_right_after_two_formats_takes_the_second(app: Workbench) -> None:
    formats = app.export.formats
    for name in ("gguf", "mlx"):
        formats._handle_custom_msg({"type": "select", "id": name, "turn": 1}, [])
    assert formats.selected == "mlx"


def test_traits_drive_the_app(app: Workbench) -> None:
    seen: list[str] = []
    app.observe(lambda change: seen.append(change["name"]), names=["recipe", "selection", "view"])
    app.selection = [LAYERS[1]]
    app.recipe = Recipe(Choice(wb.Int4WeightOnlyConfig(group_size=32)))
    assert app.wait(30)
    assert app.session.current == LAYERS[1]
    assert app.configure.form.values["group_size"] == 32
    assert {"selection", "recipe", "view"} <= set(seen)


def test_the_recipe_that_the_session_tells_is_not_set_again(app: Workbench, monkeypatch) -> None:
    taken: list[Recipe] = []
    take = app.session.set_recipe
    monkeypatch.setattr(app.session, "set_recipe", lambda recipe: (taken.append(recipe), take(recipe)))
    app.session.configure(group_size=128)
    assert taken == [app.recipe], "a newer one could have come between, which it would undo"
    app.recipe = Recipe(Choice(wb.Int4WeightOnlyConfig(group_size=32)))
    assert taken[1:] == [app.recipe] == [app.session.recipe]


def test_a_recipe_file_drives_the_controls_and_is_saved_back_unchanged(app: Workbench, tmp_path: Path) -> None:
    choice = Choice(wb.Int4WeightOnlyConfig(group_size=32), "refined", "int")
    Recipe(Choice(), (Rule(LAYERS[1], choice), Rule("layers.1", None))).save(tmp_path / "first.json")
    app.recipe = Recipe.load(tmp_path / "first.json")
    app.selection = [LAYERS[1]]
    assert app.wait(30)
    shown = app.configure.form.values
    assert (shown["group_size"], shown["domain"], shown["solver"]) == (32, "int", "refined")
    app.recipe.save(tmp_path / "second.json")
    assert (tmp_path / "second.json").read_bytes() == (tmp_path / "first.json").read_bytes()


def test_scope_layer_then_dense_then_undo_and_redo(app: Workbench) -> None:
    enabled = {button["id"]: button["enabled"] for button in app.tools.buttons}
    assert enabled == {"improve": True, "undo": False, "redo": False, "sweep": True}
    change(app, "scope", "this layer")
    change(app, "group_size", 32)
    assert app.recipe.rules[0].pattern == LAYERS[0]
    change(app, "int4", False)
    assert facts(app.layers.verdict)["Weights"] == "41 of 57"
    assert any(f"{LAYERS[0]}, lm_head dense" in note for note in app.layers.verdict.notes)
    assert "measuring" not in app.layers.verdict.verdict, "of a dense layer none is measured"
    click(app.tools, "undo")
    assert facts(app.layers.verdict)["Weights"] == "42 of 57"
    assert all(button["enabled"] for button in app.tools.buttons)
    click(app.tools, "redo")
    assert facts(app.layers.verdict)["Weights"] == "41 of 57"
    assert not next(button for button in app.tools.buttons if button["id"] == "redo")["enabled"]


def test_the_sweep_fills_the_error_column(app: Workbench) -> None:
    click(app.tools, "sweep")
    assert app.wait(120)
    errors = app.layers.table.columns["error"]
    assert sum(error is not None for error in errors) == 42
    assert app.status.job["state"] == "done"
    change(app, "group_size", 256)
    assert sum(error is not None for error in app.layers.table.columns["error"]) <= 1, "errors of the old recipe"


def move(app: Workbench, field: str, value: Any) -> None:
    """Move a control of the speed panel as a page does."""
    app.speed.form._handle_custom_msg({"type": "change", "id": field, "value": value, "turn": 1}, [])


def enabled(commands: Any) -> list[str]:
    return [button["id"] for button in commands.buttons if button["enabled"]]


def test_speed_is_shown_point_by_point(app: Workbench, wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.widgets.speed_panel._BUDGET_S", 0.0)
    assert (app.speed.verdict.verdict, enabled(app.speed.commands)) == ("Not measured yet.", ["measure"])
    wire.clear()
    click(app.speed.commands, "measure")
    assert app.wait(120)
    charts = [state["_chart"] for state in wire.states if "_chart" in state and "batch" in state["_chart"]["x_label"]]
    counts = [len(chart["series"][0]["x"]) if chart["series"] else 0 for chart in charts]
    assert set(counts) == set(range(len(BATCH_SIZES) + 1)) and counts == sorted(counts)
    series = {line.name: line for line in app.speed.chart.chart.series}
    assert series.keys() == {*present_paths("cpu"), "roofline"} - {"dense"}
    assert series["int4"].x == BATCH_SIZES and all(y is not None and y > 0 for y in series["int4"].y)
    assert [choice.x for choice in app.speed.chart.chart.ribbon] == list(BATCH_SIZES)
    assert {"Batch 1", "Batch 1024", "Memory", "Matmul"} == facts(app.speed.verdict).keys()
    assert "dense bfloat16" in app.speed.verdict.verdict
    assert any("path by batch size" in note for note in app.speed.verdict.notes)
    assert not app.speed.chart.busy and enabled(app.speed.commands) == ["measure"]


def test_the_dtype_on_show_is_the_one_that_is_measured(app: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.widgets.speed_panel.BATCH_SIZES", (1, 2))
    monkeypatch.setattr("workbench.widgets.speed_panel._BUDGET_S", 0.0)
    click(app.speed.commands, "measure")
    assert app.wait(60)
    move(app, "dtype", "float32")
    assert app.speed.chart.chart.series == () and "float32 is not measured yet" in app.speed.chart.chart.empty
    assert app.speed.verdict.facts == [] and app.speed.verdict.notes == []
    click(app.speed.commands, "measure")
    assert app.wait(60)
    assert app.speed.chart.chart.reference_label == "dense float32" and "float32" in app.speed.verdict.verdict
    move(app, "view", "time")
    assert {line.name for line in app.speed.chart.chart.series} == {*present_paths("cpu"), "roofline"}
    move(app, "dtype", "bfloat16")
    assert app.speed.chart.chart.title == "Time of a call by batch size"
    assert len(app.speed.chart.chart.series[0].x) == 2, "the points of the other dtype are still there"


def test_measuring_is_stopped_from_its_own_panel(app: Workbench) -> None:
    started, stopped = threading.Event(), threading.Event()

    def hold(event: Event) -> None:
        if event.kind == "speed" and event.data.path == "dense":
            started.set()
            assert stopped.wait(60)

    app.session.listen(hold)
    click(app.speed.commands, "measure")
    assert started.wait(60)
    assert app.speed.chart.busy and enabled(app.speed.commands) == ["stop"]
    click(app.speed.commands, "stop")
    stopped.set()
    assert app.wait(60)
    assert app.status.job["state"] == "cancelled" and enabled(app.speed.commands) == ["measure"]
    assert not app.speed.chart.busy and app.speed.chart.chart.series[0].x[0] == 1.0


def test_a_second_device_brings_a_control_to_choose_it(app: Workbench) -> None:
    cpu = SpeedPoint("cpu", "a CPU", "int4", "bfloat16", 96, 64, 32, 1, 1.0, 0.9, 1.2, 7, 3.0, 2.0, chosen_path="op")
    points = [cpu, replace(cpu, path="dense", time_ms=2.0)]
    app.session.speed.points = [*points, *(replace(one, device="cuda", device_name="a GPU") for one in points)]
    app.speed.on_event(Event("speed", cpu))
    assert [field["id"] for field in app.speed.form.fields] == ["view", "device", "dtype", "compiled"]
    assert "a CPU (cpu)" in app.speed.chart.chart.subtitle
    move(app, "device", "cuda")
    assert "a GPU (cuda)" in app.speed.chart.chart.subtitle


def test_an_export_shows_what_was_written_and_checked(app: Workbench, tmp_path: Path) -> None:
    app.export.form.change("directory", str(tmp_path / "out"))
    click(app.export.commands, "export")
    assert app.wait(120)
    assert facts(app.export.result)["Verified"] == "yes"
    assert json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["quant_method"]
    assert app.export.result.notes[0].startswith("Sample: The module provides")
    click(app.export.commands, "export")
    assert app.wait(30)
    assert "exists and is not empty" in app.status.problems[0]["text"]
    click(app.export.commands, "python")
    assert "cfg = wb.Int4WeightOnlyConfig(group_size=64)\nprint(wb.quantize_(model, cfg))" in app.export.result.code
    assert f"wb.save_checkpoint(model, {str(tmp_path / 'out')!r}" in app.export.result.code


def test_remarks_on_exported_layers_are_said_once_for_all_that_they_are_about() -> None:
    def layer(name: str, *notes: str) -> LayerResult:
        return LayerResult(name, "refined", "float", 64, "mean squared error", 1.0, 2.0, (2.0, 1.0), 0.1, notes)

    layers = [layer("a", "few tokens"), layer("b"), layer("c", "few tokens", "damping grew")]
    assert notes_of(layers) == ["a, c: few tokens", "c: damping grew"]
    assert notes_of([layer("a")]) == []
    many = notes_of([layer(f"l{place}", f"note {place}") for place in range(20)])
    assert len(many) == 9 and many[-1] == "and 12 more remarks: session.exported.layers has all"


def test_a_live_model_is_exported_with_its_tokenizer(wire, tmp_path: Path) -> None:
    model, tokenizer = demo_model()
    app = Workbench(model, tokenizer)
    app.session.export(tmp_path / "out").wait(120)
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    assert any(isinstance(module, nn.Linear) for module in model.model.modules()), "the model itself is not changed"
    app.close()


def test_a_nan_weight_takes_the_picture_away_and_says_where(wire) -> None:
    model, tokenizer = demo_model()
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[2, 7] = torch.nan
    app = Workbench(model, tokenizer)
    assert app.wait(30)
    app.session.select([LAYERS[1]])
    assert app.wait(30)
    assert app.errors.heatmap.payload is None
    assert f"{LAYERS[1]}[2, 7] is nan" in app.errors.heatmap.message
    assert f"{LAYERS[1]}[2, 7] is nan" in app.status.problems[0]["text"]
    columns = app.layers.table.columns
    assert f"{LAYERS[1]}[2, 7] is nan" in columns["error"][columns["name"].index(LAYERS[1])]
    assert f"no error: {LAYERS[1]}[2, 7] is nan" in app.layers.verdict.verdict
    assert app.errors.numbers.facts == []
    app.session.select([LAYERS[0]])
    assert app.wait(30)
    assert app.errors.heatmap.payload is not None
    app.close()


def test_what_no_linear_layer_holds_is_said_above_the_panels(wire) -> None:
    app = Workbench(nn.Sequential(nn.Linear(64, 64), Stacked()))
    notes, coverage = app.layers.verdict.notes, app.session.coverage
    assert app.layers.verdict.open_notes == 0, "these wait behind a button; layers that fell back would not"
    dense = next(note for note in coverage.notes if "stay dense" in note)
    assert dense in notes
    assert set(coverage.remarks) <= set(notes)
    assert not any(note.startswith("zero_point_domain") for note in notes), "these stand in the settings"
    assert set(coverage.notes) - set(coverage.remarks) == {
        str(note) for config in coverage.configs.values() for note in config.notes
    }
    app.close()


def test_a_panel_that_fails_is_reported_and_the_others_are_served(
    app: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_event: Event) -> None:
        raise RuntimeError("no room")

    monkeypatch.setattr(app.layers, "on_event", broken)
    change(app, "group_size", 256)
    assert any("no room" in problem["text"] for problem in app.status.problems)
    assert app.errors.heatmap.payload is not None and app.errors.heatmap.payload.group_size == 256


def test_a_panel_can_be_shown_in_a_cell_of_its_own(app: Workbench) -> None:
    for panel in (app.layers, app.configure, app.errors, app.speed, app.export):
        assert "wb-panel" in panel._dom_classes
        assert "demo" in repr(panel) and len(repr(panel)) < 80


def test_closing_closes_every_channel(wire) -> None:
    before = set(ipywidgets.widgets.widget._instances)
    app = Workbench()
    app.wait(30)
    opened = set(ipywidgets.widgets.widget._instances) - before
    assert len(opened) > 15
    app.close()
    left = [ipywidgets.widgets.widget._instances[key] for key in opened & set(ipywidgets.widgets.widget._instances)]
    assert [type(widget).__name__ for widget in left if not isinstance(widget, ipywidgets.Layout)] == []


def test_the_facts_of_a_model_that_is_int4_already_say_what_is() -> None:
    model = nn.Sequential(nn.Linear(64, 96), nn.Linear(96, 64))
    wb.quantize_(model, wb.Int4WeightOnlyConfig(group_size=32))
    facts = {fact.label: fact for fact in facts_of(open_session(model).coverage)}
    assert facts["Int4 layers"].value == "2" and "already" in facts["In int4"].hint
    assert float(facts["In int4"].value.rstrip("%")) > 80

    mixed = nn.Sequential(nn.Linear(64, 96), nn.Linear(96, 64))
    wb.quantize_(mixed, wb.Int4WeightOnlyConfig(group_size=32), include="0")
    values = {fact.label: fact.value for fact in facts_of(open_session(mixed, recipe=Recipe()).coverage)}
    assert values["Int4 already"] == "1" and values["Weights"].startswith("1 of")


def test_what_one_thread_read_before_another_is_not_shown_after_it(app: Workbench, monkeypatch) -> None:
    """A thread that is held up between reading the session and showing it must not undo what came meanwhile."""
    reading, shown = threading.Event(), threading.Event()
    lines = iter(["older", "newer"])

    def line() -> str:
        found = next(lines)
        if found == "older":
            reading.set()
            shown.wait(0.2)  # what comes meanwhile has all the time to be shown first
        return found

    monkeypatch.setattr(app.session.verdict, "line", line)
    event = Event("verdict", app.session.verdict)
    first = threading.Thread(target=app._on_event, args=(event,))
    first.start()
    assert reading.wait(10)
    app._on_event(event)
    shown.set()
    first.join(10)
    assert app.layers.verdict.verdict == "newer"
