"""Fixtures for tests in a real browser: one Chromium and one JupyterLab server a run, a fresh page a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from notebook_page import LabServer, NotebookPage, chromium
from playwright.sync_api import Browser, Page, expect
from shared_lab import SharedLab

# A page that shares its cores with a second test process may need more than Playwright's 5 s.
expect.set_options(timeout=20_000)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def lab_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabServer]:
    """A JupyterLab server whose notebooks, settings and state are in a temporary folder."""
    server = LabServer.start(tmp_path_factory.mktemp("lab"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def new_page(browser: Browser) -> Callable[..., Page]:
    """Make a page of its own context (nothing stored from others), of a given width and height."""

    def make(width: int = 1280, height: int = 900) -> Page:
        context = browser.new_context(viewport={"width": width, "height": height})
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        return context.new_page()

    return make


@pytest.fixture(scope="session")
def shared_lab(new_page: Callable[..., Page], lab_server: LabServer) -> SharedLab:
    """JupyterLab in one page with one kernel, for all that ask for it: `with shared_lab.lend(cells) as lab`."""
    return SharedLab(NotebookPage(new_page(), lab_server))


@pytest.fixture
def page(new_page: Callable[..., Page]) -> Iterator[Page]:
    """A fresh page, 1280 by 900 pixels."""
    page = new_page()
    yield page
    page.context.close()


@pytest.fixture
def notebook(page: Page, lab_server: LabServer) -> NotebookPage:
    """A fresh page that can open and run notebooks on the server."""
    return NotebookPage(page, lab_server)


@pytest.fixture
def open_notebook(notebook: NotebookPage) -> Callable[..., None]:
    """Open a notebook's copy, or cells: `open_notebook(path)`."""
    return notebook.open_notebook


@pytest.fixture
def run_all(notebook: NotebookPage) -> Callable[..., None]:
    """Run all cells and wait: `run_all(timeout_s=120)`."""
    return notebook.run_all


@pytest.fixture
def screenshot(notebook: NotebookPage) -> Callable[..., Path]:
    """Save a picture: `screenshot("name")` gives tests/screenshots/name.png."""
    return notebook.screenshot
