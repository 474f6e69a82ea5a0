"""Long work in a real JupyterLab on a small model: the kernel stays free; Cancel, Resume, Improve, the saved report."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from notebook_page import NotebookPage, show_tab
from playwright.sync_api import expect
from shared_lab import SharedLab

# Weights are read only while the gate is open, so that work lasts for as long as a test looks at it.
CELL = """
import threading
import workbench as wb
from tests.tiny_models import make
app = wb.Workbench(make("qwen2"))
gate, read = threading.Event(), app.session.source.weight
gate.set()
app.session.source.weight = lambda name: gate.wait(60) and read(name)
app
"""


@pytest.fixture(scope="module")
def lab(shared_lab: SharedLab) -> Iterator[NotebookPage]:
    """The app on a small model; the tests below go on from one another."""
    with shared_lab.lend([CELL]) as lab:
        expect(lab.page.locator(".wb-heat canvas").first).to_have_attribute("data-seq", re.compile(r"\d+"))
        yield lab


def test_a_cell_runs_while_long_work_does_and_cancel_is_told_before_it_has_stopped(lab: NotebookPage) -> None:
    job = lab.page.locator(".wb-job")
    lab.run_code("app.wait(); gate.clear()")
    lab.page.get_by_role("button", name="Measure all layers").click()
    expect(job).to_have_text(re.compile("Errors of all layers *running"))
    lab.expect_output("print(6 * 7)", "42")
    expect(job).to_have_text(re.compile("running"))
    lab.page.get_by_role("button", name="Cancel", exact=True).click()
    expect(job).to_have_text(re.compile("cancelling: stops after this step"))
    lab.run_code("gate.set()")
    expect(job).to_have_text(re.compile("cancelled"))
    resume = lab.page.get_by_role("button", name="Resume")
    expect(resume).to_have_attribute("title", "Go on with Errors of all layers")
    resume.press("Enter")
    expect(job).to_have_text(re.compile("Errors of all layers *done"))
    expect(resume).to_have_count(0)


def test_improve_says_what_it_changed_and_takes_it_back(lab: NotebookPage) -> None:
    before = lab.run_code("print(app.recipe)")
    lab.page.get_by_role("button", name="Improve", exact=True).press("Enter")
    changes = lab.page.get_by_role("region", name="Improve: what changed")
    expect(changes).to_contain_text("at the same size", timeout=60_000)
    expect(changes.locator(".wb-badge")).to_have_text(re.compile(r"\d+% less error"))
    expect(changes.locator("tbody tr").first).to_contain_text("proj")
    assert lab.run_code("print(app.recipe)") != before
    changes.get_by_role("button", name="Undo").click()
    expect(changes.get_by_role("button", name="Undo")).to_be_disabled()
    lab.expect_output("print(app.recipe)", before)
    changes.get_by_role("button", name="Dismiss").click()
    expect(changes).to_be_hidden()


def test_the_report_is_saved_from_the_keyboard_and_what_keeps_it_from_that_is_said_in_place(lab: NotebookPage) -> None:
    show_tab(lab.page, "Export")
    path = lab.page.get_by_label("Report file")
    path.fill("no/such/report.html")
    path.press("Tab")
    save = lab.page.get_by_role("button", name="Save report")
    expect(save).to_be_focused()
    save.press("Enter")
    expect(lab.page.locator(".wb-form", has=path)).to_contain_text("make the folder")
    path.fill("report.html")
    save.press("Enter")
    panel = lab.page.locator(".wb-facts", has_text="Saved as report.html")
    written = lab.server.root / "report.html"
    expect(panel).to_contain_text(str(written), timeout=30_000)
    assert written.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    show_tab(lab.page, "Layers and errors")


def test_a_format_that_refuses_is_made_to_fit_and_written_by_keyboard(lab: NotebookPage) -> None:
    show_tab(lab.page, "Export")
    table = lab.page.get_by_role("table", name="Format")
    rows = {name: table.locator(f"tr[data-format='{name}']") for name in ("native", "mlx", "compressed-tensors")}
    expect(rows["native"]).to_contain_text("exact")
    expect(rows["compressed-tensors"]).to_contain_text("refused")
    rows["native"].get_by_role("radio").focus()
    lab.page.keyboard.press("ArrowDown")  # the radio buttons are one group
    expect(rows["compressed-tensors"].get_by_role("radio")).to_be_checked()
    expect(lab.page.get_by_role("button", name="Export checkpoint", exact=True)).to_be_disabled()
    lab.page.get_by_role("button", name="Make the recipe fit").press("Enter")
    expect(rows["compressed-tensors"]).to_contain_text("exact", timeout=30_000)
    for theme in ("light", "dark"):
        lab.set_theme(theme)
        lab.screenshot(f"export-formats-{theme}")
    lab.set_theme("light")
    directory = lab.page.get_by_label("Directory")
    directory.fill("packed")
    directory.press("Tab")
    lab.page.get_by_role("button", name="Export checkpoint", exact=True).press("Enter")
    panel = lab.page.locator(".wb-facts", has_text="Exported to packed")
    expect(panel).to_contain_text("no weight changed", timeout=30_000)
    expect(panel).to_contain_text("from_pretrained('packed'")
    assert (lab.server.root / "packed" / "int4_export.json").is_file()
