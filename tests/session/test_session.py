"""The session without a widget: every action of a person, what it tells, and what it refuses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import workbench as wb
from tests.session.stand_ins import (
    GATE,
    TIMEOUT_S,
    UP,
    Heard,
    assert_same_checkpoint,
    broken_toy,
    waited,
)
from workbench.demo import demo_path
from workbench.errors import CheckpointError, ConfigError, ModelError, WeightError, WorkbenchError
from workbench.hf.loading import load_checkpoint, load_model
from workbench.recipe.recipe import Recipe, Rule
from workbench.session import Session, open_session

pytestmark = pytest.mark.usefixtures("quick_roofline")


def test_a_model_without_a_linear_layer_opens_and_refuses_what_needs_one():
    session = open_session(nn.Sequential(nn.Embedding(5, 8), nn.LayerNorm(8)))
    assert (session.current, session.selection, session.targets()) == ("", [], [])
    assert session.refresh() is None
    for action in (
        lambda: session.configure(group_size=32),
        session.keep_dense,
        session.make_int4,
        session.speed.measure,
        lambda: session.export("somewhere"),
    ):
        with pytest.raises(WorkbenchError):
            action()
    assert waited(session.sweep_errors()).state == "done"


def test_repr_is_a_line(demo):
    assert repr(demo).startswith("Session('demo', 42 of ")
    assert "\n" not in repr(demo)


def test_select_keeps_the_models_order_and_shows_the_last(demo):
    heard = Heard(demo)
    demo.select([UP, GATE])
    assert demo.selection == [GATE, UP]
    assert demo.current == GATE
    assert demo.wait(TIMEOUT_S)
    assert heard.of("selection") == [demo]
    assert [view.name for view in heard.of("view")] == [GATE]
    demo.select([GATE, UP], current=UP)
    assert demo.current == UP
    demo.select([])
    assert (demo.selection, demo.current) == ([], UP)


@pytest.mark.parametrize(("names", "current"), [(["nonsense"], None), ([GATE], "nonsense")])
def test_an_unknown_name_changes_nothing(demo, names, current):
    before = (demo.selection, demo.current)
    heard = Heard(demo)
    with pytest.raises(ConfigError, match="no weight 'nonsense'"):
        demo.select(names, current)
    assert (demo.selection, demo.current) == before
    assert heard.events == []


# --- exporting ----------------------------------------------------------------------------------------------------


def test_an_export_is_verified_and_generates(demo, tmp_path):
    heard = Heard(demo)
    demo.configure(group_size=32, solver="hqq")
    job = waited(demo.export(tmp_path / "out"))
    assert (job.state, job.error) == ("done", None)
    (result,) = heard.of("export")
    assert demo.exported is result
    assert result.verified and len(result.layers) == 42 and result.sample
    assert result.size_bytes == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert any(job.progress is not None for job in heard.of("job"))


def test_a_live_model_exports_what_its_folder_exports_with_its_tokenizer(pair, demo, tmp_path):
    model, tokenizer = pair
    live = open_session(model, tokenizer)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    for session, name in ((live, "live"), (demo, "folder")):
        session.set_recipe(Recipe(session.recipe.default, (Rule("q_proj", None),)))
        assert waited(session.export(tmp_path / name)).error is None
    assert_same_checkpoint(tmp_path / "live", tmp_path / "folder")
    assert live.exported.sample == demo.exported.sample != ""
    assert load_checkpoint(tmp_path / "live")[1] is not None
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_without_a_tokenizer_a_live_model_still_exports(pair, tmp_path):
    session = open_session(pair[0])
    assert waited(session.export(tmp_path / "out")).error is None
    assert (session.exported.verified, session.exported.sample) == (True, "")


def test_as_python_makes_the_same_checkpoint_bit_for_bit(demo, tmp_path):
    demo.select([GATE, UP], current=UP)
    demo.configure(group_size=32, domain="int", scope="selection")
    demo.keep_dense("layer")
    demo.configure(solver="hqq", scope="all")
    assert waited(demo.export(tmp_path / "session", verify=False)).error is None
    root = str(Path(wb.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": root, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", demo.as_python()]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "41 of 57 weights become int4" in done.stdout
    assert_same_checkpoint(tmp_path / "session", tmp_path / "exports" / "int4")


def test_as_python_names_the_model_and_the_directory(pair, demo):
    assert "wb.demo_model()" in demo.as_python()
    assert "'my/place'" in demo.as_python("my/place")
    assert "wb.demo_model()" in open_session(pair[0]).as_python()
    text = open_session(nn.Sequential(nn.Linear(64, 64))).as_python()
    assert "load_model" not in text and "that you gave to wb.Workbench" in text
    compile(text, "cell", "exec")


def test_cancel_in_the_middle_of_an_export_leaves_nothing(tmp_path, pair):
    session = open_session(*pair)
    heard = Heard(session)

    def stop(event):
        if event.kind == "job" and event.data.progress is not None:
            session.cancel()

    session.listen(stop)
    job = waited(session.export(tmp_path / "new" / "out"))
    assert job.state == "cancelled"
    assert [path for path in tmp_path.rglob("*") if path.name != "new"] == []
    assert heard.of("export") == []
    assert heard.of("problem") == []
    assert session.exported is None


def test_an_existing_directory_is_kept_and_replaced_only_when_asked(demo, tmp_path):
    target = tmp_path / "out"
    assert waited(demo.export(target, verify=False)).error is None
    before = (target / "config.json").read_bytes()
    heard = Heard(demo)
    demo.configure(group_size=32)
    job = waited(demo.export(target, verify=False))
    assert job.state == "failed"
    assert heard.of("problem") == [job.error]
    assert isinstance(job.error, CheckpointError) and "not empty" in str(job.error)
    assert (target / "config.json").read_bytes() == before
    assert waited(demo.export(target, overwrite=True, verify=False)).error is None
    assert (target / "config.json").read_bytes() != before


def test_files_that_are_no_checkpoint_are_never_replaced(demo, tmp_path, monkeypatch):
    precious = tmp_path / "thesis" / "chapter.txt"
    precious.parent.mkdir()
    precious.write_text("years of work")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        demo.export(precious.parent, overwrite=True)
    monkeypatch.chdir(precious.parent)
    for target in ("", "  ", ".", "..", tmp_path):
        with pytest.raises(CheckpointError):
            demo.export(target, overwrite=True)
    assert precious.read_text() == "years of work"


def test_the_models_own_folder_is_never_the_target(tmp_path):
    folder = copied_demo(tmp_path / "model")
    session = open_session(folder)
    for target in (folder, tmp_path):
        with pytest.raises(CheckpointError, match=r"holds the (model|working)"):
            session.export(target, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_a_directory_that_cannot_be_made_is_a_problem(demo, tmp_path):
    (tmp_path / "file").write_text("in the way")
    heard = Heard(demo)
    job = waited(demo.export(tmp_path / "file" / "out"))
    assert job.state == "failed"
    assert [type(problem) for problem in heard.of("problem")] == [CheckpointError]
    assert waited(demo.export(tmp_path / "out", verify=False)).error is None


def test_a_recipe_without_int4_has_nothing_to_export(demo, tmp_path):
    demo.keep_dense("all")
    with pytest.raises(ConfigError, match="No layer becomes int4"):
        demo.export(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_model_on_the_meta_device_shows_its_layers_and_says_what_it_lacks(tmp_path):
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    session = open_session(model)
    heard = Heard(session)
    assert session.device == "cpu" or torch.cuda.is_available()
    assert {row.reason for row in session.layer_rows()} == {"on the meta device: no values"}
    waited(session.refresh())
    assert [type(problem) for problem in heard.of("problem")] == [ModelError]
    assert "no values" in str(heard.of("problem")[0])
    with pytest.raises(ModelError, match="meta device"):
        session.export(tmp_path / "out")


def test_a_model_that_is_int4_already_is_refused_when_opened_with_a_recipe_or_made_so_later(tmp_path):
    model, _ = load_model(demo_path())
    opened_before = open_session(model)
    wb.quantize_(model, wb.Int4WeightOnlyConfig(group_size=64), include="mlp")
    for session in (opened_before, open_session(model, recipe=opened_before.recipe)):
        with pytest.raises(ModelError, match=r"int4 already.*wb.Workbench\(model\), to convert it"):
            session.export(tmp_path / "out")
    heard = Heard(opened_before)
    opened_before.select([GATE])
    assert opened_before.wait(TIMEOUT_S)
    assert "int4 already" in str(heard.of("problem")[0])


# --- problems -----------------------------------------------------------------------------------------------------


def copied_demo(target):
    target.mkdir()
    for path in demo_path().iterdir():
        if path.is_file():
            (target / path.name).write_bytes(path.read_bytes())
    return target


def test_a_nan_reaches_the_listener_with_its_place_and_the_session_goes_on():
    session = Session(broken_toy())
    heard = Heard(session)
    session.select(["bad"])
    assert session.wait(TIMEOUT_S)
    (problem,) = heard.of("problem")
    assert isinstance(problem, WeightError) and "bad[3, 7] is nan" in str(problem)
    assert "Traceback" in next(event.job.details for event in heard.events if event.kind == "problem")
    session.select(["good"])
    assert session.wait(TIMEOUT_S)
    assert [view.name for view in heard.of("view")] == ["good"]


def test_an_export_with_a_nan_leaves_nothing_and_the_session_usable(tmp_path):
    model, tokenizer = load_model(demo_path())
    with torch.no_grad():
        model.get_submodule(UP).weight[1, 2] = float("inf")
    session = open_session(model, tokenizer)
    heard = Heard(session)
    job = waited(session.export(tmp_path / "out"))
    assert job.state == "failed"
    assert f"{UP}[1, 2] is inf" in str(heard.of("problem")[0])
    assert list(tmp_path.iterdir()) == []
    session.select([UP])
    session.keep_dense("layer")
    assert waited(session.export(tmp_path / "out", verify=False)).error is None


def test_a_shard_cut_short_after_opening_is_a_problem_that_names_the_file(tmp_path):
    folder = copied_demo(tmp_path / "model")
    session = open_session(folder)
    heard = Heard(session)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    session.select([GATE])
    assert session.wait(TIMEOUT_S)
    (problem,) = heard.of("problem")
    assert isinstance(problem, ModelError) and "model.safetensors" in str(problem)
    assert waited(session.export(tmp_path / "out")).state == "failed"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
    (folder / "model.safetensors").write_bytes(whole)
    session.select([UP])
    assert session.wait(TIMEOUT_S)
    assert [view.name for view in heard.of("view")] == [UP]
