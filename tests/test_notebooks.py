"""The notebooks that we ship: thin, stored without outputs, and each runs from top to bottom, silent on stderr."""

import ast
import re

import nbformat
import pytest
from nbclient import NotebookClient

from workbench.demo import notebooks_path

NOTEBOOKS = sorted(notebooks_path().glob("*.ipynb"))
MOST_LINES = 12
SHORT_TEXTS = """
import workbench.demo
texts = {name: getattr(workbench.demo, name)()[:9_000] for name in ("demo_calibration_text", "demo_eval_text")}
workbench.demo.demo_calibration_text = lambda: texts["demo_calibration_text"]
workbench.demo.demo_eval_text = lambda: texts["demo_eval_text"]
"""  # run before a notebook's cells, which take a minute with the whole texts
# Notebook → what it does over large matrices or the whole demo model, and what the test lets it do.
SMALLER = {
    "02_solvers": {
        "tokenizer = wb.demo_model()": "tokenizer = wb.demo_model(); del model.model.layers[2:]",
        "model.layers.3.mlp": "model.layers.1.mlp",
    },
    "03_speed": {
        "import workbench as wb": "import workbench as wb\nimport workbench.measure.roofline as roofline\n"
        "roofline.rotation_bytes, roofline._SIZES = (lambda device: 2**20), (64,)",
        "n, k = 2048, 2048": "n, k = 128, 128",
        "batch_sizes=(1, 4, 16, 64, 256, 1024)": "batch_sizes=(1, 64)",
        "new_tokens=16, rounds=3": "new_tokens=4, rounds=1",
    },
}

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_there_are_notebooks_and_their_numbers_count_up():
    assert [int(path.name[:2]) for path in NOTEBOOKS] == list(range(1, len(NOTEBOOKS) + 1))
    assert NOTEBOOKS
    assert all(re.fullmatch(r"\d\d_[a-z0-9_]+\.ipynb", path.name) for path in NOTEBOOKS)


@each_notebook
def test_it_is_stored_clean(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert "widgets" not in notebook.metadata
    for cell in code_cells(path):
        assert cell.outputs == []
        assert cell.execution_count is None
        assert "execution" not in cell.metadata


@each_notebook
def test_it_is_thin(path):
    cells = code_cells(path)
    assert cells
    for cell in cells:
        assert 1 <= len(cell.source.splitlines()) <= MOST_LINES, cell.source
        if not cell.source.lstrip().startswith(("%", "!")):
            found = [type(node).__name__ for node in ast.walk(ast.parse(cell.source))]
            assert not {"FunctionDef", "AsyncFunctionDef", "ClassDef", "Lambda"} & set(found), cell.source


@each_notebook
def test_it_begins_by_saying_what_it_is_for(path):
    first = nbformat.read(path, as_version=4).cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")


def made_smaller(path):
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(SHORT_TEXTS))
    for before, after in SMALLER.get(path.stem, {}).items():
        (cell,) = [cell for cell in notebook.cells[1:] if cell.cell_type == "code" and before in cell.source]
        cell.source = cell.source.replace(before, after)
    return notebook


@each_notebook
def test_it_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
    monkeypatch.delenv("INT4_WORKBENCH_MODEL", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    work = tmp_path / "work"
    work.mkdir()
    notebook = made_smaller(path)
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(work)}})
    client.execute()
    for cell in notebook.cells:
        outputs = cell.get("outputs", [])
        assert [out for out in outputs if out.output_type == "error"] == []
        assert "".join(out.text for out in outputs if out.output_type == "stream" and out.name == "stderr") == ""
    shown = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    assert shown, "a notebook that shows nothing teaches nothing"
