"""`workbench report`: one file of all figures, or a line that says why not."""

from __future__ import annotations

import pytest

from workbench.cli.main import main
from workbench.recipe.recipe import Recipe

pytestmark = pytest.mark.usefixtures("quick_roofline")


def test_a_report_is_one_file_under_a_recipe(model, tmp_path, capsys):
    Recipe.preset("accurate").save(tmp_path / "r.json")
    out = tmp_path / "report.html"
    assert main(["report", str(model), "--recipe", str(tmp_path / "r.json"), "--out", str(out)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert (
        said[-1].startswith(f"wrote {out}: ") and "smaller · weight error" in said[-2] and "dense on this" in said[-2]
    )
    text = out.read_text(encoding="utf-8")
    assert "14 of 14 int4 layers solved" in text and "Every weight" in text


def test_a_report_of_what_is_int4_already_takes_no_recipe(fails, model, tmp_path, capsys):
    int4, out = tmp_path / "int4", tmp_path / "report.html"
    assert main(["quantize", str(model), "--out", str(int4)]) == 0
    assert main(["report", str(int4), "--out", str(out)]) == 0
    assert "14 layers in int4 already" in capsys.readouterr().out
    assert "int4 already" in fails("report", int4, "--group-size", 32, "--out", tmp_path / "other.html")


def test_a_report_that_cannot_be(fails, model, tmp_path):
    assert "cannot be written" in fails("report", model, "--out", tmp_path)
    assert "no-such-model' does not exist" in fails("report", tmp_path / "no-such-model")
    assert "no calibration text" in fails("report", model, "--solver", "calibrated", "--out", tmp_path / "r.html")
    assert [path.name for path in tmp_path.iterdir()] == ["models"]
