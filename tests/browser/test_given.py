"""A checkpoint that is int4 already in a real JupyterLab: looked at as it is stored, timed, and converted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from notebook_page import NotebookPage, show_tab
from playwright.sync_api import expect
from readable import expect_readable
from shared_lab import SharedLab

import workbench as wb

TIMEOUT_MS = 60_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("given") / "int4"
    config = wb.Int4WeightOnlyConfig(group_size=32, zero_point_domain=wb.ZeroPointDomain.INT)
    wb.export("demo", place, "compressed-tensors", recipe=config)
    return place


@pytest.fixture(scope="module")
def lab(shared_lab: SharedLab, folder: Path) -> Iterator[NotebookPage]:
    """The app on a checkpoint of another library's format; the tests below share it in their order."""
    with shared_lab.lend([f"import workbench as wb\napp = wb.Workbench({str(folder)!r})\napp"], 1280, 1500) as lab:
        yield lab


def test_it_opens_on_what_is_stored(lab: NotebookPage) -> None:
    app = lab.page.locator(".wb-app")
    expect(app.locator(".wb-app-header")).to_contain_text("42 layers in int4 already")
    expect(app.get_by_role("button", name="Improve")).to_be_disabled()
    expect(app.locator(".wb-heat canvas").last).to_be_visible()
    lab.expect_output("print(app.session.stored.latest.name)", "model.layers.0.self_attn.q_proj")
    expect(app.get_by_text("errors are measured against the original weights")).to_be_visible()
    expect(app.locator(".wb-problem")).not_to_be_visible()


def test_another_layer_is_shown_by_a_click(lab: NotebookPage) -> None:
    lab.page.locator(".wb-app [data-name='model.layers.0.mlp.down_proj']").click()
    lab.expect_output("print(app.session.stored.latest.name)", "model.layers.0.mlp.down_proj")
    lab.page.locator(".wb-app [data-field='stored_metric'] select").select_option(label="dequantized weight")
    lab.expect_output("print(app.session.stored.latest.metric)", "dequantized")


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_it_is_readable_in_both_themes(lab: NotebookPage, theme: str) -> None:
    lab.set_theme(theme)
    expect_readable(lab.page.locator(".wb-app"))
    lab.screenshot(f"given-{theme}", ".wb-app")


def test_it_is_converted(lab: NotebookPage, folder: Path) -> None:
    show_tab(lab.page, "Export")
    target = folder.parent / "converted"
    directory = lab.page.get_by_label("Directory", exact=True)
    directory.fill(str(target))
    directory.press("Enter")
    lab.expect_output("print(app.export.form.values['directory'])", str(target))
    lab.page.get_by_role("button", name="Export checkpoint", exact=True).click()
    expect(lab.page.get_by_text(f"Exported to {target}")).to_be_visible(timeout=TIMEOUT_MS)
    assert lab.run_code("print(app.session.exported.report.max_error)") == "0.0"
    assert lab.run_code("print(app.session.exported.verified)") == "True"
