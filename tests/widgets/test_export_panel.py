"""The Export tab without a browser: formats and their fit, a recipe made to fit, what was written."""

from __future__ import annotations

import pytest

from tests.widgets.opened import following
from tests.widgets.test_app import click, facts
from workbench.session import open_session
from workbench.targets import NATIVE, TARGETS
from workbench.widgets.export_panel import ExportPanel

TIMEOUT_S = 120


@pytest.fixture
def panel(wire):
    problems = []
    with following(ExportPanel, open_session("demo"), lambda error, where: problems.append(error)) as panel:
        yield panel
    assert problems == []


def row(panel, name):
    return next(one for one in panel.formats.rows if one["id"] == name)


def enabled(panel):
    return {button["id"] for button in panel.commands.buttons if button["enabled"]}


def offered(panel):
    """Ids of the buttons of the box above the form, which is away where nothing is in the way."""
    away = "wb-away" in panel._callout._dom_classes
    return [] if away else [button["id"] for button in panel.fitting.buttons]


def test_every_format_is_there_with_its_fit_before_anything_runs(panel):
    assert [one["id"] for one in panel.formats.rows] == [NATIVE, *TARGETS]
    assert (panel.formats.selected, panel.formats.busy) == (NATIVE, False)
    assert row(panel, "awq")["state"] == "refused" and row(panel, "awq")["fixable"]
    assert "it can be made to fit" in row(panel, "awq")["remark"]
    assert row(panel, "mlx")["size"]


def test_a_refused_format_cannot_be_written_but_made_to_fit(panel):
    panel.formats.selected = "compressed-tensors"
    assert enabled(panel) == {"python", "shell"} and offered(panel) == ["fit"]
    assert "domain='int'" in panel.refusal.notes[0]
    before = panel.session.recipe
    click(panel.fitting, "fit")
    assert panel.formats.busy
    panel.session.refresh()
    assert panel.session.wait(TIMEOUT_S)
    assert row(panel, "compressed-tensors")["state"] == "exact"
    assert panel.formats.selected == "compressed-tensors"
    assert "export" in enabled(panel) and offered(panel) == ["undo"]
    panel.formats.selected = "mlx"
    assert offered(panel) == []
    panel.formats.selected = "compressed-tensors"
    click(panel.fitting, "undo")
    assert panel.session.recipe == before


def test_what_was_written_is_shown_with_the_lines_that_load_it(panel, tmp_path):
    panel.form.change("directory", str(tmp_path / "out"))
    panel.formats.selected = "mlx"
    click(panel.commands, "export")
    assert panel.session.wait(TIMEOUT_S)
    assert facts(panel.result)["Format"] == "MLX"
    assert float(facts(panel.result)["max |Δw|"]) > 0
    assert facts(panel.result)["Verified"] == "yes"
    assert "mlx_lm" in panel.result.code and "# in a shell" in panel.result.code


def test_a_folder_that_is_there_is_said_under_the_field_with_the_switch_that_replaces_it(panel, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    panel.form.change("directory", str(tmp_path))
    click(panel.commands, "export")
    assert panel.session.wait(TIMEOUT_S)
    said = panel.form.errors["directory"]
    assert "is not empty" in said and "replace what is there" in said
    panel.form.change("directory", str(tmp_path / "out"))
    assert panel.form.errors == {}


def test_the_cell_and_the_command_name_the_chosen_format(panel):
    panel.formats.selected = "gguf"
    click(panel.commands, "python")
    assert "'gguf'" in panel.result.code
    click(panel.commands, "shell")
    assert "--format gguf" in panel.result.code
