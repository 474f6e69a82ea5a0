"""The app without a mouse, in a real JupyterLab: every control is reached, is named, and does its work."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from notebook_page import NotebookPage
from playwright.sync_api import expect
from shared_lab import SharedLab

MORE = 6  # Chromium also stops at boxes that scroll
# Every stop that Tab must make in the app as it is shown now, in order: a number of its own, and its name. Of a group
# of radios one is a stop.
STOPS = """() => {
    const name = (node) => {
        const of = (id) => document.getElementById(id)?.textContent ?? "";
        const by = (node.getAttribute("aria-labelledby") ?? "").split(" ").map(of).join(" ");
        const labels = [...(node.labels ?? [])].map((label) => label.textContent).join(" ");
        return (node.getAttribute("aria-label") || by.trim() || labels || node.textContent || node.title || "").trim();
    };
    const kinds = "a[href], button, input, select, textarea, summary, [tabindex]";
    const all = [...document.querySelector(".wb-app").querySelectorAll(kinds)];
    const visible = (node) => node.checkVisibility({visibilityProperty: true, contentVisibilityAuto: true});
    const shown = all.filter((node) => node.tabIndex >= 0 && !node.disabled && visible(node));
    const stops = shown.filter((node) => {
        if (node.type !== "radio" || node.checked) return true;
        const group = shown.filter((other) => other.type === "radio" && other.name === node.name);
        return !group.some((other) => other.checked) && group[0] === node;
    });
    return stops.map((node, at) => {
        node.dataset.stop = at;
        return {tag: node.tagName, kind: node.type ?? "", name: name(node), html: node.outerHTML.slice(0, 120)};
    });
}"""
HERE = """() => {
    const node = document.activeElement;
    const drawn = ({outlineStyle, boxShadow}) => outlineStyle !== "none" || boxShadow !== "none";
    const ring = (one) => one && drawn(getComputedStyle(one));
    const near = [node, node.nextElementSibling, node.parentElement, ...node.children];
    return {stop: node.dataset.stop ?? null, ring: near.some(ring) || node.tagName === "CANVAS"};
}"""


@pytest.fixture(scope="module")
def lab(shared_lab: SharedLab) -> Iterator[NotebookPage]:
    """The app in a cell; the mouse is never used."""
    with shared_lab.lend(["import workbench as wb\napp = wb.Workbench()\napp"], 1440, 1200) as lab:
        expect(lab.page.locator(".wb-heat canvas").first).to_have_attribute("data-seq", re.compile(r"\d+"))
        lab.run_code("app.wait(60)", timeout_s=90)
        lab.page.keyboard.press("Tab")  # after a click of the tests before, focus set by a script shows no ring
        yield lab


def open_tab(lab: NotebookPage, label: str) -> None:
    """Go to a tab of the app with the arrow keys."""
    tabs = lab.page.get_by_role("tablist", name="Parts of the workbench")
    tabs.locator("[aria-selected=true]").focus()
    for _ in range(tabs.get_by_role("tab").count()):
        if label in (tabs.locator("[aria-selected=true]").text_content() or ""):
            return
        lab.page.keyboard.press("ArrowRight")
    raise AssertionError(f"No arrow key led to {label!r}.")


def labels(lab: NotebookPage) -> list[str]:
    tabs = lab.page.get_by_role("tablist", name="Parts of the workbench").get_by_role("tab")
    return [text.strip() for text in tabs.locator("span:first-child").all_text_contents()]


def stops(lab: NotebookPage) -> list[dict[str, Any]]:
    return list(lab.page.evaluate(STOPS))


def test_tab_reaches_every_control_of_every_tab_in_order_and_each_is_named(lab: NotebookPage) -> None:
    wrong = []
    for label in labels(lab):
        open_tab(lab, label)
        lab.settle()  # what is drawn anew once it is shown stays
        found = stops(lab)
        assert len(found) > 4, label
        wrong += [f"{label}: no name: {one['html']}" for one in found if not one["name"]]
        lab.page.locator("[data-stop='0']").first.focus()
        seen = []
        for _ in range(len(found) + MORE):
            here = lab.page.evaluate(HERE)
            seen.append(here["stop"])
            if here["stop"] and not here["ring"]:
                wrong.append(f"{label}: the focus is not seen: {found[int(here['stop'])]['html']}")
            lab.page.keyboard.press("Tab")
        missed = [one["html"] for at, one in enumerate(found) if str(at) not in seen]
        wrong += [f"{label}: not reached: {one}" for one in missed]
        lab.page.evaluate("() => document.querySelectorAll('[data-stop]').forEach((one) => delete one.dataset.stop)")
    assert wrong == []


def test_a_layer_is_picked_and_configured_without_a_mouse(lab: NotebookPage) -> None:
    page, keyboard = lab.page, lab.page.keyboard
    open_tab(lab, labels(lab)[0])
    page.locator(".wb-layers").get_by_role("searchbox").focus()
    keyboard.type("layers.2.mlp")
    expect(page.locator(".wb-layers .wb-rows [role=row]")).to_have_count(3)
    page.locator(".wb-layers .wb-grid").focus()
    keyboard.press("ArrowDown")
    keyboard.press("Home")
    expect(page.locator(".wb-heat .wb-title").first).to_have_text("model.layers.2.mlp.gate_proj")
    keyboard.press("Shift+ArrowDown")
    expect(page.locator(".wb-layers")).to_contain_text("2 selected")
    page.get_by_role("slider", name="Group size").focus()
    keyboard.press("ArrowRight")
    expect(page.locator(".wb-heat .wb-axis-name", has_text="group of 128").first).to_be_visible()
    page.get_by_role("radiogroup", name="Solver").get_by_role("radio", checked=True).focus()
    keyboard.press("ArrowRight")
    expect(page.get_by_role("radio", name="hqq", exact=True)).to_be_checked()
    lab.expect_output("print(app.session.resolved().solver, app.session.resolved().group_size)", "hqq 128")


def test_undo_and_the_recipe_without_a_mouse(lab: NotebookPage) -> None:
    page, keyboard = lab.page, lab.page.keyboard
    page.get_by_role("button", name="Undo", exact=True).first.focus()
    keyboard.press("Enter")
    expect(page.get_by_role("radio", name="rtn", exact=True)).to_be_checked()
    open_tab(lab, "Recipe")
    page.get_by_role("tab", name="Changes", exact=True).focus()
    keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="History", exact=True)).to_be_focused()
    expect(page.locator(".wb-step[aria-current=step]")).to_contain_text("group size 64 → 128")
    page.locator(".wb-step", has_text="the recipe at the start").focus()
    keyboard.press("Enter")
    expect(page.locator(".wb-step[aria-current=step]")).to_contain_text("the recipe at the start")
    lab.expect_output("print(app.recipe.default.config.group_size)", "64")


def test_an_export_is_written_without_a_mouse(lab: NotebookPage) -> None:
    page, keyboard = lab.page, lab.page.keyboard
    open_tab(lab, "Export")
    page.get_by_label("Directory").focus()
    keyboard.press("Control+A")
    keyboard.type("keyboard/int4")
    keyboard.press("Tab")
    page.get_by_role("button", name="Export checkpoint", exact=True).focus()
    keyboard.press("Space")
    expect(page.locator("[data-fact=Verified]")).to_contain_text("yes", timeout=60_000)
    assert (lab.server.root / "keyboard" / "int4" / "config.json").is_file()
