"""The whole walk in a real JupyterLab: pick a layer, change settings, see, measure, export; then load and generate."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from notebook_page import PROJECT, LabServer, NotebookPage, show_tab
from playwright.sync_api import Locator, Page, expect
from readable import expect_readable
from safetensors.torch import load_file, save_file
from shared_lab import SharedLab

from workbench.demo import demo_path

LAYER = "model.layers.2.mlp.down_proj"
PIXELS = """canvas => {
    const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let hash = 0;
    for (const value of data) hash = (31 * hash + value) >>> 0;
    return hash;
}"""
TAB_OF = {"Measure speed": "Speed", "Export checkpoint": "Export", "Copy as Python": "Export"}
GENERATE = """
import json, sys
import workbench.hf
from transformers import AutoModelForCausalLM, AutoTokenizer
folder = sys.argv[1]
model = AutoModelForCausalLM.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
ids = tokenizer("The module provides", return_tensors="pt")
tokens = model.generate(**ids, max_new_tokens=24, do_sample=False)
kinds = sorted({type(m).__name__ for m in model.modules() if "Linear" in type(m).__name__})
print(json.dumps({"text": tokenizer.decode(tokens[0], skip_special_tokens=True), "kinds": kinds}))
"""


@pytest.fixture(scope="module")
def lab(new_page: Callable[..., Page], lab_server: LabServer) -> Iterator[NotebookPage]:
    """The shipped notebook, run; the tests below walk through it in their order."""
    page = new_page(1440, 1000)
    lab = NotebookPage(page, lab_server)
    lab.open_notebook(PROJECT / "notebooks" / "01_workbench.ipynb")
    lab.collapse_sidebar()
    lab.run_all()
    expect(page.locator(".wb-heat canvas")).to_have_attribute("data-seq", re.compile(r"\d+"))
    yield lab
    assert lab.errors == []
    page.context.close()


@pytest.fixture
def canvas(lab: NotebookPage) -> Locator:
    return lab.page.locator(".wb-heat canvas")


@pytest.fixture(autouse=True)
def first_tab(request: pytest.FixtureRequest) -> None:
    """Each test of the walk begins where the layers are."""
    if "lab" in request.fixturenames:
        show_tab(request.getfixturevalue("lab").page, "Layers and errors")


def press(lab: NotebookPage, name: str) -> None:
    if name in TAB_OF:
        show_tab(lab.page, TAB_OF[name])
    lab.page.get_by_role("button", name=name, exact=True).click()


def job(lab: NotebookPage) -> Locator:
    return lab.page.locator(".wb-status")


def fact(lab: NotebookPage, name: str) -> Locator:
    return lab.page.locator(f".wb-fact[data-fact='{name}']")


def speed(lab: NotebookPage) -> Locator:
    return lab.page.locator(".wb-chart", has_text="Speedup of int4")


def after(lab: NotebookPage, canvas: Locator, act: Callable[[], None]) -> int:
    """Do something and wait for the exact heatmap that follows; return a hash of its pixels."""
    before = int(canvas.get_attribute("data-seq") or 0)
    act()
    lab.page.wait_for_function(
        "before => Number(document.querySelector('.wb-heat canvas').dataset.seq) > before", arg=before
    )
    expect(lab.page.locator(".wb-heat .wb-badge")).to_have_text("exact")
    return int(canvas.evaluate(PIXELS))


def test_the_first_view_shows_coverage_and_an_exact_heatmap(lab: NotebookPage) -> None:
    expect(lab.page.locator(".wb-heat .wb-title")).to_have_text("model.layers.0.self_attn.q_proj")
    expect(lab.page.locator(".wb-heat .wb-badge")).to_have_text("exact")
    expect(fact(lab, "Weights")).to_contain_text("42 of 57")
    expect(lab.page.locator(".wb-app-header .wb-verdict")).to_contain_text(re.compile(r"11\.54 MB → 4\.\d\d MB"))
    expect(lab.page.locator(".wb-heat .wb-busy")).to_be_hidden()
    notes = lab.page.locator(".wb-app-header summary", has_text="notes")
    notes.press("Enter")
    expect(lab.page.get_by_text("lm_head dense: tied to model.embed_tokens")).to_be_visible()
    notes.press("Enter")
    expect(lab.page.locator(".wb-form li", has_text="zero_point_domain: NONE (auto) → float")).to_be_visible()


def test_a_click_picks_a_layer(lab: NotebookPage, canvas: Locator) -> None:
    lab.page.get_by_role("searchbox").fill("layers.2.mlp")
    after(lab, canvas, lambda: lab.page.locator(f"[data-name='{LAYER}']").click())
    lab.page.get_by_role("searchbox").fill("")
    expect(lab.page.locator(".wb-heat .wb-title")).to_have_text(LAYER)
    expect(lab.page.locator(".wb-heat .wb-sub")).to_contain_text("256 output features × 12 groups")
    lab.expect_output("print(app.selection, app.session.current)", f"['{LAYER}'] {LAYER}")


def test_the_slider_changes_the_group_size_and_the_heatmap(lab: NotebookPage, canvas: Locator) -> None:
    slider = lab.page.get_by_role("slider", name="Group size")
    at_64 = canvas.evaluate(PIXELS)
    at_128 = after(lab, canvas, lambda: slider.press("ArrowRight"))
    expect(lab.page.locator(".wb-heat .wb-sub")).to_contain_text("256 output features × 6 groups")
    expect(lab.page.locator(".wb-heat .wb-axis-name", has_text="group of 128")).to_be_visible()
    slider.press("ArrowLeft")
    slider.press("ArrowLeft")  # two moves, of which the first may be painted too: wait for the second
    expect(lab.page.locator(".wb-heat .wb-sub")).to_contain_text("24 groups")
    at_32 = canvas.evaluate(PIXELS)
    assert len({at_64, at_128, at_32}) == 3
    lab.expect_output("print(app.recipe.default.config.group_size)", "32")
    expect(fact(lab, "Bits per weight").last).to_contain_text("5.00")


def test_fast_moves_end_at_the_newest_setting(lab: NotebookPage, canvas: Locator) -> None:
    slider = lab.page.get_by_role("slider", name="Group size")
    slider.focus()
    for key in ("End", "Home", "End", "Home", "ArrowRight"):
        lab.page.keyboard.press(key)
    expect(lab.page.locator(".wb-heat .wb-sub")).to_contain_text("12 groups")
    expect(slider).to_have_attribute("aria-valuetext", "64")
    lab.page.wait_for_timeout(300)
    expect(lab.page.locator(".wb-heat .wb-sub")).to_contain_text("12 groups")


def test_hqq_is_better_than_round_to_nearest_and_says_so(lab: NotebookPage, canvas: Locator) -> None:
    after(lab, canvas, lambda: lab.page.get_by_role("radio", name="hqq", exact=True).click(force=True))
    expect(fact(lab, "Mean |error|")).to_contain_text(re.compile(r"0\.\d+× round-to-nearest"))
    expect(fact(lab, "Mean |error|")).to_have_attribute("data-tone", "good")
    expect(lab.page.locator(".wb-facts li", has_text="float zero point, hqq")).to_be_visible()


def test_a_domain_that_contradicts_is_refused_and_the_control_goes_back(lab: NotebookPage) -> None:
    lab.page.get_by_role("radio", name="symmetric").click(force=True)
    problem = lab.page.locator(".wb-problem-list")
    expect(problem).to_contain_text("the symmetric domain has none")
    expect(problem).to_contain_text("To mend it")
    expect(lab.page.get_by_role("radio", name="auto").first).to_be_checked()
    press(lab, "Dismiss")
    expect(lab.page.locator(".wb-problem-list")).to_be_hidden()


def test_a_layer_of_its_own_and_one_left_dense(lab: NotebookPage, canvas: Locator) -> None:
    lab.page.get_by_role("radio", name="this layer").click(force=True)
    after(lab, canvas, lambda: lab.page.get_by_role("radio", name="int", exact=True).click(force=True))
    expect(lab.page.locator(".wb-facts li", has_text="int zero point, hqq, 0 is kept exact")).to_be_visible()
    lab.expect_output("print(app.recipe.rules[0].pattern)", LAYER)
    lab.page.get_by_role("switch", name="Quantize to int4").click()
    expect(fact(lab, "Weights")).to_contain_text("41 of 57")
    expect(lab.page.locator(".wb-form li", has_text=f"{LAYER} stays dense")).to_be_visible()
    press(lab, "Undo")
    expect(fact(lab, "Weights")).to_contain_text("42 of 57")


def test_another_metric(lab: NotebookPage, canvas: Locator) -> None:
    errors = canvas.evaluate(PIXELS)
    weights = after(
        lab, canvas, lambda: lab.page.get_by_label("Show", exact=True).select_option(label="original weight")
    )
    expect(lab.page.locator(".wb-heat .wb-sub")).to_contain_text("768")
    assert weights != errors
    after(lab, canvas, lambda: lab.page.get_by_label("Show", exact=True).select_option(label="RMS error"))


def test_all_layers_are_measured_with_progress(lab: NotebookPage) -> None:
    press(lab, "Measure all layers")
    expect(job(lab)).to_have_attribute("data-state", "done", timeout=60_000)
    expect(job(lab)).to_contain_text("Errors of all layers")
    lab.expect_output("print(len(app.session.errors))", "42")
    row = lab.page.locator("[data-name='model.layers.0.mlp.up_proj'] .wb-error")
    expect(row).to_have_text(re.compile(r"0\.\d+"))


def test_speed_is_measured_live(lab: NotebookPage) -> None:
    press(lab, "Measure speed")
    ours = speed(lab).locator("path.wb-point[data-series=int4]")
    expect(ours.first).to_be_visible(timeout=30_000)
    expect(job(lab)).to_have_attribute("data-state", "done", timeout=90_000)
    expect(ours).to_have_count(6)
    expect(lab.page.locator(".wb-verdict", has_text="dense bfloat16")).to_be_visible()
    expect(fact(lab, "Memory")).to_contain_text("GB/s")
    expect(speed(lab).locator(".wb-sub")).to_contain_text("threads, torch")
    pieces = speed(lab).locator(".wb-ribbon")
    expect(pieces.first).to_have_attribute("data-from", "1")
    expect(pieces.last).to_have_attribute("data-to", "1024")


def test_the_speed_chart_is_read_with_the_keyboard_and_shows_times_and_the_roofline(lab: NotebookPage) -> None:
    show_tab(lab.page, "Speed")
    plot = speed(lab).locator(".wb-lines")
    plot.focus()
    plot.press("ArrowRight")
    spoken = speed(lab).locator("[aria-live]")
    expect(spoken).to_have_text(re.compile(r"batch size .* 1, path: \w+, .*int4 [\d.]+×.*% of roofline"))
    expect(plot).to_have_attribute("aria-label", re.compile(r"path: \w+ (at|from) 1"))
    lab.page.get_by_role("radio", name="time", exact=True).check()
    chart = lab.page.locator(".wb-chart", has_text="Time of a call")
    expect(chart.locator("path.wb-point[data-series=dense]")).to_have_count(6)
    chart.locator("summary").click()
    expect(chart.locator("tr", has_text="path").locator("td")).to_have_count(6)
    chart.locator("summary").click()
    lab.page.get_by_role("radio", name="roofline", exact=True).check()
    expect(lab.page.locator(".wb-chart .wb-reference-name", has_text="roofline")).to_be_visible()
    lab.page.get_by_role("radio", name="float16", exact=True).check()
    expect(lab.page.get_by_text("float16 is not measured yet: press Measure speed.")).to_be_visible()
    lab.page.get_by_role("radio", name="bfloat16", exact=True).check()
    lab.page.get_by_role("radio", name="speedup", exact=True).check()
    expect(speed(lab).locator("path.wb-line.wb-bound")).to_have_count(1)


def test_a_measurement_is_cancelled_at_once(lab: NotebookPage) -> None:
    press(lab, "Measure speed")
    expect(job(lab)).to_have_attribute("data-state", "running")
    press(lab, "Cancel")
    expect(job(lab)).to_have_attribute("data-state", "cancelled", timeout=10_000)
    expect(lab.page.get_by_role("button", name="Cancel", exact=True)).to_have_count(0)
    press(lab, "Measure speed")
    expect(job(lab)).to_have_attribute("data-state", "running")
    press(lab, "Stop measuring")
    expect(job(lab)).to_have_attribute("data-state", "cancelled", timeout=10_000)
    expect(lab.page.get_by_role("button", name="Measure speed", exact=True)).to_be_enabled()


def test_an_export_is_written_verified_and_generates_in_a_new_process(lab: NotebookPage, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("export") / "int4"
    show_tab(lab.page, "Export")
    lab.page.get_by_label("Directory").fill(str(folder))
    lab.page.get_by_label("Directory").press("Tab")
    press(lab, "Export checkpoint")
    expect(fact(lab, "Verified")).to_contain_text("yes", timeout=60_000)
    shown = lab.page.locator(".wb-facts li", has_text="Sample:").inner_text().removeprefix("Sample: ")
    made = subprocess.run(
        [sys.executable, "-c", GENERATE, str(folder)], capture_output=True, text=True, check=True, cwd=folder.parent
    )
    answer = json.loads(made.stdout.strip().splitlines()[-1])
    assert answer["text"].startswith("The module provides") and len(answer["text"].split()) > 6
    assert " ".join(answer["text"].split()) == " ".join(shown.split())
    assert answer["kinds"] == ["Int4Linear", "Linear"]
    assert subprocess.run([sys.executable, "-m", "workbench", "verify", str(folder)], check=False).returncode == 0
    lab.screenshot("walk-exported")
    press(lab, "Export checkpoint")
    expect(lab.page.locator(".wb-problem-list")).to_contain_text("exists and is not empty")
    expect(job(lab)).to_have_attribute("data-state", "failed")
    press(lab, "Dismiss")


def test_the_recipe_as_python(lab: NotebookPage) -> None:
    press(lab, "Copy as Python")
    code = lab.page.locator(".wb-code", has_text="import workbench as wb")
    expect(code).to_contain_text("wb.quantize_(model, recipe)")


def test_the_figure_for_a_report_is_drawn(lab: NotebookPage) -> None:
    plot = lab.page.locator(".js-plotly-plot")
    plot.scroll_into_view_if_needed()
    expect(plot.get_by_text("256 output features × 4 groups")).to_be_visible(timeout=30_000)
    box = plot.bounding_box()
    assert box is not None and box["height"] > 300
    lab.page.locator(".wb-app").scroll_into_view_if_needed()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_whole_view_is_readable(lab: NotebookPage, theme: str) -> None:
    lab.set_theme(theme)
    lab.page.set_viewport_size({"width": 1440, "height": 2200})
    lab.page.locator(".wb-layers .wb-body").evaluate("body => { body.scrollTop = 0 }")
    lab.settle()
    expect_readable(lab.page.locator(".wb"), theme)
    lab.screenshot(f"walk-{theme}", ".wb-app")
    lab.screenshot(f"walk-page-{theme}")


def test_a_narrow_page_stacks_the_panels(lab: NotebookPage) -> None:
    lab.set_theme("light")
    lab.page.set_viewport_size({"width": 800, "height": 2600})
    lab.settle()
    app = lab.page.locator(".wb-app")
    places = "app => ['.wb-layers', '.wb-heat'].map(part => app.querySelector(part).getBoundingClientRect())"
    layers, heat = app.evaluate(places)  # at once: a part above may still grow
    assert heat["top"] > layers["bottom"]
    expect_readable(app)
    lab.screenshot("walk-narrow", ".wb-app")


class TestBadInput:
    """Each in a notebook of its own cells: a clear line, and the rest stays usable."""

    @pytest.fixture
    def broken(self, lab_server: LabServer) -> Path:
        """A copy of the demo model with a NaN in one layer."""
        folder = lab_server.root / "broken"
        folder.mkdir(exist_ok=True)
        for file in demo_path().glob("*.json"):
            (folder / file.name).write_bytes(file.read_bytes())
        tensors = load_file(demo_path() / "model.safetensors")
        tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = torch.nan
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    @pytest.fixture
    def notebook(self, request: pytest.FixtureRequest, shared_lab: SharedLab) -> Iterator[NotebookPage]:
        """The app on the demo model, or on the copy where the test asks for it."""
        model = repr(str(request.getfixturevalue("broken"))) if "broken" in request.fixturenames else ""
        with shared_lab.lend([f"import workbench as wb\napp = wb.Workbench({model})\napp"]) as notebook:
            yield notebook

    def test_a_nan_weight_is_named_and_other_layers_still_work(self, notebook: NotebookPage, broken: Path) -> None:
        page = notebook.page
        expect(page.locator(".wb-heat canvas")).to_have_attribute("data-seq", re.compile(r"\d+"))
        page.locator(".wb-layers").get_by_role("searchbox").fill("layers.1.mlp")
        page.locator("[data-name='model.layers.1.mlp.up_proj']").click()
        problem = page.locator(".wb-problem-list")
        expect(problem).to_contain_text("model.layers.1.mlp.up_proj[3, 5] is nan")
        expect(page.locator(".wb-heat .wb-empty")).to_contain_text("[3, 5] is nan")
        page.locator("[data-name='model.layers.1.mlp.down_proj']").click()
        expect(page.locator(".wb-heat .wb-title")).to_have_text("model.layers.1.mlp.down_proj")
        expect(page.locator(".wb-heat .wb-empty")).to_be_hidden()
        show_tab(page, "Export")
        page.get_by_role("button", name="Export checkpoint", exact=True).click()
        expect(page.locator(".wb-job")).to_have_text(re.compile(r"Export to exports/int4\s*failed"), timeout=30_000)
        assert not (notebook.server.root / "exports").exists() or not any((notebook.server.root / "exports").iterdir())
        notebook.screenshot("walk-problem")

    def test_a_full_disk_is_said_under_the_view_and_nothing_is_left(self, notebook: NotebookPage) -> None:
        page, place = notebook.page, notebook.server.root / "full"
        show_tab(page, "Export")
        page.get_by_label("Directory").fill("full/int4")
        page.get_by_label("Directory").press("Tab")
        notebook.run_code(
            "import shutil\nreal = shutil.disk_usage\nshutil.disk_usage = lambda _: real('.')._replace(free=0)"
        )
        page.get_by_role("button", name="Export checkpoint", exact=True).click()
        expect(page.locator(".wb-problem-list")).to_contain_text("free", timeout=30_000)
        expect(page.locator(".wb-problem-list")).to_contain_text("To mend it")
        assert not place.exists()
        notebook.run_code("shutil.disk_usage = real")
        page.get_by_role("button", name="Export checkpoint", exact=True).click()
        expect(page.locator("[data-fact=Verified]")).to_contain_text("yes", timeout=60_000)
        assert [path.name for path in place.iterdir()] == ["int4"]

    @pytest.fixture(scope="class")
    def kernel(self, shared_lab: SharedLab, lab_server: LabServer) -> Iterator[NotebookPage]:
        """A notebook that has imported the workbench, beside folders that are no models."""
        weights = (demo_path() / "model.safetensors").read_bytes()
        for name, content in (("cut", weights[:200_000]), ("text", b"not a safetensors file"), ("bare", None)):
            folder = lab_server.root / name
            folder.mkdir()
            (folder / "config.json").write_bytes((demo_path() / "config.json").read_bytes())
            if content is not None:
                (folder / "model.safetensors").write_bytes(content)
        with shared_lab.lend(["import workbench as wb"]) as kernel:
            yield kernel

    @pytest.mark.parametrize(
        ("code", "message"),
        [
            ("wb.Workbench('no/such/model/here')", "'no/such/model/here' does not exist"),
            ("wb.Workbench('.')", "has no config.json"),
            ("wb.Workbench('cut')", "model.safetensors' is no readable safetensors file"),
            ("wb.Workbench('text')", "model.safetensors' is no readable safetensors file"),
            ("wb.Workbench('bare')", "No safetensors weights in 'bare'"),
            ("wb.Int4WeightOnlyConfig(group_size=48)", "Allowed: 256, 128, 64 or 32"),
            ("wb.preflight('demo', include='q_prj')", "did you mean"),
        ],
    )
    def test_an_error_is_one_clear_line(self, kernel: NotebookPage, code: str, message: str) -> None:
        with pytest.raises(AssertionError) as raised:
            kernel.run_code(code)
        text = str(raised.value)
        assert message in text and "To mend it" in text
        assert "Traceback" not in text and text.count("\n") <= 1
