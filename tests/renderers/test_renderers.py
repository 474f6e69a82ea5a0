"""The workbench under the widget managers of VS Code and of Colab: shown, readable, linked to the kernel, offline."""

from __future__ import annotations

import re

import pytest
from notebook_page import SCREENSHOTS
from playwright.sync_api import Locator, expect
from readable import expect_readable
from renderer_page import WHITE_BOX, RendererPage

GROUP_SIZE = "print(app.session.recipe.default.config.group_size)"
LARGE = "large = wb.Workbench(nn.Sequential(nn.Linear(512, 3000)))\nlarge.errors"


def slider(host: RendererPage) -> Locator:
    return host.at.get_by_role("slider", name="Group size").first


def readable(host: RendererPage, theme: str) -> None:
    expect_readable(host.at.locator(".wb:visible"), theme)


def test_the_app_is_shown_and_readable(host: RendererPage) -> None:
    expect(host.at.locator(".wb-heat canvas").first).to_have_attribute("data-seq", re.compile(r"\d+"), timeout=60_000)
    expect(host.at.locator(".wb-badge", has_text=re.compile("^exact$")).first).to_be_visible(timeout=60_000)
    readable(host, "dark")
    host.page.screenshot(path=SCREENSHOTS / f"renderer-{host.kind}-dark.png")


def test_a_slider_reaches_the_kernel_and_its_picture_comes_back(host: RendererPage) -> None:
    canvas = host.at.locator(".wb-heat canvas").first
    before = int(canvas.get_attribute("data-seq") or 0)
    slider(host).press("ArrowRight")
    expect(slider(host)).to_have_attribute("aria-valuetext", "128")
    expect(canvas).not_to_have_attribute("data-seq", str(before), timeout=20_000)
    assert host.cell(GROUP_SIZE) == "128"


def test_enter_on_a_button_is_one_click(host: RendererPage) -> None:
    slider(host).press("ArrowRight")
    expect(slider(host)).to_have_attribute("aria-valuetext", "256")
    undo = host.at.get_by_role("button", name="Undo").first
    expect(undo).to_be_enabled()
    undo.press("Enter")
    expect(slider(host)).to_have_attribute("aria-valuetext", "128", timeout=20_000)
    assert host.cell(GROUP_SIZE) == "128"


def test_a_click_waits_for_the_running_cell_and_is_not_lost(host: RendererPage) -> None:
    """Neither sends a widget's messages to a subshell, as JupyterLab does."""
    canvas = host.at.locator(".wb-heat canvas").first
    before = canvas.get_attribute("data-seq") or ""
    host.start("import time\ntime.sleep(2)\nprint(app.session.recipe.default.config.group_size)")
    slider(host).press("ArrowLeft")
    assert host.running() == "128"
    expect(canvas).not_to_have_attribute("data-seq", before, timeout=20_000)
    expect(slider(host)).to_have_attribute("aria-valuetext", "64")
    assert host.cell(GROUP_SIZE) == "64"


def test_a_zoom_asks_for_a_block_and_its_bytes_come_back(host: RendererPage) -> None:
    host.cell(LARGE)
    canvas = host.last().locator(".wb-heat canvas").first
    expect(host.last().locator(".wb-badge", has_text=re.compile("^exact$"))).to_be_visible(timeout=60_000)
    canvas.click(position={"x": 60, "y": 100})
    for _ in range(4):
        canvas.press("+")
    expect(canvas).to_have_attribute("data-block", re.compile(r"\d+,\d+,\d+,\d+"), timeout=20_000)


@pytest.mark.parametrize("host", ["vscode"], indirect=True)
@pytest.mark.parametrize("theme", ["vscode-light", "vscode-high-contrast", "vscode-dark"])
def test_vs_codes_themes_are_followed_live(host: RendererPage, theme: str) -> None:
    host.set_vscode_theme(theme)
    readable(host, "light" if theme == "vscode-light" else "dark")
    host.page.screenshot(path=SCREENSHOTS / f"renderer-{theme}.png")


@pytest.mark.parametrize("host", ["vscode"], indirect=True)
def test_the_white_box_of_some_versions_of_vs_code_is_covered(host: RendererPage) -> None:
    host.page.add_style_tag(content=WHITE_BOX)
    readable(host, "dark")


def test_nothing_came_from_a_network_and_nothing_was_refused(host: RendererPage) -> None:
    assert (host.foreign, host.errors, host.page.evaluate("() => host.errors")) == ([], [], [])
