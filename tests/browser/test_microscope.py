"""The zero-point microscope in a real JupyterLab: a click in the heatmap opens a group, whose variants can be read."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import pytest
from notebook_page import NotebookPage, wait_for
from playwright.sync_api import Locator, expect
from readable import expect_readable
from shared_lab import SharedLab

ROWS, GROUPS = 256, 4  # of the demo model's first layer, in groups of 64


@pytest.fixture(scope="module")
def lab(shared_lab: SharedLab) -> Iterator[NotebookPage]:
    """The app on the demo model; the tests below share it in their order."""
    with shared_lab.lend(["import workbench as wb\napp = wb.Workbench()\napp"], 1280, 2600) as lab:
        expect(lab.page.locator(".wb-micro tr[data-variant]").first).to_be_visible()
        yield lab


@pytest.fixture
def view(lab: NotebookPage) -> Locator:
    return lab.page.locator(".wb-micro")


def click_cell(lab: NotebookPage, row: int, group: int) -> None:
    canvas = lab.page.locator(".wb-heat canvas")
    box = canvas.bounding_box()
    assert box is not None
    canvas.click(position={"x": (group + 0.5) / GROUPS * box["width"], "y": (row + 0.5) / ROWS * box["height"]})


def place(lab: NotebookPage) -> str:
    return lab.run_code("app.wait(); print(*app.session.microscope.group)")


def variant(view: Locator, name: str) -> Locator:
    return view.locator(f"tr[data-variant='{name}']")


def test_the_first_paint_shows_the_worst_group_and_every_variant(lab: NotebookPage, view: Locator) -> None:
    expect(view.locator(".wb-badge").first).to_have_text("worst group of the layer by RMS error")
    count = lab.run_code("app.wait(); print(len(app.session.microscope.latest.microscope.solved))")  # not the first few
    expect(view.locator("tr[data-variant]")).to_have_count(int(count))
    expect(variant(view, "float · rtn")).to_contain_text("in use")
    expect(variant(view, "float · rtn").locator(".wb-level")).to_have_count(16)
    expect(view.locator(".wb-missing li", has_text="hqq · symmetric")).to_be_visible()
    expect(view.locator(".wb-missing li", has_text="calibrated")).to_contain_text(
        "needs a text run through the model, for the layer's inputs"
    )
    row, group = place(lab).split()
    expect(view.get_by_label("Row", exact=True)).to_have_value(row)
    expect(view.get_by_label("Group", exact=True)).to_have_value(group)
    expect(lab.page.locator(".wb-heat .wb-mark-selected")).to_have_count(1)


def test_a_click_in_the_heatmap_opens_that_group(lab: NotebookPage, view: Locator) -> None:
    for row, group in ((20, 3), (200, 0)):
        click_cell(lab, row, group)
        where = f"output feature {row} · group {group} · in_features {64 * group}–{64 * group + 63}"
        expect(view.locator(".wb-sub")).to_contain_text(where)
        expect(view.get_by_label("Row", exact=True)).to_have_value(str(row))
        assert place(lab) == f"{row} {group}"


def test_arrows_and_fields_go_to_another_group_and_the_heatmap_follows(lab: NotebookPage, view: Locator) -> None:
    mark = lab.page.locator(".wb-heat .wb-mark-selected")
    before = mark.get_attribute("y") or ""
    view.get_by_role("button", name="Next group").click()
    expect(view.locator(".wb-sub")).to_contain_text("output feature 200 · group 1 ·")
    view.get_by_role("button", name="Previous group").click()
    view.get_by_role("button", name="Previous group").click()
    expect(view.locator(".wb-sub")).to_contain_text("output feature 199 · group 3 ·")
    field = view.get_by_label("Row", exact=True)
    field.fill("5")
    field.press("Enter")
    expect(view.locator(".wb-sub")).to_contain_text("output feature 5 · group 3 ·")
    for _ in range(3):
        field.press("ArrowUp")
    expect(view.locator(".wb-sub")).to_contain_text("output feature 8 · group 3 ·")
    expect(field).to_have_value("8")
    expect(mark).not_to_have_attribute("y", before)
    view.get_by_role("button", name="Look at the worst group").click()
    expect(view.locator(".wb-badge").first).to_have_text("worst group of the layer by RMS error")


def test_a_place_that_there_is_not_is_said_and_the_field_goes_back(lab: NotebookPage, view: Locator) -> None:
    click_cell(lab, 20, 3)
    expect(view.locator(".wb-sub")).to_contain_text("output feature 20 ·")
    field = view.get_by_label("Row", exact=True)
    field.fill("9999")
    field.press("Enter")
    expect(lab.page.locator(".wb-problem-list")).to_contain_text("The layer has no row 9999")
    expect(field).to_have_value("20")
    field.fill("")
    field.press("Enter")
    expect(field).to_have_value("20")
    lab.page.get_by_role("button", name="Dismiss", exact=True).click()


def test_pointing_at_a_variant_shows_where_its_weights_go(lab: NotebookPage, view: Locator) -> None:
    lens = view.locator(".wb-lens")
    expect(lens).to_have_attribute("data-shown", "float · rtn")
    expect(lens.locator(".wb-fan")).to_have_count(64)
    variant(view, "int · rtn").hover()
    expect(lens).to_have_attribute("data-shown", "int · rtn")
    expect(view.locator(".wb-reading")).to_contain_text("code of 0:")
    lab.page.mouse.move(0, 0)
    expect(lens).to_have_attribute("data-shown", "float · rtn")
    view.get_by_role("button", name="symmetric · rtn").click()
    lab.page.mouse.move(0, 0)
    expect(lens).to_have_attribute("data-shown", "symmetric · rtn")


def test_the_levels_drawn_are_those_of_the_record(lab: NotebookPage, view: Locator) -> None:
    code = """
variant = next(v for v in app.session.microscope.latest.microscope.solved if (v.domain, v.solver) == ("int", "rtn"))
print(*(variant.codes.count(code) for code in range(16)))
"""
    counts = lab.run_code(code).split()
    ticks = variant(view, "int · rtn").locator(".wb-level")
    read = "ticks => ticks.map((tick) => [tick.dataset.count, Number(tick.getAttribute('x1'))])"
    drawn = wait_for(lambda: ticks.evaluate_all(read), lambda drawn: [count for count, _ in drawn] == counts)
    xs = [x for _, x in drawn]
    steps = [b - a for a, b in itertools.pairwise(xs)]
    assert max(steps) - min(steps) < 0.01 < min(steps), "one scale, even steps"


def test_it_is_worked_from_the_keyboard(lab: NotebookPage, view: Locator) -> None:
    lens = view.locator(".wb-lens")
    view.get_by_role("button", name="float · rtn", exact=True).focus()
    lab.page.keyboard.press("ArrowDown")
    expect(lens).to_have_attribute("data-shown", "float · hqq")
    lab.page.keyboard.press("Enter")
    lens.focus()
    lab.page.keyboard.press("ArrowRight")
    lab.page.keyboard.press("ArrowRight")
    expect(view.locator("[aria-live]")).to_have_text(re.compile(r"in_feature \d+: .+ → code \d+, .+ \(.+\)"))
    expect(lens.locator(".wb-fan.wb-marked")).to_have_count(1)
    lab.page.keyboard.press("Escape")
    expect(lens.locator(".wb-fan.wb-marked")).to_have_count(0)


def rms(rows: Locator) -> list[float]:
    return [float(text) for text in rows.locator("[data-column=rms] > span:first-child").all_inner_texts()]


def test_the_table_is_sorted_by_any_column_and_by_domain_again(lab: NotebookPage, view: Locator) -> None:
    names = view.locator("tr[data-variant]")
    by_domain = names.evaluate_all("rows => rows.map((row) => row.dataset.variant)")
    assert [name.split(" · ")[0] for name in by_domain] == sorted(name.split(" · ")[0] for name in by_domain)
    view.get_by_role("button", name="RMS error").click()
    expect(view.get_by_role("columnheader", name="RMS error")).to_have_attribute("aria-sort", "ascending")
    wait_for(lambda: rms(names), lambda shown: shown == sorted(shown))
    expect(names.first.locator("[data-column=rms]")).to_have_attribute("data-best", "")
    view.get_by_role("button", name="RMS error").click()
    wait_for(lambda: rms(names), lambda shown: shown == sorted(shown, reverse=True))
    view.get_by_role("button", name="Variant").click()
    wait_for(lambda: names.evaluate_all("rows => rows.map((row) => row.dataset.variant)"), by_domain.__eq__)


def test_the_numbers_are_in_a_real_table(lab: NotebookPage, view: Locator) -> None:
    row = view.get_by_role("row", name="int · rtn").first
    expect(row.get_by_role("cell").last).to_have_text("exact")
    expect(row.locator("[data-column=bits]")).to_have_text("4.38")
    expect(variant(view, "float · hqq").locator("[data-column=rms] small")).to_have_text(re.compile(r"\d\.\d+×"))
    view.get_by_text("Weights", exact=True).click()
    expect(view.locator("details tr")).to_have_count(65)
    expect(view.locator("details tr").nth(1).locator("td").first).to_have_text("192")
    view.get_by_text("Weights", exact=True).click()


def test_settings_and_layers_are_followed(lab: NotebookPage, view: Locator) -> None:
    slider = lab.page.get_by_role("slider", name="Group size")
    slider.press("ArrowRight")
    expect(view.locator(".wb-sub")).to_contain_text("output feature 20 · group 1 · in_features 128–255 · 128 weights")
    slider.press("ArrowLeft")
    expect(view.locator(".wb-sub")).to_contain_text("output feature 20 · group 2 · in_features 128–191 · 64 weights")
    lab.page.locator("[data-name='model.layers.0.self_attn.k_proj']").click()
    expect(view.locator(".wb-sub")).to_contain_text("model.layers.0.self_attn.k_proj · output feature")
    expect(view.locator(".wb-badge").first).to_contain_text("worst group of the layer")
    lab.page.locator("[data-name='model.embed_tokens']").click()
    expect(view.locator(".wb-empty")).to_contain_text("Pick a linear layer")
    lab.page.locator("[data-name='model.layers.0.self_attn.q_proj']").click()
    expect(view.locator(".wb-sub")).to_contain_text("model.layers.0.self_attn.q_proj · output feature")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [800, 1280, 2560])
def test_it_is_readable_and_fits(lab: NotebookPage, view: Locator, theme: str, width: int) -> None:
    lab.set_theme(theme)
    lab.page.set_viewport_size({"width": width, "height": 2600})
    lab.settle()
    for name in ("int · hqq", "symmetric · rtn", "float · refined"):
        view.get_by_role("button", name=name, exact=True).click()
        expect_readable(view, theme)
    expect_readable(lab.page.locator(".wb-app"))
    columns = variant(view, "int · rtn").locator("td, th").evaluate_all("cells => cells.map(c => c.clientWidth)")
    assert columns[1] >= 120, "room for the levels"
    lab.screenshot(f"microscope-{width}-{theme}", ".wb-micro")
    lab.screenshot(f"microscope-app-{width}-{theme}", ".wb-app")
