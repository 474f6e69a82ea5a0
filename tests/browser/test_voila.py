"""The app as a stand-alone page in a real Voilà: it works, in both themes, and nothing comes from a network."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from urllib.parse import urlparse

import pytest
from notebook_page import SCREENSHOTS
from playwright.sync_api import Page, expect
from readable import expect_readable
from voila_page import VoilaServer

VOILA_ITSELF = "https://cdn.jsdelivr.net/npm/@fortawesome/"  # its template asks for icons, which the app does not use


@pytest.fixture(scope="module")
def voila(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VoilaServer]:
    """A Voilà server."""
    server = VoilaServer.start(tmp_path_factory.mktemp("voila"))
    yield server
    server.stop()


class Seen:
    """What a page asked for, and what went wrong in it."""

    def __init__(self, page: Page) -> None:
        self.foreign: set[str] = set()
        self.errors: list[str] = []
        page.on("request", lambda request: self._asked(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _asked(self, url: str) -> None:
        if urlparse(url).hostname not in ("127.0.0.1", None) and not url.startswith(VOILA_ITSELF):
            self.foreign.add(url)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_app_is_a_page_of_its_own(voila: VoilaServer, new_page: Callable[..., Page], theme: str) -> None:
    page = new_page(1440, 1600)
    seen = Seen(page)
    address = voila.add("app", ["import workbench as wb\napp = wb.Workbench()\napp"])
    page.goto(f"{address}?theme={theme}", timeout=120_000)
    canvas = page.locator(".wb-heat canvas").first
    expect(canvas).to_have_attribute("data-seq", re.compile(r"\d+"), timeout=60_000)
    expect(page.get_by_text("42 of 57").first).to_be_visible()
    expect_readable(page.locator(".wb:visible"), theme)
    before = int(canvas.get_attribute("data-seq") or 0)
    page.get_by_role("slider", name="Group size").press("ArrowRight")
    page.wait_for_function(
        "before => Number(document.querySelector('.wb-heat canvas').dataset.seq) > before", arg=before
    )
    page.get_by_role("tab", name="Recipe", exact=True).click()
    expect(page.locator(".wb-rule[data-kind=default]")).to_contain_text("int4, group size 128")
    expect(page.locator(".wb-diff-line[data-kind=added]")).to_contain_text('"group_size": 128')
    page.get_by_role("tablist", name="Parts of the workbench").get_by_role("tab").first.click()
    page.screenshot(path=SCREENSHOTS / f"voila-{theme}.png", full_page=True)
    assert (seen.foreign, seen.errors) == (set(), [])
    page.context.close()


def test_a_panel_is_a_page_of_its_own(voila: VoilaServer, new_page: Callable[..., Page]) -> None:
    page = new_page(1280, 900)
    seen = Seen(page)
    cell = "import workbench as wb\napp = wb.Workbench()\napp.recipe_panel"
    page.goto(voila.add("panel", [cell]), timeout=120_000)
    preset = page.get_by_role("button", name="accurate the best")
    preset.click()
    expect(preset).to_have_attribute("aria-pressed", "true", timeout=20_000)
    assert (seen.foreign, seen.errors) == (set(), [])
    page.context.close()
