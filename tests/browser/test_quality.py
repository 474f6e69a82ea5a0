"""Quality in a real JupyterLab: numbers that follow the recipe, a prompt on both models, stop, texts, both themes."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from notebook_page import NotebookPage
from playwright.sync_api import Locator, expect
from readable import expect_readable
from shared_lab import SharedLab

TIMEOUT_MS = 60_000


@pytest.fixture(scope="module")
def lab(shared_lab: SharedLab) -> Iterator[NotebookPage]:
    """The app on the demo model with its quality on show; the tests below share it in their order."""
    with shared_lab.lend(["import workbench as wb\napp = wb.Workbench()\napp"], 1280, 1500) as lab:
        lab.page.get_by_role("tab", name="Quality").click()
        yield lab


@pytest.fixture
def panel(lab: NotebookPage) -> Locator:
    return lab.page.locator(".wb-quality")


def settled(lab: NotebookPage) -> None:
    lab.run_code("app.wait()", timeout_s=120)


def fact(panel: Locator, name: str) -> Locator:
    return panel.locator(f"[data-fact='{name}'] dd")


def test_it_says_what_it_would_do_before_anything_is_measured(panel: Locator) -> None:
    expect(panel.get_by_text("Not measured yet.")).to_be_visible()
    expect(panel.get_by_text("the demo model's held-out text")).to_be_visible()
    expect(panel.get_by_role("button", name="Use the demo text")).not_to_be_visible()
    expect(panel.get_by_role("button", name="Stop measuring")).to_be_disabled()


def test_one_click_gives_numbers_with_intervals(lab: NotebookPage, panel: Locator) -> None:
    panel.get_by_role("radio", name="8", exact=True).click(force=True)
    panel.get_by_role("button", name="Measure quality").click()
    expect(fact(panel, "Measured on")).to_have_text("4,088 tokens", timeout=TIMEOUT_MS)
    found = lab.run_code(
        "c = app.session.quality.state.measured.comparison; print(c.reference_perplexity, c.perplexity)"
    )
    expect(fact(panel, "Perplexity")).to_have_text(" → ".join(f"{float(number):.2f}" for number in found.split()))
    expect(panel.locator("[data-fact='Mean KL'] small")).to_contain_text(re.compile(r"0\.\d+ to 0\.\d+ nats a token"))
    expect(panel.get_by_text("Change a setting and measure again")).to_be_visible()


ENDS = """panel => {
  const row = panel.querySelector('.wb-bars tbody tr');
  const box = part => row.querySelector(part).getBoundingClientRect();
  const [spread, fill] = [box('.wb-bar-spread'), box('.wb-bar-fill')];
  return [spread.left, fill.right, spread.right];
}"""


def test_a_click_elsewhere_in_the_app_updates_it(lab: NotebookPage, panel: Locator) -> None:
    lab.run_code("app.session.configure(group_size=32)")
    expect(fact(panel, "Than before")).to_have_text("better", timeout=TIMEOUT_MS)
    rows = panel.locator(".wb-bars tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.nth(0)).to_contain_text("g32")
    expect(rows.nth(0)).to_have_attribute("aria-current", "true")
    low, end, high = panel.evaluate(ENDS)  # at once: the rows are made anew with each measurement
    assert low < end < high
    expect(rows.nth(1)).not_to_have_attribute("aria-current", "true")
    settled(lab)
    lab.page.get_by_role("button", name="Undo").click()
    expect(rows.nth(0)).to_contain_text("g64")
    expect(fact(panel, "Than before")).to_have_text("worse")


def test_a_single_layer_is_toggled(lab: NotebookPage, panel: Locator) -> None:
    lab.run_code("app.session.select(['model.layers.5.mlp.down_proj']); app.session.keep_dense('layer')")
    expect(panel.locator(".wb-bars tbody tr[aria-current]")).to_contain_text("41 layers", timeout=TIMEOUT_MS)
    expect(fact(panel, "Than before")).to_be_visible()
    lab.page.get_by_role("button", name="Undo").click()
    expect(panel.locator(".wb-bars tbody tr[aria-current]")).to_contain_text("42 layers")
    settled(lab)


def test_a_prompt_on_both_from_the_keyboard(lab: NotebookPage, panel: Locator) -> None:
    prompt = panel.get_by_label("Prompt", exact=True)
    prompt.fill("The function returns")
    panel.get_by_role("button", name="Try on both").focus()
    lab.page.keyboard.press("Enter")
    sides = panel.locator(".wb-sides-text")
    expect(sides).to_have_count(2)
    settled(lab)
    for side in sides.all():
        expect(side).to_contain_text("The function returns")
    expect(panel.locator(".wb-sides-verdict")).to_contain_text("sure) and int4")
    expect(panel.locator("mark[data-first]")).to_have_count(2)
    before, after = lab.run_code(
        "a = app.session.quality.prompt.answers; print(a.original == a.int4, a.agreed)"
    ).split()
    assert before == "False" and int(after) < 60


def test_stop_and_a_switch_that_keeps_it_still(lab: NotebookPage, panel: Locator) -> None:
    panel.get_by_role("radio", name="all", exact=True).click(force=True)
    stop = panel.get_by_role("button", name="Stop measuring")
    expect(stop).to_be_enabled()
    stop.click()
    expect(panel.get_by_role("button", name="Measure quality")).to_be_enabled()
    expect(panel.locator("[data-fact='Measured on'] small")).to_contain_text("windows so far")
    panel.get_by_role("switch", name="Update after each change").click(force=True)
    lab.run_code("app.wait(); app.session.configure(group_size=128); app.wait()")
    expect(panel.get_by_text("Not measured under this recipe yet.")).to_be_visible()
    expect(panel.locator(".wb-sides-text")).to_have_count(0)
    lab.run_code("app.session.undo(); app.wait()")
    panel.get_by_role("switch", name="Update after each change").click(force=True)
    panel.get_by_role("radio", name="8", exact=True).click(force=True)
    panel.get_by_role("button", name="Try on both").click()
    expect(panel.locator(".wb-sides-text")).to_have_count(2)
    settled(lab)


def test_a_pasted_text_is_measured_and_the_demo_text_comes_back(lab: NotebookPage, panel: Locator) -> None:
    panel.locator("summary", has_text="Text").click()
    path = panel.get_by_label("or a text file")
    path.fill("none.txt")
    path.press("Enter")
    expect(panel.locator("[data-field='path'] .wb-error-text")).to_contain_text("cannot be read")
    lab.run_code("app.session.quality.set_text('A few words that somebody pasted here.')")
    expect(panel.locator("[data-fact='Difference'] small")).to_have_text(
        "no interval from one window", timeout=TIMEOUT_MS
    )
    panel.get_by_role("button", name="Use the demo text").click()
    # Eight windows, or the more that were measured of it before the stop above.
    at_least = re.compile(r"^(4,088|[4-9],\d{3}|\d{2},\d{3}) tokens$")
    expect(fact(panel, "Measured on")).to_have_text(at_least, timeout=TIMEOUT_MS)
    settled(lab)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_both_themes_can_be_read(lab: NotebookPage, panel: Locator, theme: str) -> None:
    lab.set_theme(theme)
    lab.page.mouse.move(0, 0)
    expect_readable(panel)
    lab.screenshot(f"quality-{theme}", ".wb-quality")
    lab.set_theme("light")
