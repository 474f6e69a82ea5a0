"""Where no widget runs: a saved notebook of the app, as GitHub or a static page shows it."""

from __future__ import annotations

import nbformat
import pytest
from nbclient import NotebookClient
from nbconvert import HTMLExporter

VIEW = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> nbformat.NotebookNode:
    """A notebook with the app in a cell and its session in another, run, without the widgets' state."""
    cells = ["import workbench as wb\napp = wb.Workbench()\napp.wait(60)", "app", "app.session"]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    place = {"metadata": {"path": str(tmp_path_factory.mktemp("static"))}}
    NotebookClient(book, timeout=120, kernel_name="python3", store_widget_state=False, resources=place).execute()
    return book


def test_the_app_brings_a_view_for_those_who_can_run_it_and_facts_for_all_others(book: nbformat.NotebookNode) -> None:
    (shown,) = book.cells[1].outputs
    assert {VIEW, "text/html", "text/plain"} <= set(shown.data)
    assert "42 of 57 weights" in shown.data["text/html"] and "int4, group size 64, rtn" in shown.data["text/html"]
    assert shown.data["text/plain"].startswith("Workbench('demo', 42 of 57")
    assert len(shown.data["text/html"]) < 4000, "it is stored in every notebook"


def test_a_session_is_a_table_too(book: nbformat.NotebookNode) -> None:
    (shown,) = book.cells[2].outputs
    assert VIEW not in shown.data and "<table" in shown.data["text/html"]


def test_a_static_page_shows_the_facts(book: nbformat.NotebookNode) -> None:
    page, _ = HTMLExporter().from_notebook_node(book)
    assert page.count('class="wb-session-facts"') == 2
    assert "11.54 MB →" in page
