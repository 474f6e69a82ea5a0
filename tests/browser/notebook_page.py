"""A real JupyterLab server and a notebook open in it, for tests that click, look and measure."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import nbformat
from playwright.sync_api import Browser, Page, sync_playwright

from workbench.cli.launch import PATIENT_THREADS

PROJECT = Path(__file__).resolve().parents[2]
SCREENSHOTS = PROJECT / "tests" / "screenshots"
TOKEN = "t"
App = Literal["lab", "notebook"]
T = TypeVar("T")
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
SETTINGS = {
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension/notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    },
}
# Whether all places are what they were when it was last asked, and no transition is under way.
SETTLED = """() => {
    const all = [...document.querySelectorAll(".wb, .jp-Notebook, .jp-Cell")];
    const places = JSON.stringify(all.map((one) => one.getBoundingClientRect()));
    const ends = (one) => one.playState === "running" && one.effect.getComputedTiming().endTime !== Infinity;
    const still = places === window.lastPlaces && !document.getAnimations().some(ends);
    window.lastPlaces = places;
    return still;
}"""
CHROMIUM_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def chromium_path(playwright_default: str) -> str:
    """Return the path of the system's Chromium, or of the one that Playwright installed.

    Raises:
        FileNotFoundError: when there is none.
    """
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    if Path(playwright_default).exists():
        return playwright_default
    raise FileNotFoundError("No Chromium: install it with apt, or run `python -m playwright install chromium`.")


@dataclass(frozen=True)
class LabServer:
    """A running JupyterLab server.

    Attributes:
        url: Its address without a path.
        root: The folder that it serves; notebooks are put there.
        process: The server's process, leader of its own process group.
        app: "lab", or "notebook" for Notebook 7.
    """

    url: str
    root: Path
    process: subprocess.Popen[bytes]
    app: App = "lab"

    @classmethod
    def start(cls, folder: Path, app: App = "lab") -> LabServer:
        """Start a server with its settings, state and notebooks under `folder`, and wait until it answers."""
        root = folder / "root"
        root.mkdir()
        for name, values in SETTINGS.items():
            path = folder / "settings" / f"{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(values), encoding="utf-8")
        port = free_port()
        own = "LabApp" if app == "lab" else "JupyterNotebookApp"
        command = [
            *(sys.executable, "-m", "jupyterlab" if app == "lab" else "notebook", "--no-browser", "--allow-root"),
            *("--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"),
            *(f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={root}"),
            f"--{own}.expose_app_in_browser=True",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        ]
        with (folder / "server.log").open("wb") as log:
            process = subprocess.Popen(command, env=environment(folder), stdout=log, stderr=log, start_new_session=True)
        server = cls(f"http://127.0.0.1:{port}", root, process, app)
        try:
            server._wait_ready(folder / "server.log")
        except BaseException:
            server.stop()
            raise
        return server

    def page_url(self, name: str) -> str:
        """Return the address of a notebook in a fresh workspace."""
        if self.app == "notebook":
            return f"{self.url}/notebooks/{name}?token={TOKEN}"
        return f"{self.url}/lab/workspaces/{uuid.uuid4().hex[:8]}/tree/{name}?token={TOKEN}&reset"

    def _wait_ready(self, log: Path) -> None:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.url}/api/status?token={TOKEN}", timeout=5).close()
                return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.1)
        raise RuntimeError(f"JupyterLab did not start:\n{log.read_text(encoding='utf-8')[-4000:]}")

    def stop(self) -> None:
        """End the server and its kernels."""
        try:
            self.process.terminate()
            self.process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class NotebookPage:
    """A notebook in a browser's page.

    Attributes:
        page: Playwright's page; locators start there.
        server: The server it talks to.
        errors: Texts of JavaScript exceptions and console errors so far.
    """

    def __init__(self, page: Page, server: LabServer) -> None:
        self.page = page
        self.server = server
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: self._console(message.type, message.text))

    def _console(self, kind: str, text: str) -> None:
        if kind == "error" and "Failed to load resource" not in text:
            self.errors.append(text)

    def new_file(self, source: Path | Sequence[str]) -> str:
        """Put a fresh copy of a notebook, or a new one with these cells, on the server, and return its name there."""
        name = f"{uuid.uuid4().hex[:8]}.ipynb"
        if isinstance(source, Path):
            shutil.copy(source, self.server.root / name)
            return name
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in source])
        book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(book, self.server.root / name)
        return name

    def open_notebook(self, source: Path | Sequence[str]) -> None:
        """Open a fresh copy of a notebook, or a new one with these cells, and wait for its kernel."""
        name = self.new_file(source)
        self.page.goto(self.server.page_url(name))
        self.page.wait_for_function(
            "name => window.jupyterapp?.shell?.currentWidget?.context?.path === name",
            arg=name,
            timeout=60_000,
        )
        self.page.evaluate(
            """async () => {
                await jupyterapp.restored;
                const panel = jupyterapp.shell.currentWidget;
                await panel.revealed;
                await panel.context.ready;
                await panel.sessionContext.ready;
                await panel.sessionContext.session.kernel.info;
                window.notebookPanel = panel;
            }"""
        )

    def run_all(self, timeout_s: float = 120, wait: bool = True) -> None:
        """Run every cell; wait until all have run, and fail with the traceback if one did not.

        Raises:
            AssertionError: when a cell raised, or the cells did not end in time.
        """
        # Not awaited: the command's promise has been seen to hang for minutes.
        self.page.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells') }")
        if wait:
            self.wait_until_run(timeout_s)

    def wait_until_run(self, timeout_s: float = 120) -> None:
        """Wait until every cell has run without an error.

        Raises:
            AssertionError: when a cell raised, or the cells did not end in time.
        """
        script = """() => {
            const all = notebookPanel.content.widgets.map(w => w.model.toJSON());
            const cells = all.filter(c => c.cell_type === 'code');
            const failed = cells.flatMap(c => c.outputs).find(o => o.output_type === 'error');
            if (failed) return {failed: failed.traceback.join('\\n')};
            const filled = cells.filter(c => c.source.length > 0);
            const idle = notebookPanel.sessionContext.session.kernel.status === 'idle';
            return {done: idle && filled.every(c => c.execution_count !== null)};
        }"""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            state = self.page.evaluate(script)
            if "failed" in state:
                raise AssertionError(f"A cell failed:\n{_plain(state['failed'])}")
            if state["done"]:
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"The notebook's cells were still running after {timeout_s} s.")

    def start_code(self, code: str) -> None:
        """Start code in the kernel as a cell would, without waiting; `code_output` has what it prints."""
        self.page.evaluate(
            """code => {
                const run = window.lastRun = {text: '', error: null, done: false};
                const {kernel} = notebookPanel.sessionContext.session;
                const future = kernel.requestExecute({code, store_history: false});
                future.onIOPub = ({header, content}) => {
                    if (header.msg_type === 'stream') run.text += content.text;
                    if (header.msg_type === 'error') run.error = content.traceback.join('\\n');
                };
                const end = (error) => { run.error ??= error ? String(error) : null; run.done = true; };
                future.done.then(() => end(null), end);
            }""",
            code,
        )

    def code_output(self, timeout_s: float = 30) -> str:
        """Wait for the code last started and return what it printed.

        Raises:
            AssertionError: when it raised.
        """
        self.page.wait_for_function("() => window.lastRun.done", timeout=timeout_s * 1000)
        run: dict[str, Any] = self.page.evaluate("() => window.lastRun")
        assert run["error"] is None, _plain(run["error"])
        return str(run["text"]).strip()

    def run_code(self, code: str, timeout_s: float = 30) -> str:
        """Run code in the notebook's kernel and return what it printed."""
        self.start_code(code)
        return self.code_output(timeout_s)

    def expect_output(self, code: str, wanted: str, timeout_s: float = 20) -> None:
        """Run code until it prints what is wanted: a control shows a change before the kernel has taken it."""
        wait_for(lambda: self.run_code(code), lambda found: found == wanted, timeout_s)

    def set_theme(self, name: str) -> None:
        """Switch JupyterLab to its "light" or "dark" theme."""
        self.page.evaluate("theme => { jupyterapp.commands.execute('apputils:change-theme', {theme}) }", THEMES[name])
        light = "true" if name == "light" else "false"
        self.page.wait_for_function("light => document.body.dataset.jpThemeLight === light", arg=light)
        self.settle()

    def collapse_sidebar(self) -> None:
        """Hide the file browser, so that the notebook has the page's width."""
        self.page.evaluate("() => { jupyterapp.shell.collapseLeft() }")
        self.settle()

    def settle(self) -> None:
        """Wait until nothing of the page moves or changes its size any more."""
        self.page.evaluate("() => { window.lastPlaces = null }")
        self.page.wait_for_function(SETTLED, polling=100)

    def screenshot(self, name: str, selector: str | None = None) -> Path:
        """Save the page, or the first element that matches `selector`, under tests/screenshots/."""
        path = SCREENSHOTS / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if selector is None:
            self.page.screenshot(path=path)
        else:
            self.page.locator(selector).first.screenshot(path=path)
        return path


def wait_for(read: Callable[[], T], holds: Callable[[T], bool], timeout_s: float = 20) -> T:
    """Read again and again until what is read is as wanted, and return it: a page draws in its next frame.

    Raises:
        AssertionError: with what was read last.
    """
    end = time.monotonic() + timeout_s
    while not holds(found := read()) and time.monotonic() < end:
        time.sleep(0.05)
    assert holds(found), found
    return found


def show_tab(page: Page, label: str) -> None:
    """Show a part of the app."""
    page.get_by_role("tab", name=label).click()


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium."""
    with sync_playwright() as playwright:
        path = chromium_path(playwright.chromium.executable_path)
        browser = playwright.chromium.launch(executable_path=path, args=list(CHROMIUM_FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def open_lab(width: int, height: int) -> Iterator[NotebookPage]:
    """A browser with one page of that size and a server of its own, for programs; no error may be left in the page."""
    with chromium() as browser, tempfile.TemporaryDirectory() as folder:
        server = LabServer.start(Path(folder))
        try:
            lab = NotebookPage(browser.new_page(viewport={"width": width, "height": height}), server)
            yield lab
            assert not lab.errors, lab.errors
        finally:
            server.stop()


def environment(folder: Path) -> dict[str, str]:
    """Return the variables of a server whose settings, state and kernels keep to `folder`."""
    places = {
        "JUPYTERLAB_SETTINGS_DIR": folder / "settings",
        "JUPYTERLAB_WORKSPACES_DIR": folder / "workspaces",
        "JUPYTER_CONFIG_DIR": folder / "config",
        "JUPYTER_RUNTIME_DIR": folder / "runtime",
        "IPYTHONDIR": folder / "ipython",
    }
    old_path = os.environ.get("PYTHONPATH")
    python_path = os.pathsep.join([str(PROJECT), *([old_path] if old_path else [])])
    return (
        PATIENT_THREADS | os.environ | {name: str(path) for name, path in places.items()} | {"PYTHONPATH": python_path}
    )


def _plain(traceback: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", traceback)


def free_port() -> int:
    """Return a port below those that systems hand out themselves: until a server takes it, nobody is given it."""
    while True:
        port = random.randrange(12_000, 30_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
