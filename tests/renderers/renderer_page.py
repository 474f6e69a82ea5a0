"""The workbench in the widget managers of VS Code and of Colab, with a real kernel and no other network."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlparse

from notebook_page import TOKEN, LabServer
from playwright.sync_api import FrameLocator, Locator, Page, Route

HERE = Path(__file__).parent
FRAME_ORIGIN = "http://frame.test"  # another origin than the page's; never looked up
KINDS = {".js": "text/javascript", ".css": "text/css"}
# The policy of VS Code's notebooks with their setting notebook.experimental.enableCsp, narrowed to this server. They
# have none without it; with it, the widgets of anywidget need the blob: that is added here.
POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self' ws:"
)
# The variables of VS Code's themes that its widgets see (Dark Modern, Light Modern and Dark High Contrast).
VSCODE_COLOURS = {
    "vscode-dark": {"editor-background": "#1f1f1f", "editor-foreground": "#cccccc", "input-background": "#313131"},
    "vscode-light": {
        "editor-background": "#ffffff",
        "editor-foreground": "#3b3b3b",
        "notebook-cellEditorBackground": "#f8f8f8",
    },
    "vscode-high-contrast": {"editor-background": "#000000", "editor-foreground": "#ffffff"},
}
VSCODE_SHARED = {
    "font-family": "system-ui, Ubuntu, sans-serif",
    "editor-font-family": "monospace",
    "focusBorder": "#0078d4",
}
# JupyterLab's variables that the extension's style sheet sets from VS Code's around widgets (microsoft/vscode-jupyter,
# jupyterlabThemeBridge.css); those of the layout only in a light or dark theme, not in one of high contrast.
VSCODE_BRIDGE = {
    "ui-font-family": "editor-font-family",
    "code-font-family": "editor-font-family",
    "ui-font-color1": "editor-foreground",
    "border-color1": "panel-border",
    "border-color2": "panel-border",
    "brand-color1": "focusBorder",
}
VSCODE_LAYOUT = {"vscode-dark": "input-background", "vscode-light": "notebook-cellEditorBackground"}
VSCODE_BOX = ".cell-output-ipywidget-background"
WHITE_BOX = f"{VSCODE_BOX} {{ background: white !important; }}"  # in versions of the extension without the bridge
# The variables of Colab's frames, and the ones of JupyterLab's that its widget manager sets from them
# (googlecolab/colab-cdn-widget-manager, index.css).
COLAB_COLOURS = {
    "light": {"primary-surface": "#ffffff", "secondary-surface": "#f7f7f7", "primary-text": "#1f1f1f"},
    "dark": {"primary-surface": "#383838", "secondary-surface": "#4d4d4d", "primary-text": "#d5d5d5"},
}
COLAB_BRIDGE = {"widgets-color": "primary-text", "layout-color2": "secondary-surface", "ui-font-color1": "primary-text"}


def vscode_bridge() -> str:
    """Return the style sheet around widgets in VS Code."""
    named = "; ".join(f"--jp-{name}: var(--vscode-{source})" for name, source in VSCODE_BRIDGE.items())
    rules = [f"{VSCODE_BOX} {{ {named} }}"]
    for theme, source in VSCODE_LAYOUT.items():
        layout = "; ".join(f"--jp-layout-color{place}: var(--vscode-{source})" for place in range(4))
        rules.append(f".{theme} {VSCODE_BOX} {{ {layout} }}")
    return " ".join(rules)


def vscode_variables(theme: str) -> str:
    """Return the style of the page's root in a theme of VS Code."""
    colours = VSCODE_SHARED | VSCODE_COLOURS[theme]
    return "; ".join(f"--vscode-{name}: {value}" for name, value in colours.items())


def vscode_page(theme: str) -> str:
    """Return the page of a notebook's outputs in VS Code."""
    return f"""<!doctype html><html style="{vscode_variables(theme)}"><head><meta charset="utf-8">
        <meta http-equiv="Content-Security-Policy" content="{POLICY}">
        <style>body {{ background: var(--vscode-editor-background); margin: 0 }} {vscode_bridge()}</style>
        <script src="/renderers/node_modules/requirejs/require.js"></script>
        <script type="module" src="/renderers/build/vscode.js"></script></head>
        <body class="{theme}" data-vscode-theme-kind="{theme}"></body></html>"""


def colab_page() -> str:
    """Return the page around an output's frame in Colab."""
    return """<!doctype html><meta charset="utf-8"><script type="module" src="/renderers/build/colab.js"></script>"""


def colab_frame(theme: str) -> str:
    """Return the frame of an output in Colab."""
    variables = "; ".join(f"--colab-{name}-color: {value}" for name, value in COLAB_COLOURS[theme].items())
    bridge = "; ".join(f"--jp-{name}: var(--colab-{source}-color)" for name, source in COLAB_BRIDGE.items())
    return f"""<!doctype html><html theme="{theme}"><head><meta charset="utf-8">
        <meta http-equiv="Content-Security-Policy" content="{POLICY.replace("'self'", FRAME_ORIGIN)}">
        <link rel="stylesheet" href="/renderers/build/colab_frame.css">
        <style>:root {{ {variables}; {bridge} }}
            html {{ background: var(--colab-primary-surface-color); color: var(--colab-primary-text-color) }}</style>
        <script type="module" src="/renderers/build/colab_frame.js"></script></head><body></body></html>"""


@dataclass
class RendererPage:
    """A page of VS Code's or of Colab's kind.

    Attributes:
        page: Playwright's page.
        server: The server of its kernel.
        kind: "vscode" or "colab".
        foreign: Addresses that it asked for outside of the server; none was answered.
        errors: Texts of JavaScript exceptions and of refusals by the page's policy.
    """

    page: Page
    server: LabServer
    kind: Literal["vscode", "colab"]
    foreign: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def open(self, document: str, frame: str = "") -> None:
        """Load the page and start its kernel."""
        pages = {"/renderers/page.html": document, "/renderers/frame.html": frame}
        self.page.route("**/*", lambda route: self._answer(route, pages))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: self._console(message.type, message.text))
        self.page.goto(f"{self.server.url}/renderers/page.html")
        self.page.wait_for_function("() => window.openHost")
        self.page.evaluate("given => openHost(...given)", [TOKEN, f"{FRAME_ORIGIN}/renderers/frame.html"])

    def _console(self, kind: str, text: str) -> None:
        if kind == "error" and re.search("Content Security Policy|anywidget|Uncaught", text):
            self.errors.append(text)

    def _answer(self, route: Route, pages: dict[str, str]) -> None:
        url = route.request.url
        origin, path = url[: url.find("/", 8)], urlparse(url).path
        if origin not in (self.server.url, FRAME_ORIGIN):
            self.foreign.append(url)
            route.abort()
        elif path in pages:
            route.fulfill(body=pages[path], content_type="text/html")
        elif path.startswith("/renderers/"):
            file = self._file(path.removeprefix("/renderers/"))
            # A frame without an origin of its own may read scripts of its server.
            headers = {"Access-Control-Allow-Origin": "*", "Content-Type": KINDS.get(file.suffix, "text/plain")}
            route.fulfill(path=file, headers=headers) if file.is_file() else route.abort()
        else:
            route.continue_()

    def _file(self, name: str) -> Path:
        if name.startswith("nbextensions/"):
            return Path(sys.prefix, "share", "jupyter", name)
        return HERE / name

    @property
    def at(self) -> Page | FrameLocator:
        """Where the first cell's output is."""
        return self.page if self.kind == "vscode" else self.page.locator("iframe").first.content_frame

    def last(self) -> Locator:
        """Return the newest cell's output."""
        if self.kind == "vscode":
            return self.page.locator(".cell-output-ipywidget-background").last
        return self.page.locator("iframe").last.content_frame.locator("body")

    def set_vscode_theme(self, theme: str) -> None:
        """Change the theme of a page of VS Code as it does: its variables, and the body's class and attribute."""
        self.page.evaluate(
            """([theme, variables]) => {
                document.documentElement.style.cssText = variables;
                document.body.className = document.body.dataset.vscodeThemeKind = theme;
            }""",
            [theme, vscode_variables(theme)],
        )

    def cell(self, code: str) -> str:
        """Run a cell, show its widgets, and return what it printed."""
        return str(self.page.evaluate("code => host.cell(code)", code)["text"]).strip()

    def start(self, code: str) -> None:
        """Start a cell without waiting for it."""
        self.page.evaluate("code => { window.running = host.run(code) }", code)

    def running(self) -> str:
        """Wait for the started cell and return what it printed."""
        return str(self.page.evaluate("() => window.running")["text"]).strip()

    def close(self) -> None:
        """End the kernel and the page."""
        self.page.evaluate("() => host.shutdown()")
        self.page.context.close()
