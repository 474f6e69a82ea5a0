"""One Chromium, one Jupyter server, and a page of each kind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from notebook_page import LabServer, chromium
from playwright.sync_api import Browser, Page
from renderer_page import RendererPage, colab_frame, colab_page, vscode_page


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabServer]:
    """A Jupyter server whose settings, state and kernels are in a temporary folder."""
    server = LabServer.start(tmp_path_factory.mktemp("renderers"))
    yield server
    server.stop()


def new_page(browser: Browser) -> Page:
    context = browser.new_context(viewport={"width": 1280, "height": 2400})
    context.grant_permissions(["local-network-access"])  # the page is answered by the test, its kernel by the server
    return context.new_page()


@pytest.fixture(scope="module", params=["vscode", "colab"])
def host(request: pytest.FixtureRequest, browser: Browser, server: LabServer) -> Iterator[RendererPage]:
    """The app in one of them, dark; the tests go on from one another."""
    host = RendererPage(new_page(browser), server, request.param)
    if request.param == "vscode":
        host.open(vscode_page("vscode-dark"))
    else:
        host.open(colab_page(), colab_frame("dark"))
    host.cell("import workbench as wb\nfrom torch import nn\napp = wb.Workbench()\napp")
    yield host
    host.close()
