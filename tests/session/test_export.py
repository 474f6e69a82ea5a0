"""Exports in a session: formats asked before anything runs, a recipe made to fit, a format written and checked."""

from __future__ import annotations

import json
import threading

import pytest

from tests.session.stand_ins import TIMEOUT_S, Heard
from workbench.checkpoint.stored_contents import CheckpointContents
from workbench.errors import CheckpointError, ConfigError
from workbench.session import open_session
from workbench.targets import NATIVE, TARGETS
from workbench.targets.run import RECORD_FILE, fits_of, verify_export

pytestmark = pytest.mark.usefixtures("quick_roofline")
GATE = "model.layers.0.mlp.gate_proj"


def test_every_format_answers_before_anything_is_solved(session):
    heard = Heard(session)
    session.refresh()
    assert session.wait(TIMEOUT_S)
    [table] = heard.of("targets")
    assert list(table.fits) == [NATIVE, *TARGETS]
    assert session.exports.table is table
    assert table.fits["compressed-tensors"].state == "refused"
    assert len(session.errors) <= 1


def test_a_change_makes_the_answers_stale_until_they_are_asked_again(session):
    session.refresh()
    assert session.wait(TIMEOUT_S)
    session.configure(domain="int", scope="all")
    assert session.exports.table is None or session.exports.table.fits["compressed-tensors"].state != "refused"
    session.refresh()
    assert session.wait(TIMEOUT_S)
    assert session.exports.table.fits["compressed-tensors"].state == "exact"


def test_answers_that_come_before_the_recipe_is_told_are_kept_and_told(session, monkeypatch):
    asked, told, heard = threading.Event(), threading.Event(), Heard(session)
    session.listen(lambda event: event.kind == "coverage" and told.set())
    refresh, targets = session.views.refresh, session.exports.targets

    def quick():  # as for a layer that is held already
        job = refresh()
        assert asked.wait(TIMEOUT_S)
        return job

    def late():
        asked.set()
        assert told.wait(TIMEOUT_S)
        return targets()

    monkeypatch.setattr(session.views, "refresh", quick)
    monkeypatch.setattr(session.exports, "targets", late)
    session.configure(group_size=32)
    assert session.wait(TIMEOUT_S) and heard.of("targets") == [session.exports.table]


def test_a_question_that_outlives_its_recipe_keeps_none_from_being_asked(session, monkeypatch):
    asked, seen, shown = threading.Event(), threading.Event(), threading.Event()
    session.listen(lambda event: event.kind == "job" and event.data.state == "done" and asked.is_set() and seen.set())
    targets = session.exports.targets

    def slow():
        if not asked.is_set():
            asked.set()
            assert seen.wait(TIMEOUT_S)  # the view of the next recipe has come meanwhile
        return targets()

    monkeypatch.setattr(session.exports, "targets", slow)
    session.refresh()
    assert asked.wait(TIMEOUT_S)
    session.listen(lambda event: event.kind == "targets" and shown.set())
    session.configure(group_size=32)
    assert session.wait(TIMEOUT_S) and session.exports.table is not None and shown.is_set()


def test_answers_are_told_whoever_asks(session):
    heard = Heard(session)
    table = session.exports.targets()
    assert heard.of("targets") == [table] and session.exports.targets() is table


def test_the_forecast_is_what_is_written(session, tmp_path):
    table = session.exports.targets()
    for name in ("native", "mlx"):
        session.export(tmp_path / name, format=name, verify=False)
        assert session.wait(TIMEOUT_S)
        shards = sum(path.stat().st_size for path in (tmp_path / name).glob("*.safetensors"))
        assert shards == pytest.approx(table.fits[name].size_bytes, rel=0.02)  # but for the headers


def test_the_recipe_is_made_to_fit_in_one_step_that_can_be_undone(session):
    session.configure(group_size=256, scope="all")
    session.select([GATE])
    session.configure(group_size=32, scope="layer")
    before = session.recipe
    session.exports.fit("awq")
    assert session.exports.targets().fits["awq"].state == "rounded"  # scales to float16
    configs = session.coverage.configs
    assert {config.domain for config in configs.values()} == {"int"}
    assert configs[GATE].group_size == 32
    assert {config.group_size for name, config in configs.items() if name != GATE} == {256}  # held, scales repeated
    session.undo()
    assert session.recipe == before


def test_what_no_setting_mends_is_refused_in_words(session, monkeypatch):
    from workbench.targets.target import Fit, Misfit

    table = session.exports.targets()
    stuck = Fit("mlx", misfits=(Misfit("the architecture x", "llama", "export to another format"),))
    monkeypatch.setitem(table.fits, "mlx", stuck)
    with pytest.raises(ConfigError, match="architecture x"):
        session.exports.fit("mlx")
    with pytest.raises(ConfigError, match="nothing"):
        session.exports.fit("nothing")


def test_formats_that_cannot_be_asked_are_told_once(pair):
    class Unsaved:
        def __call__(self, text, verbose=True):
            return {"input_ids": []}

    session = open_session(pair[0], Unsaved())
    heard = Heard(session)
    session.refresh()
    assert session.wait(TIMEOUT_S)
    session.select([GATE])
    assert session.wait(TIMEOUT_S)
    failed = [job for job in heard.of("job") if job.label == "Export formats" and job.state == "failed"]
    assert len(failed) == 1 and session.exports.table is None


def test_an_export_is_written_checked_and_told(session, tmp_path):
    heard = Heard(session)
    session.configure(domain="int", scope="all")
    session.export(tmp_path / "out", format="compressed-tensors")
    assert session.wait(TIMEOUT_S)
    [result] = heard.of("export")
    assert result is session.exported
    assert result.report.target == "compressed-tensors"
    assert result.report.max_error == 0
    assert len(result.layers) == len(session.coverage.configs)
    assert verify_export(tmp_path / "out") == result.files - 1
    assert "from_pretrained" in result.report.load.python
    record = json.loads((tmp_path / "out" / RECORD_FILE).read_text(encoding="utf-8"))
    assert record["recipe"] == session.recipe.to_json()


def test_a_format_that_cannot_hold_the_recipe_writes_nothing(session, tmp_path):
    with pytest.raises(CheckpointError, match="domain='int'"):
        session.export(tmp_path / "out", format="gptq")
    assert not (tmp_path / "out").exists()


def test_the_cell_and_the_command_name_the_format(session, tmp_path):
    assert f"wb.export(model, {str(tmp_path)!r}, 'mlx', tokenizer=tokenizer)" in session.as_python(tmp_path, "mlx")
    assert "wb.save_checkpoint" in session.as_python(tmp_path)
    assert "workbench export demo --format mlx" in open_session("demo").as_command(tmp_path, "mlx")


def test_a_native_checkpoint_gives_the_same_answers(session, tmp_path):
    session.export(tmp_path / "out", verify=False)
    assert session.wait(TIMEOUT_S)
    table = fits_of(CheckpointContents(tmp_path / "out").outline())
    assert {name: fit.state for name, fit in table.fits.items()} == {
        name: fit.state for name, fit in session.exports.targets().fits.items()
    }
