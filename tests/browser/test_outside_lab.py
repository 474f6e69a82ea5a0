"""The components on a bare page, without JupyterLab's colours: light and dark, at several widths."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from readable import expect_readable

from workbench.records.layers import CoverageRow
from workbench.widgets.commands import Command, Commands
from workbench.widgets.component import Component
from workbench.widgets.heatmap import Heatmap, HeatPayload
from workbench.widgets.layer_table import LayerTable
from workbench.widgets.line_chart import Chart, LineChart, Series

HERE = Path(__file__).parent
# What the widget managers of VS Code and Colab set on any page, in any theme: ipywidgets' copy of JupyterLab's light.
IPYWIDGETS = """:root { --jp-layout-color1: white; --jp-layout-color2: #eeeeee; --jp-border-color1: #9e9e9e;
    --jp-border-color2: #e0e0e0; --jp-ui-font-color1: rgba(0, 0, 0, 0.8); --jp-brand-color1: #2196f3;
    --jp-ui-font-family: monospace }"""
# The page of a cell's output there: attributes of html and of body, and the colours that it names.
HOSTS = {
    "vscode dark": ("", "data-vscode-theme-kind=vscode-dark", ("#1f1f1f", "#cccccc")),
    "vscode light": ("", "data-vscode-theme-kind=vscode-light", ("#ffffff", "#3b3b3b")),
    "vscode high contrast dark": ("", "data-vscode-theme-kind=vscode-high-contrast", ("#000000", "#ffffff")),
    "colab dark": ("theme=dark", "", ("#383838", "#d5d5d5")),
    "colab light": ("theme=light", "", ("#ffffff", "#1f1f1f")),
    "colab dark, without its variables": ("theme=dark", "", None),
}
# anywidget imports a component from a blob; nothing else that is not in the page itself is needed.
POLICY = "default-src 'none'; script-src blob:; style-src 'unsafe-inline'"
# The least of anywidget's model that a module may rely on.
MOUNT = """async ({esm, css, state, bytes, view}) => {
    document.head.append(Object.assign(document.createElement("style"), {textContent: css}));
    const el = document.body.appendChild(document.createElement("div"));
    for (const [path, text] of Object.entries(bytes)) {
        const raw = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
        const [trait, key] = path.split(".");
        state[trait][key] = view === "bytes" ? raw : new DataView(raw.buffer);
    }
    const listeners = [];
    const model = {
        get: (name) => state[name],
        set: (name, value) => {
            state[name] = value;
            for (const [events, call] of listeners) if (events.split(" ").includes(`change:${name}`)) call();
        },
        on: (events, call) => listeners.push([events, call]),
        off: () => {},
        save_changes: () => {},
        send: () => {},
    };
    const url = URL.createObjectURL(new Blob([esm], {type: "text/javascript"}));
    const widget = (await import(url)).default;
    await widget.initialize?.({model});
    window.cleanUps = [...(window.cleanUps ?? []), await widget.render({model, el})];
}"""


def mount(page: Page, component: Component, view: str = "view") -> None:
    """Show a component's present state, its binary values as a DataView or (Colab's messages) as "bytes"."""
    state = {key: value for key, value in component.get_state().items() if key != "layout"}
    payload = dict(state.get("_payload") or {})
    files = {}
    if payload:
        files["_payload.values"] = base64.b64encode(payload.pop("values")).decode()
        state["_payload"] = payload
    esm, css = state.pop("_esm"), state.pop("_css")
    plain: dict[str, Any] = json.loads(json.dumps(state, default=str))
    page.evaluate(MOUNT, {"esm": esm, "css": css, "state": plain, "bytes": files, "view": view})


def components() -> list[Component]:
    heat = Heatmap()
    codes = bytes((i * 7 + i // 48) % 256 for i in range(96 * 48))
    title = "model.layers.10.self_attn.q_proj: mean squared error"
    fields = {"row_span": 4, "col_span": 1, "total_rows": 384, "total_cols": 48, "group_size": 16}
    heat.show(HeatPayload(codes, 96, 48, 1e-6, 1e-2, "MSE", True, title=title, badge="exact", seq=3, **fields))
    table = LayerTable(height=196)
    rows = []
    for i in range(40):
        leaf = ("q_proj", "k_proj", "o_proj", "norm")[i % 4]
        dense = leaf == "norm"
        size = 2 * 512 * 512
        decision = ("dense", "not a matrix") if dense else ("int4", "group 64, float zero, hqq")
        rows.append(
            CoverageRow(f"model.layers.{i // 4}.{leaf}", "linear", (512, 512), size // 2, *decision, size, size, 16.0)
        )
    table.show(rows)
    table.update([row.name for row in rows[:8]], error=[0.01 * i for i in range(8)], status=["done"] * 8)
    table.selected = [rows[1].name]
    line = Series("int4", (1, 2, 4), (3.0, 2.7, 2.1))
    guess = Series("H100", (1, 2, 4), (3.4, 3.2, 3.1), style="estimated")
    chart = LineChart(Chart((line, guess), "Speedup", "2 threads", "batch size", "speedup", reference=1.0))
    empty = LineChart(Chart(title="Perplexity"))
    commands = Commands([Command("go", "Quantize", kind="primary"), Command("cancel", "Cancel", kind="danger")])
    return [heat, table, chart, empty, commands, Heatmap()]


@pytest.fixture
def bare(new_page: Callable[..., Page]) -> Iterator[Page]:
    page = new_page(1000, 1800)
    page.goto("about:blank")
    page.set_content("<body style='margin: 16px; display: grid; gap: 16px'></body>")
    yield page
    page.context.close()


@pytest.mark.parametrize(("theme", "paper"), [("light", "#ffffff"), ("dark", "#101214")])
@pytest.mark.parametrize("width", [460, 1000])
def test_readable_and_unclipped_on_any_page(bare: Page, theme: str, paper: str, width: int) -> None:
    errors: list[str] = []
    bare.on("pageerror", lambda error: errors.append(str(error)))
    bare.evaluate("paper => { document.body.style.background = paper }", paper)
    bare.set_viewport_size({"width": width, "height": 1900})
    shown = components()
    for component in shown:
        mount(bare, component)
    expect(bare.locator("canvas").first).to_have_attribute("data-seq", "3")
    expect_readable(bare.locator(".wb"), theme)
    clipped = bare.locator(".wb").evaluate_all(
        """roots => roots.flatMap((root) => [...root.querySelectorAll('svg text')].filter((text) => {
            const [inner, outer] = [text.getBoundingClientRect(), root.getBoundingClientRect()];
            return inner.left < outer.left || inner.right > outer.right || inner.bottom > outer.bottom;
        }).map((text) => text.textContent))"""
    )
    assert clipped == []
    bare.screenshot(path=HERE.parent / "screenshots" / f"outside-lab-{theme}-{width}.png", full_page=True)
    assert errors == []


def host_page(host: str) -> str:
    html, body, colours = HOSTS[host]
    surface, text = colours or ("#383838", "#d5d5d5")
    names = ("vscode-editor-background", "vscode-editor-foreground")
    if host.startswith("colab"):
        names = ("colab-primary-surface-color", "colab-primary-text-color")
    variables = "" if colours is None else f"--{names[0]}: {surface}; --{names[1]}: {text}"
    return f"""<html {html}><head><meta http-equiv="Content-Security-Policy" content="{POLICY}">
        <style>{IPYWIDGETS} html {{ background: {surface}; color: {text}; {variables} }}
        body {{ display: grid; gap: 16px }}</style></head><body {body}></body></html>"""


@pytest.mark.parametrize("host", HOSTS)
def test_the_colours_of_vs_code_and_colab_are_used_under_a_strict_policy(bare: Page, host: str) -> None:
    errors: list[str] = []
    bare.on("pageerror", lambda error: errors.append(str(error)))
    bare.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    bare.set_content(host_page(host))
    for component in components():
        mount(bare, component, "bytes")
    expect(bare.locator("canvas").first).to_have_attribute("data-seq", "3")
    roots = bare.locator(".wb")
    expect_readable(roots, "dark" if "dark" in host else "light")
    fonts = roots.evaluate_all("roots => roots.map((root) => getComputedStyle(root).fontFamily)")
    assert not [font for font in fonts if "monospace" in font]
    bare.screenshot(path=HERE.parent / "screenshots" / f"{host.replace(' ', '-').replace(',', '')}.png", full_page=True)
    assert errors == []


def test_a_change_of_vs_codes_theme_is_followed(bare: Page) -> None:
    bare.set_content(host_page("vscode dark"))
    mount(bare, components()[0])
    expect(bare.locator(".wb")).to_have_attribute("data-theme", "dark")
    bare.evaluate(
        """() => {
            document.documentElement.style.setProperty("--vscode-editor-background", "#ffffff");
            document.documentElement.style.setProperty("--vscode-editor-foreground", "#3b3b3b");
            document.body.dataset.vscodeThemeKind = "vscode-light";
        }"""
    )
    expect_readable(bare.locator(".wb"), "light")


def test_clean_up_removes_everything(bare: Page) -> None:
    for component in components():
        mount(bare, component)
    expect(bare.locator(".wb")).to_have_count(6)
    bare.evaluate("() => window.cleanUps.forEach((cleanUp) => cleanUp())")
    expect(bare.locator(".wb")).to_have_count(0)


def test_a_page_that_turns_dark_is_followed(bare: Page) -> None:
    mount(bare, components()[0])
    expect(bare.locator(".wb")).to_have_attribute("data-theme", "light")
    bare.evaluate("() => { document.body.style.background = '#111111' }")
    expect(bare.locator(".wb")).to_have_attribute("data-theme", "dark")


def test_no_asset_comes_from_a_network(bare: Page) -> None:
    asked: list[str] = []
    bare.on("request", lambda request: asked.append(request.url))
    for component in components():
        mount(bare, component)
    bare.wait_for_timeout(100)
    assert [url for url in asked if not url.startswith(("blob:", "data:", "about:"))] == []
