"""The report in a real browser: no errors, nothing asked of a network, sorted by a click, readable in both themes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from readable import expect_readable

from workbench.measure.decode import DecodeSpeed
from workbench.records.speed import SpeedPoint
from workbench.session import open_session

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    session = open_session("demo")
    for path, times in (("int4", (0.5, 2.0)), ("dense", (1.0, 1.9))):
        for batch, ms in zip((1, 256), times, strict=True):
            point = SpeedPoint("cpu", "a CPU", path, "bfloat16", 256, 256, 64, batch, ms, ms, ms, 9, 1.0, 1.0)
            session.speed.points.append(point)
    target = session.verdict.target()
    assert target is not None
    session.verdict._known[target] = DecodeSpeed("cpu", "a CPU", "bfloat16", 768, 256, 64, 1.0, 2.0, 9)
    file = tmp_path_factory.mktemp("report") / "report.html"
    assert session.report(file).wait(120)
    session.wait(60)
    return file


@pytest.fixture
def opened(browser: Browser, report: Path) -> Iterator[Callable[..., Page]]:
    """Open the report under a colour scheme; no error, no message and no request may come of it."""
    contexts, faults = [], []

    def opening(scheme: str = "light", width: int = 1180, scripts: bool = True) -> Page:
        size = {"width": width, "height": 900}
        context = browser.new_context(color_scheme=scheme, viewport=size, java_script_enabled=scripts)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text))
        page.on("request", lambda sent: None if sent.url.startswith(("file:", "data:")) else faults.append(sent.url))
        page.goto(report.as_uri())
        return page

    yield opening
    for context in contexts:
        context.close()
    assert faults == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [420, 1180, 2560])
def test_it_is_readable_in_both_themes(opened: Callable[..., Page], scheme: str, width: int) -> None:
    page = opened(scheme, width)
    expect(page.locator("h1")).to_have_text("Int4 report: demo")
    assert page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    expect_readable(page.locator("main"), fits=False)
    assert page.locator("img").evaluate_all("images => images.every((one) => one.naturalWidth > 0)")
    page.screenshot(path=HERE.parent / "screenshots" / f"report-{scheme}-{width}.png", full_page=True)


def test_a_click_on_a_head_sorts_and_a_second_one_turns_it_round(opened: Callable[..., Page]) -> None:
    page = opened()
    table = page.locator("table.sortable")
    errors = table.locator("tbody tr td:nth-child(6)")

    def shown() -> list[float]:
        return [float(text.rstrip("%")) for text in errors.all_inner_texts() if text != "–"]

    head = table.get_by_role("button", name="Error")
    head.click()
    assert shown() == sorted(shown()) and errors.last.inner_text() == "–"
    expect(table.locator("th[aria-sort]")).to_have_attribute("aria-sort", "ascending")
    head.press("Enter")
    assert shown() == sorted(shown(), reverse=True) and errors.last.inner_text() == "–"
    table.get_by_role("button", name="Weight").click()
    names = table.locator("tbody code").all_inner_texts()
    assert names[0] == "lm_head"


def test_without_scripts_all_is_there(opened: Callable[..., Page]) -> None:
    page = opened(scripts=False)
    expect(page.locator("table.sortable tbody tr")).to_have_count(57)
    expect(page.locator("table.sortable button")).to_have_count(0)
    expect(page.locator("figure svg")).to_have_count(2)


def test_it_prints_light_and_whole(opened: Callable[..., Page]) -> None:
    page = opened("dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert (
        page.evaluate("() => getComputedStyle(document.documentElement).getPropertyValue('--fg')").strip() == "#1c2026"
    )
    box = page.locator(".scroll").last
    assert box.evaluate("one => one.scrollHeight - one.clientHeight") <= 1
    assert len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4"))) >= 2
