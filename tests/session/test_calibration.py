"""Calibration in a session: the text and what is said of it, its views, sweep and export, and the cell of Python."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

import workbench as wb
from tests.calibrated_models import Letters
from tests.session.stand_ins import Heard, Toy, assert_same_checkpoint, closing, waited
from tests.tiny_models import demo_of_two_blocks, make, saved
from workbench.calibration import Calibration, layer_moments
from workbench.demo import demo_calibration_text
from workbench.errors import Cancelled, ConfigError, ModelError
from workbench.measure.errors import error_summary
from workbench.recipe.recipe import Choice, Rule
from workbench.session import Session, open_session
from workbench.session.calibration import JOB_LABEL, SessionCalibration
from workbench.session.tokenized_text import DEMO_ORIGIN, TYPED_ORIGIN
from workbench.solvers import solve
from workbench.solving import iter_quantize
from workbench.sources import ModelSource
from workbench.views.cache import UPSTREAM

TIMEOUT_S = 120
Q, NEXT, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.o_proj", "model.layers.1.mlp.down_proj"
TEXT = demo_calibration_text()[:4000]  # two windows of 512 tokens; one up to 3000 characters


@pytest.fixture(scope="module")
def pair():
    return demo_of_two_blocks()


@pytest.fixture
def session(session):
    """A live demo model, one layer of which is calibrated, with a text that is short enough for tests."""
    session.calibration.set_text(TEXT)
    session.configure(solver="calibrated", scope="layer")
    assert session.wait(TIMEOUT_S)
    return session


def badges(heard):
    return [view.badge for view in heard.of("view")]


# --- the text -----------------------------------------------------------------------------------------------------


def test_the_demo_model_begins_with_its_own_text_and_others_with_none(pair):
    for given in ("demo", pair[0]):
        session = open_session(given)
        assert session.calibration.text == demo_calibration_text()
        assert session.calibration.state.origin == DEMO_ORIGIN
    bare = open_session(nn.Sequential(nn.Linear(64, 64)))
    assert (bare.calibration.text, bare.calibration.state.origin) == ("", "")
    with pytest.raises(ConfigError, match="comes with no text"):
        bare.calibration.use_demo_text()


def test_a_text_is_looked_at_and_what_is_used_is_told(session, pair):
    heard = Heard(session)
    session.calibration.set_text(TEXT[:2900])
    assert session.wait(TIMEOUT_S)
    state = session.calibration.state
    expected = Calibration.from_text(TEXT[:2900], pair[1])
    assert (state.sequences, state.sequence_length, state.tokens) == (*expected.ids.shape, expected.tokens)
    assert (state.notes, state.characters, state.origin) == (expected.notes, 2900, TYPED_ORIGIN)
    assert heard.of("calibration")[-1] == state and heard.of("problem") == []
    session.calibration.use_demo_text()
    assert session.calibration.text == demo_calibration_text()
    assert session.calibration.state.origin == DEMO_ORIGIN


@pytest.mark.parametrize(
    ("text", "said"), [("", "no calibration text"), ("  \n ", "no calibration text"), ("a", "has 1 token")]
)
def test_a_text_that_cannot_be_used_is_said_with_its_mend_and_the_view_falls_back(session, text, said):
    heard = Heard(session)
    session.calibration.set_text(text)
    assert session.wait(TIMEOUT_S)
    problem = session.calibration.state.problem
    assert said in str(problem) and "To mend it" in str(problem)
    view = heard.of("view")[-1]
    assert (view.solver, view.badge) == ("refined", "refined instead")
    assert view.notes == (f"solved with refined instead of calibrated: {problem}",)
    assert view.summary == session.errors[Q].summary
    refused = (session.sweep_errors, lambda: session.export("nowhere"), session.as_python)
    for action in refused:
        with pytest.raises(ConfigError, match=said):
            action()
    session.calibration.set_text(TEXT)
    assert session.wait(TIMEOUT_S)
    assert session.calibration.state.problem is None
    assert badges(heard)[-1] == "inputs of the dense model"


def test_too_few_tokens_fall_back_and_say_how_many_are_needed(session):
    heard = Heard(session)
    session.calibration.set_text("a few words only")
    assert session.wait(TIMEOUT_S)
    assert badges(heard)[-1] == "refined instead"
    assert "fewer than 128" in heard.of("view")[-1].notes[-1]


@pytest.mark.parametrize("live", [True, False])
def test_a_model_of_few_positions_gets_shorter_sequences_and_is_told(live, tmp_path):
    session = open_session(make("qwen2") if live else saved("qwen2", tmp_path), Letters())
    heard = Heard(session)
    session.calibration.set_text("The module provides some words. " * 10)
    session.select([Q])
    session.configure(solver="calibrated", scope="layer", options={"candidates": 1, "sweeps": 0})
    assert session.wait(TIMEOUT_S)
    state = session.calibration.state
    assert state.problem is None and state.sequence_length == 64
    assert state.notes[0] == "sequences of 64 tokens instead of 512: the model has no more positions"
    assert badges(heard)[-1] == "inputs of the dense model" and heard.of("problem") == []


def test_half_a_pair_of_a_character_is_refused_and_the_old_text_stays(session):
    with pytest.raises(ConfigError, match=r"Character 2 .*half of a pair"):
        session.calibration.set_text("ab\ud83d c")
    assert session.calibration.text == TEXT


def test_a_live_model_without_a_tokenizer_says_so(pair):
    session = open_session(pair[0])
    session.configure(solver="calibrated")
    assert session.wait(TIMEOUT_S)
    assert "came without a tokenizer" in str(session.calibration.state.problem)
    assert "wb.Workbench(model, tokenizer)" in str(session.calibration.state.problem)


def test_weights_without_a_model_fall_back_with_the_reason():
    torch.manual_seed(2)
    source = Toy({"a": torch.randn(24, 128)})
    session, (_, tokenizer) = Session(source), wb.demo_model()
    session.calibration.tokenizer = tokenizer
    heard = Heard(session)
    session.calibration.set_text(TEXT)
    session.configure(solver="calibrated")
    assert session.wait(TIMEOUT_S)
    assert "no model that can run a text" in heard.of("view")[-1].notes[0]
    assert [type(problem) for problem in heard.of("problem")] == [ModelError]


# --- files --------------------------------------------------------------------------------------------------------


def test_a_file_that_cannot_be_used_changes_nothing(session, tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        session.calibration.load_file(tmp_path / "none.txt")
    assert session.calibration.text == TEXT


def test_a_file_is_loaded_and_named(session, tmp_path):
    (tmp_path / "corpus.txt").write_text(TEXT[:2000], encoding="utf-8")
    session.calibration.load_file(str(tmp_path / "corpus.txt"))
    assert session.wait(TIMEOUT_S)
    state = session.calibration.state
    assert (session.calibration.text, state.path) == (TEXT[:2000], tmp_path / "corpus.txt")
    assert state.origin == str(tmp_path / "corpus.txt") and state.tokens


# --- views --------------------------------------------------------------------------------------------------------


def test_the_view_is_of_the_inputs_of_the_dense_model(session, pair):
    heard = Heard(session)
    session.select([DOWN])
    session.configure(solver="calibrated", scope="layer")
    assert session.wait(TIMEOUT_S)
    view = heard.of("view")[-1]
    assert (view.name, view.solver, view.badge) == (DOWN, "calibrated", "inputs of the dense model")
    assert "an export takes those of the model as it is quantized so far" in view.notes[0]
    moments = layer_moments(pair[0], [DOWN], Calibration.from_text(TEXT, pair[1]))[DOWN]
    weight, config = session.source.weight(DOWN), session.coverage.configs[DOWN]
    expected = solve(weight, config, statistics=moments)
    assert view.summary == error_summary(weight, expected.weight)
    assert view.trace == expected.trace
    assert session.errors[DOWN].summary == view.summary


def test_until_the_inputs_are_there_the_view_is_refined_and_not_recorded(pair, monkeypatch):
    monkeypatch.setattr("workbench.session.tokenized_text.demo_calibration_text", lambda: TEXT)
    session = open_session(*pair)
    heard = Heard(session)
    recorded = []
    session.listen(lambda event: event.kind == "view" and recorded.append(Q in session.errors))
    session.configure(solver="calibrated")
    assert session.wait(TIMEOUT_S)
    assert badges(heard) == ["refined for now", "inputs of the dense model"]
    assert recorded == [False, True]
    progress = [job.label for job in heard.of("job") if job.label == JOB_LABEL]
    assert progress and heard.of("problem") == []
    assert heard.threads_of("calibration") == {"workbench-calibration"}


def test_a_view_waits_for_what_takes_the_place_of_its_inputs(pair, monkeypatch):
    session = open_session(*pair)
    session.calibration.set_text(TEXT)
    assert session.wait(TIMEOUT_S)
    heard, begun, collected = Heard(session), threading.Event(), session.calibration._collected

    def first_held_up(names, calibration, cancel):
        if not begun.is_set():
            begun.set()
            assert cancel.wait(TIMEOUT_S)
            raise Cancelled("Its place is taken.")
        yield from collected(names, calibration, cancel)

    monkeypatch.setattr(session.calibration, "_collected", first_held_up)
    session.configure(solver="calibrated", scope="layer")
    assert begun.wait(TIMEOUT_S)
    session.calibration.request(NEXT, list(session.coverage.configs))  # as Improve asks for the inputs of all layers
    assert session.wait(TIMEOUT_S)
    assert badges(heard) == ["refined for now", "inputs of the dense model"]


def test_inputs_are_collected_once_for_all_calibrated_layers_and_each_text_anew(pair):
    session = open_session(*pair)
    session.calibration.set_text(TEXT)
    session.configure(solver="calibrated", scope="all")
    assert session.wait(TIMEOUT_S)
    heard = Heard(session)
    session.select([NEXT])
    assert session.wait(TIMEOUT_S)
    assert badges(heard) == ["inputs of the dense model"], "they came with those of the first layer"
    first, of_the_first_text = heard.of("view")[-1].summary, {view.stamp for view in session.errors.values()}
    session.calibration.set_text(TEXT[:2500])
    assert of_the_first_text and of_the_first_text.isdisjoint(view.stamp for view in session.errors.values())
    assert session.wait(TIMEOUT_S)
    assert badges(heard)[1:] == ["refined for now", "inputs of the dense model"]
    assert heard.of("view")[-1].summary != first
    session.calibration.set_text(TEXT)
    assert session.wait(TIMEOUT_S)
    assert heard.of("view")[-1].summary == first


def test_cancel_stops_collecting_and_says_so(pair):
    session = open_session(*pair)
    session.calibration.set_text(TEXT)
    heard, begun, cancelled = Heard(session), threading.Event(), threading.Event()

    def hold(_module, _args):
        begun.set()
        assert cancelled.wait(TIMEOUT_S)

    handle = pair[0].register_forward_pre_hook(hold)
    session.configure(solver="calibrated")
    assert begun.wait(TIMEOUT_S)
    session.calibration.lane.cancel()
    cancelled.set()
    assert session.wait(TIMEOUT_S)
    handle.remove()
    assert heard.of("view")[-1].notes == (
        "solved with refined instead of calibrated: collecting its inputs was cancelled",
    )
    assert session.errors == {}
    stopped = next(job for job in heard.of("job") if job.label == JOB_LABEL)
    assert stopped.state == "cancelled"
    stopped.again()  # what Resume calls
    assert session.wait(TIMEOUT_S)
    assert badges(heard)[-1] == "inputs of the dense model"


def test_inputs_that_a_view_waits_for_are_asked_for_again_by_it_and_those_of_other_work_by_that(pair):
    begun, go_on, again = threading.Event(), threading.Event(), list
    told = {"on_state": lambda _state: None, "on_job": lambda _job: None}
    room = SessionCalibration(ModelSource(pair[0]), pair[1], in_turn=lambda steps, _: steps, again=again, **told)
    room.set_text(TEXT)
    assert room.lane.wait(TIMEOUT_S)

    def hold(_module, _args):
        begun.set()
        assert go_on.wait(TIMEOUT_S)

    handle = pair[0].register_forward_pre_hook(hold)
    views = room.views(Q, [Q], lambda inputs: iter([inputs.badge]), threading.Event())
    assert next(views) == "collecting inputs" and begun.wait(TIMEOUT_S)
    job = room.lane.current
    assert job.label == JOB_LABEL and job.again is again
    assert room.request(Q, [Q]) is job and job.again is None, "who joined has a Resume of its own"
    room.lane.cancel()
    go_on.set()
    assert list(views) == ["no inputs"] and job.state == "cancelled"
    handle.remove()
    views = room.views(Q, [Q], lambda inputs: iter([inputs.badge]), threading.Event())
    assert list(views) == ["collecting inputs", "inputs of the dense model"]


def test_a_setting_of_the_solver_reaches_the_view(session):
    heard = Heard(session)
    session.configure(options={"sweeps": 0}, scope="layer")
    assert session.wait(TIMEOUT_S)
    view = heard.of("view")[-1]
    assert len(view.trace.values) == 2 and view.config.options == wb.CalibratedOptions(sweeps=0)


def test_the_microscope_is_given_the_inputs(session):
    heard = Heard(session)
    session.microscope.look_at(3, 1)
    assert session.wait(TIMEOUT_S)
    found = heard.of("group")[-1].microscope
    assert {variant.solver for variant in found.solved} == {"rtn", "hqq", "refined", "calibrated"}


# --- sweep and export ---------------------------------------------------------------------------------------------


@pytest.fixture
def small(pair, tmp_path_factory, monkeypatch):
    """A session in which few layers are int4, one of them calibrated: order matters and a sweep is short."""
    solved = tmp_path_factory.mktemp("solved")  # or a layer would be kept from the test before
    monkeypatch.setattr("workbench.views.solved_layers.cache_folder", lambda: solved)
    g64 = wb.Int4WeightOnlyConfig(group_size=64)
    rules = Rule("layers.0.self_attn", Choice(g64)), Rule("layers.0.mlp", Choice(g64, "calibrated"))
    with closing(open_session(*pair)) as session:
        session.calibration.set_text(TEXT)
        session.set_recipe(wb.Recipe(None, rules))
        assert session.wait(TIMEOUT_S)
        yield session


def test_a_sweep_records_what_an_export_stores(small, pair):
    text = Calibration.from_text(TEXT, pair[1])
    expected = {step.result.name: step for step in iter_quantize(small.source, small.coverage, calibration=text)}
    heard = Heard(small)
    job = waited(small.sweep_errors())
    assert job.state == "done" and heard.of("problem") == []
    assert set(small.errors) == set(expected) == set(small.coverage.configs)
    for name, view in small.errors.items():
        assert view.summary == error_summary(small.source.weight(name), expected[name].weight), name
        assert (view.solver, view.trace) == (expected[name].result.solver, expected[name].trace)
        assert view.inputs == (UPSTREAM.badge if view.solver == "calibrated" else "")
    assert job.progress.label.endswith(", calibrated")


def test_a_look_at_a_swept_layer_leaves_its_record_and_a_change_before_it_does_not(small):
    name = "model.layers.0.mlp.down_proj"
    waited(small.sweep_errors())
    swept = small.errors[name]
    heard = Heard(small)
    small.select([name])
    assert small.wait(TIMEOUT_S)
    assert heard.of("view")[-1].inputs == "inputs of the dense model"
    assert small.errors[name] == swept
    small.configure(inner_k_tiles=2)
    assert small.errors[name].summary == swept.summary
    small.select(["model.layers.0.self_attn.v_proj"])
    small.configure(group_size=32, scope="layer")
    assert name not in small.errors
    assert small.wait(TIMEOUT_S)


def test_a_text_changed_during_a_sweep_is_the_one_that_counts(small):
    changed = threading.Event()

    def change_once(event):
        if event.kind == "error" and event.data.solver == "calibrated" and not changed.is_set():
            changed.set()
            small.calibration.set_text(TEXT[:2500])

    small.listen(change_once)
    assert waited(small.sweep_errors()).state == "done"
    assert small.wait(TIMEOUT_S)
    assert all(view.stamp in ("", small.calibration.stamp) for view in small.errors.values())
    assert set(small.errors) == set(small.coverage.configs)


def test_a_sweep_goes_on_past_a_weight_that_is_not_finite(tmp_path):
    model, tokenizer = demo_of_two_blocks()
    with torch.no_grad():
        model.model.layers[0].mlp.gate_proj.weight[1, 2] = torch.nan
    session = open_session(model, tokenizer)
    session.calibration.set_text(TEXT)
    session.configure(solver="calibrated")
    assert session.wait(TIMEOUT_S)
    heard = Heard(session)
    assert waited(session.sweep_errors()).state == "done"
    assert any("gate_proj[1, 2] is nan" in str(problem) for problem in heard.of("problem"))
    assert len(session.errors) == 13
    last = session.errors["model.layers.1.mlp.down_proj"]
    assert last.solver == "refined" and "the model cannot be run so far" in last.notes[0]


def test_an_export_calibrates_and_says_which_layer_and_solver(small, tmp_path):
    heard = Heard(small)
    labels = []
    small.listen(lambda event: event.kind == "job" and event.data.progress and labels.append(event.data.progress.label))
    assert waited(small.export(tmp_path / "out", verify=False)).error is None
    assert "model.layers.0.mlp.down_proj, calibrated" in labels
    layers = {layer.name: layer for layer in small.exported.layers}
    assert layers["model.layers.0.mlp.up_proj"].solver == "calibrated"
    assert heard.of("problem") == []


# --- as Python ----------------------------------------------------------------------------------------------------


def run_cell(code, folder):
    environment = os.environ | {"PYTHONPATH": str(Path(wb.__file__).parents[1]), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["demo", "typed", "file"])
def test_the_cell_alone_makes_the_same_checkpoint_bit_for_bit(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in ("workbench", "workbench.session.tokenized_text"):  # with the whole text it takes seconds
        monkeypatch.setattr(f"{place}.demo_calibration_text", lambda: TEXT)
    session = open_session("demo")
    text = TEXT.replace("\n", "\r\n", 40) + "Grüße 😀"
    if kind == "typed":
        session.calibration.set_text(text)
    elif kind == "file":
        (tmp_path / "corpus.txt").write_bytes(text.encode("utf-8-sig"))
        session.calibration.load_file("corpus.txt")
    session.configure(group_size=128, solver="calibrated")
    session.configure(options={"sweeps": 0, "candidates": 2})
    session.select([name for name in session.coverage.configs if "layers.0." not in name])
    session.keep_dense("selection")
    code = session.as_python()
    assert ("wb.demo_calibration_text()" in code) == (kind == "demo")
    written = [path.name for path in tmp_path.rglob("calibration-*.txt")]
    assert len(written) == (1 if kind == "typed" else 0) and all(name in code for name in written)
    assert waited(session.export(tmp_path / "session", verify=False)).error is None
    assert session.wait(TIMEOUT_S)
    if kind == "typed":
        run_cell(code, tmp_path)
    else:  # a process of its own takes seconds to start
        exec(compile(code, kind, "exec"), {"__name__": "__main__"})
    assert_same_checkpoint(tmp_path / "session", tmp_path / "exports" / "int4")


def test_a_file_that_was_changed_since_is_copied_as_it_was(session, tmp_path):
    file = tmp_path / "corpus.txt"
    file.write_text(TEXT, encoding="utf-8")
    session.calibration.load_file(file)
    assert session.wait(TIMEOUT_S)
    assert repr(str(file)) in session.as_python(tmp_path / "out")
    file.write_text("another text", encoding="utf-8")
    (line,) = [line for line in session.as_python(tmp_path / "out").splitlines() if line.startswith("text = ")]
    (copy,) = tmp_path.glob("calibration-*.txt")
    assert repr(str(copy)) in line
    assert eval(line.removeprefix("text = "), {"Path": Path}) == TEXT


def test_a_recipe_that_calibrates_nothing_needs_no_text(session, tmp_path):
    session.calibration.set_text("")
    session.configure(solver="refined", scope="all")
    assert "calibration" not in session.as_python(tmp_path / "out")
    assert session.wait(TIMEOUT_S)


def test_a_directory_that_cannot_be_written_is_said(session, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="cannot be written"):
        session.as_python(tmp_path / "file" / "out")
