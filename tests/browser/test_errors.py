"""Errors in a real JupyterLab: comparison, histograms, dots of all layers and zoomed parts, linked both ways."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from notebook_page import NotebookPage, wait_for
from playwright.sync_api import expect
from readable import expect_readable
from shared_lab import SharedLab

UP = "model.layers.0.mlp.up_proj"
CELL = """
import torch
import workbench as wb
from torch import nn
app = wb.Workbench()
app
"""
LARGE = """
large = wb.Workbench(nn.Sequential(nn.Linear(512, 3000)))
large.errors
"""


@pytest.fixture(scope="module")
def lab(shared_lab: SharedLab) -> Iterator[NotebookPage]:
    """The app on the demo model, and one heatmap of a larger layer; the tests below share them in their order."""
    with shared_lab.lend([CELL, LARGE], 1400, 3200) as lab:
        expect(lab.page.locator(".wb-app .wb-heat canvas")).to_have_attribute("data-seq", re.compile(r"\d+"))
        yield lab


def test_the_first_paint_counts_weights_levels_and_errors(lab: NotebookPage) -> None:
    weights, errors = (lab.page.locator(".wb-app .wb-bars").nth(place) for place in (0, 1))
    expect(weights.locator(".wb-sub")).to_contain_text("65,536 weights, 16,384 levels")
    expect(weights.locator(".wb-outline")).to_have_count(1)
    expect(errors.locator(".wb-sub")).to_contain_text("rtn, float, group size 64")
    places = "all => all.slice(0, 2).map(one => one.getBoundingClientRect()).map(box => [box.y, box.width])"
    left, right = lab.page.locator(".wb-app .wb-bars").evaluate_all(places)  # at once: a part above may still grow
    assert left == right and left[1] > 500
    before = errors.locator(".wb-bar").get_attribute("d")
    errors.get_by_label("log counts").uncheck()
    expect(errors.locator(".wb-bar")).not_to_have_attribute("d", before or "")
    plot = weights.locator(".wb-plot-area")
    plot.focus()
    plot.press("ArrowRight")
    expect(weights.locator("[aria-live]")).to_have_text(re.compile(r"[\d,]+ weights \(.*%\), .* to .*, density"))
    plot.press("Escape")


def test_dots_fill_with_the_sweep_and_a_click_puts_a_layer_on_show(lab: NotebookPage) -> None:
    dots = lab.page.locator(".wb-app .wb-dots")
    expect(dots.locator(".wb-dot-mark[data-layer]")).to_have_count(1)
    lab.page.get_by_role("button", name="Measure all layers", exact=True).click()
    expect(dots.locator(".wb-dot-mark[data-layer]")).to_have_count(42, timeout=60_000)
    expect(dots.locator(".wb-sub")).to_have_text("42 of 42 int4 layers solved under this recipe")
    dots.locator(f".wb-dot-mark[data-layer='{UP}']").click()
    expect(lab.page.locator(".wb-app .wb-heat .wb-title")).to_have_text(UP)
    expect(dots.locator(f".wb-current[data-layer='{UP}']")).to_have_count(1)
    expect(lab.page.locator(".wb-app .wb-micro .wb-sub")).to_contain_text(UP)
    expect(lab.page.locator(".wb-app .wb-bars .wb-sub").first).to_contain_text(UP)
    lab.page.mouse.move(0, 0)
    plot = dots.locator(".wb-plot-area")
    plot.focus()
    plot.press("ArrowRight")
    expect(dots.locator("[aria-live]")).to_have_text(re.compile(rf"0\.\d+, {UP}"))
    plot.press("ArrowRight")
    expect(dots.locator("[aria-live]")).to_have_text(re.compile(r"0\.\d+, model\.layers\.0\."))
    plot.press("Enter")
    expect(lab.page.locator(".wb-app .wb-heat .wb-title")).not_to_have_text(UP)
    lab.page.locator(f".wb-app [data-name='{UP}']").first.click()
    expect(dots.locator(f".wb-current[data-layer='{UP}']")).to_have_count(1)


def test_a_beside_b_opens_groups_and_follows_the_microscope(lab: NotebookPage) -> None:
    compare = lab.page.locator(".wb-app .wb-compare")
    expect(compare.locator(".wb-empty")).to_contain_text("Pin the present settings as A")
    lab.page.get_by_role("button", name="Pin as A", exact=True).click()
    lab.page.locator(".wb-app").get_by_role("slider", name="Group size").press("ArrowRight")
    expect(compare.locator("figcaption").nth(1)).to_contain_text("group size 128")
    expect(compare.locator("figcaption").first).to_contain_text("group size 64")
    dots = lab.page.locator(".wb-app .wb-dots")
    expect(dots.locator(".wb-dot-mark[data-layer]")).to_have_count(1)
    expect(dots.locator(".wb-sub")).to_have_text("1 of 42 int4 layers solved under this recipe")
    expect(lab.page.locator(".wb-app .wb-verdict", has_text="A is better")).to_be_visible()
    left = compare.locator("canvas[data-side=a]")
    left.click(position={"x": 10, "y": 100})
    micro = lab.page.locator(".wb-app .wb-micro .wb-sub")
    expect(compare.locator(".wb-mark-selected")).to_have_count(3)
    expect(micro).to_contain_text("group 0 · in_features 0–127")
    left.press("ArrowDown")
    left.press("+")
    expect(compare.get_by_role("button", name="Reset view")).to_be_enabled()
    left.press("0")
    lab.page.locator(".wb-app").get_by_role("slider", name="Group size").press("ArrowLeft")
    expect(lab.page.locator(".wb-app .wb-verdict", has_text="A and B store the same error")).to_be_visible()
    expect(compare.locator(".wb-value b").last).to_have_text("B − A 0")


def test_units_are_switched_and_sqnr_says_what_is_low(lab: NotebookPage) -> None:
    panel = lab.page.locator(".wb-app")
    panel.get_by_label("Show", exact=True).select_option(label="MSE")
    panel.get_by_role("radio", name="relative", exact=True).click(force=True)
    expect(panel.get_by_label("Show", exact=True).locator("option:checked")).to_have_text("SQNR in dB")
    expect(panel.locator(".wb-heat summary")).to_have_text("Lowest cells")
    panel.get_by_label("Show", exact=True).select_option(label="RMS error")
    expect(panel.locator(".wb-heat summary")).to_have_text("Largest cells")


def test_a_zoom_brings_every_cell_with_its_exact_value(lab: NotebookPage) -> None:
    view = lab.page.locator(".wb-heat").last
    expect(view.locator(".wb-sub")).to_contain_text("max of 6 rows")
    canvas = view.locator("canvas").first
    canvas.click(position={"x": 60, "y": 100})
    for _ in range(6):
        canvas.press("+")
    expect(canvas).to_have_attribute("data-block", re.compile(r"\d+,\d+,\d+,\d+"))
    expect(view.locator(".wb-sub")).to_contain_text("in view: every cell, exact values")
    box = canvas.bounding_box()
    assert box is not None
    canvas.click(position={"x": box["width"] / 2, "y": box["height"] / 2})
    one_cell = re.compile(r"([\d.]+) RMS error.*output feature (\d+) · group (\d+)", re.DOTALL)
    shown = wait_for(view.locator(".wb-value").inner_text, lambda text: one_cell.search(text) is not None)
    value, row, group = one_cell.findall(shown)[0]
    code = f"""
from workbench.measure.group_errors import group_errors
held = large.session._cache.get("0", large.session.resolved())
print(float(group_errors(held.weight, held.quantized)[{row}, {group}]))
"""
    assert float(value) == pytest.approx(float(lab.run_code(code)), rel=1e-5)
    # The very cell, not the worst of its block.
    lab.expect_output("large.wait(); print(*large.session.microscope.group)", f"{row} {group}")
    canvas.press("0")
    expect(canvas).to_have_attribute("data-block", "")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_they_are_readable_and_fit(lab: NotebookPage, theme: str) -> None:
    lab.set_theme(theme)
    for name in ("compare", "bars", "dots"):
        view = lab.page.locator(f".wb-app .wb-{name}").first
        expect_readable(view, theme)
        lab.screenshot(f"errors-app-{theme}", ".wb-app")
        lab.screenshot(f"errors-{name}-{theme}", f".wb-app .wb-{name} >> nth=0")
