"""The solvers in a real JupyterLab: settings, convergence, calibration text, sweep and export, and how it all looks."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from notebook_page import NotebookPage, show_tab
from playwright.sync_api import Locator, expect
from readable import expect_readable
from shared_lab import SharedLab

CELL = """
import workbench as wb
app = wb.Workbench()
app
"""


@pytest.fixture(scope="module")
def lab(shared_lab: SharedLab) -> Iterator[NotebookPage]:
    """The app over the demo model; the tests below walk through it in their order."""
    with shared_lab.lend([CELL], 1440, 1000) as lab:
        expect(lab.page.locator(".wb-heat .wb-badge")).to_have_text("exact")
        yield lab


def choose(lab: NotebookPage, solver: str) -> None:
    lab.page.get_by_role("radio", name=solver, exact=True).click(force=True)


def convergence(lab: NotebookPage) -> Locator:
    return lab.page.locator(".wb-chart").first


def fact(lab: NotebookPage, name: str) -> Locator:
    return lab.page.locator(f".wb-fact[data-fact='{name}']")


def calibration(lab: NotebookPage) -> Locator:
    return lab.page.locator(".wb-form", has=lab.page.get_by_label("Text like what the model will read"))


def job(lab: NotebookPage) -> Locator:
    return lab.page.locator(".wb-status")


def test_round_to_nearest_has_nothing_to_converge(lab: NotebookPage) -> None:
    expect(convergence(lab)).to_contain_text("there is nothing to converge")
    expect(lab.page.get_by_label("Error norm")).to_have_count(0)
    expect(calibration(lab)).to_be_hidden()


def test_refined_changes_error_and_convergence(lab: NotebookPage) -> None:
    before = fact(lab, "MSE").inner_text()
    choose(lab, "refined")
    expect(fact(lab, "MSE")).to_contain_text(re.compile(r"0\.8\d+× round-to-nearest"))
    expect(fact(lab, "MSE")).not_to_have_text(before)
    expect(convergence(lab).locator(".wb-title")).to_have_text("Convergence: refined")
    expect(convergence(lab).locator(".wb-sub")).to_contain_text(
        re.compile(r"1,0\d\d of 1,024 groups better than round-to-nearest")
    )
    expect(convergence(lab).locator("path.wb-point[data-series=refined]").first).to_be_visible()


def test_the_settings_unfold_and_a_bad_value_is_put_back(lab: NotebookPage) -> None:
    choose(lab, "hqq")
    expect(convergence(lab).locator("path.wb-point[data-series=hqq]")).to_have_count(21)
    lab.page.get_by_text("More settings").click()
    norm = lab.page.get_by_label("Error norm p")
    expect(norm).to_have_value("0.7")
    for bad, said in (("3", "lp_norm=3"), ("many", "'many'"), ("", "a finite number")):
        norm.fill(bad)
        norm.press("Enter")
        expect(lab.page.locator(".wb-problem-list")).to_contain_text(said)
        expect(norm).to_have_value("0.7")
    lab.page.get_by_role("button", name="Dismiss").click()
    steps = lab.page.get_by_label("Most iterations")
    steps.fill("4")
    steps.press("Enter")
    expect(convergence(lab).locator("path.wb-point[data-series=hqq]")).to_have_count(5)
    expect(lab.page.get_by_text("hqq, iters 4", exact=True)).to_be_visible()
    lab.expect_output("print(app.recipe.default.options.iters)", "4")
    lab.page.get_by_role("button", name="Undo", exact=True).click()
    expect(steps).to_have_value("20")


def test_calibrated_shows_its_text_and_ends_in_a_calibrated_view(lab: NotebookPage) -> None:
    choose(lab, "calibrated")
    expect(calibration(lab)).to_be_visible()
    expect(lab.page.locator(".wb-heat .wb-badge")).to_have_text("inputs of the dense model", timeout=60_000)
    expect(fact(lab, "Squared output error")).to_contain_text(re.compile(r"0\.\d+× round-to-nearest"))
    expect(fact(lab, "Squared output error")).to_have_attribute("data-tone", "good")
    expect(lab.page.locator(".wb-facts li", has_text="inputs of the dense model; an export takes")).to_be_visible()
    expect(convergence(lab).locator(".wb-title")).to_have_text("Convergence: calibrated")
    expect(convergence(lab).locator("text.wb-axis-name", has_text="mean squared output error")).to_be_visible()
    expect(job(lab)).to_contain_text("Inputs of the layers")
    expect(job(lab)).to_have_attribute("data-state", "done")
    expect(calibration(lab).locator(".wb-hint")).to_have_text("the demo model's own text")
    expect(fact(lab, "Used")).to_contain_text(re.compile(r"[\d,]+ tokens"))
    expect(lab.page.get_by_role("button", name="Use the demo text")).to_be_hidden()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_is_readable(lab: NotebookPage, theme: str) -> None:
    lab.set_theme(theme)
    lab.page.set_viewport_size({"width": 1440, "height": 3000})
    lab.settle()
    expect_readable(lab.page.locator(".wb:visible"), theme)
    lab.screenshot(f"solvers-{theme}", ".wb-app")
    lab.set_theme("light")


def test_a_narrow_page_holds_it(lab: NotebookPage) -> None:
    lab.page.set_viewport_size({"width": 800, "height": 3600})
    lab.settle()
    expect_readable(lab.page.locator(".wb-app"))
    lab.screenshot("solvers-narrow", ".wb-app")
    lab.page.set_viewport_size({"width": 1440, "height": 1000})


def test_a_long_text_is_shown_in_part_and_replaced_whole(lab: NotebookPage) -> None:
    area = calibration(lab).locator("textarea")
    expect(area).to_have_js_property("readOnly", True)
    expect(calibration(lab)).to_contain_text("the first 20,000 of")
    calibration(lab).get_by_role("button", name="Replace").click()
    expect(area).to_be_focused()
    area.fill("a few words")
    expect(calibration(lab)).to_contain_text("11 characters, not used yet")
    calibration(lab).get_by_role("button", name="Use this text").click()
    expect(calibration(lab).get_by_role("alert").first).to_contain_text("tokens are too few")
    expect(lab.page.locator(".wb-heat .wb-badge")).to_have_text("refined instead")
    expect(lab.page.locator(".wb-facts li", has_text="solved with refined instead of calibrated")).to_be_visible()
    lab.screenshot("solvers-short-text", ".wb-app-column >> nth=0")
    area.evaluate("area => { area.value = 'ab '.repeat(3e6); area.dispatchEvent(new Event('input')) }")
    expect(calibration(lab)).to_contain_text("too long for the page: put it into a file")
    expect(calibration(lab).get_by_role("button", name="Use this text")).to_be_disabled()
    text = "The module provides tools for text. " * 12_000
    area.fill(text)
    calibration(lab).get_by_role("button", name="Use this text").click()
    expect(calibration(lab)).to_contain_text("the first 20,000 of 432,000 characters are shown", timeout=30_000)
    expect(fact(lab, "Used")).to_contain_text("65,536 tokens", timeout=30_000)
    lab.expect_output("print(len(app.session.calibration.text))", "432000")
    assert lab.run_code("app.session.calibration.lane.cancel()") == ""


def test_a_file_is_read_or_said_to_be_missing(lab: NotebookPage) -> None:
    path = calibration(lab).get_by_label("or a text file")
    path.fill("nowhere.txt")
    path.press("Enter")
    expect(calibration(lab).get_by_role("alert").filter(has_text="cannot be read")).to_be_visible()
    corpus = lab.server.root / "corpus.txt"
    corpus.write_text("Functions of this module take a path and return a list. " * 400, encoding="utf-8")
    path.fill("corpus.txt")
    path.press("Enter")
    expect(calibration(lab).locator(".wb-hint")).to_have_text("corpus.txt")
    expect(lab.page.locator(".wb-heat .wb-badge")).to_have_text("inputs of the dense model", timeout=60_000)
    show_tab(lab.page, "Export")
    lab.page.get_by_role("button", name="Copy as Python").click()
    code = lab.page.locator(".wb-code", has_text="import workbench as wb")
    expect(code).to_contain_text("Path('corpus.txt').expanduser().read_bytes()")
    expect(code).to_contain_text("calibration=text, tokenizer=tokenizer")
    show_tab(lab.page, "Layers and errors")
    lab.page.get_by_role("button", name="Use the demo text").click()
    expect(calibration(lab).locator(".wb-hint")).to_have_text("the demo model's own text")


def test_collecting_inputs_can_be_cancelled_and_begun_again(lab: NotebookPage) -> None:
    lab.run_code(  # the text waits at the model's first block
        "import threading\n"
        "gate, first = threading.Event(), app.session.calibration.model.model.layers[0]\n"
        "hook = first.register_forward_pre_hook(lambda *_: gate.wait(60) and None)\n"
        "app.session.calibration.set_text(app.session.calibration.text[:40_000])"
    )
    lab.page.locator("[data-name='model.layers.0.self_attn.k_proj']").click()
    expect(lab.page.locator(".wb-heat .wb-badge")).to_have_text("refined for now", timeout=30_000)
    lab.page.get_by_role("button", name="Cancel", exact=True).click()
    lab.run_code("gate.set(); hook.remove()")
    lab.page.locator("[data-name='model.layers.0.self_attn.v_proj']").click()
    expect(lab.page.locator(".wb-heat .wb-title")).to_have_text("model.layers.0.self_attn.v_proj")
    expect(lab.page.locator(".wb-heat .wb-badge")).to_have_text("inputs of the dense model", timeout=60_000)


def test_the_progress_of_an_export_names_layer_and_solver(lab: NotebookPage) -> None:
    lab.run_code(
        "app.session.calibration.set_text(app.session.calibration.text[:6000])\n"
        "app.session.configure(options={'sweeps': 0, 'candidates': 2}, scope='all')\n"
        "labels = []\n"
        "app.session.listen(lambda e: e.kind == 'job' and e.data.progress and labels.append(e.data.progress.label))"
    )
    show_tab(lab.page, "Export")
    lab.page.get_by_label("Directory").fill("calibrated/int4")
    lab.page.get_by_label("Directory").press("Tab")
    lab.page.get_by_role("button", name="Export checkpoint", exact=True).click()
    expect(fact(lab, "Verified")).to_contain_text("yes", timeout=120_000)
    lab.expect_output("print(labels.count('model.layers.0.self_attn.q_proj, calibrated'))", "1")
    expect(lab.page.locator(".wb-facts li", has_text="Sample:")).to_be_visible()
