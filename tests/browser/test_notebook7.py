"""The app in a real Notebook 7: it is shown, it follows the theme while it is looked at, and its parts work."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from notebook_page import LabServer, NotebookPage
from playwright.sync_api import Page, expect
from readable import expect_readable

# Notebook 7.6 says this about its own settings, with or without an app in the page.
NOTEBOOK_ITSELF = "Cannot read properties of undefined (reading 'schema')"
LAYER = "model.layers.0.mlp.down_proj"


@pytest.fixture(scope="module")
def book(new_page: Callable[..., Page], tmp_path_factory: pytest.TempPathFactory) -> Iterator[NotebookPage]:
    """The app in a notebook of Notebook 7; the tests below go on from one another."""
    server = LabServer.start(tmp_path_factory.mktemp("notebook7"), "notebook")
    try:
        book = NotebookPage(new_page(1440, 1200), server)
        book.open_notebook(["import workbench as wb\napp = wb.Workbench()\napp"])
        book.run_all()
        yield book
        ours = [error for error in book.errors if error != NOTEBOOK_ITSELF]
        assert ours == []
        book.page.context.close()
    finally:
        server.stop()


def test_the_app_is_shown_and_a_click_reaches_the_kernel(book: NotebookPage) -> None:
    page = book.page
    expect(page.locator(".wb-heat canvas").first).to_have_attribute("data-seq", re.compile(r"\d+"), timeout=60_000)
    page.locator(".wb-layers").get_by_role("searchbox").fill("layers.0.mlp")
    page.locator(f"[data-name='{LAYER}']").click()
    expect(page.locator(".wb-heat .wb-title").first).to_have_text(LAYER)
    book.expect_output("print(app.session.current)", LAYER)


def test_the_cells_own_keys_stay_away_from_the_app(book: NotebookPage) -> None:
    """A letter typed into the app must not be a command of the notebook: "dd" would delete the cell."""
    box = book.page.locator(".wb-layers").get_by_role("searchbox")
    box.fill("")
    box.press_sequentially("dd")
    expect(box).to_have_value("dd")
    box.fill("")
    slider = book.page.get_by_role("slider", name="Group size")
    slider.press("ArrowRight")
    expect(slider).to_have_attribute("aria-valuetext", "128")
    expect(book.page.locator(".wb-app")).to_be_visible()


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_a_change_of_theme_is_followed_live(book: NotebookPage, theme: str) -> None:
    book.set_theme(theme)
    expect_readable(book.page.locator(".wb:visible"), theme)
    book.screenshot(f"notebook7-{theme}")
