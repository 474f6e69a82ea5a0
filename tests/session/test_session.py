"""The session without a widget: every action of a person, what it tells, and what it refuses."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

import workbench as wb
from workbench.demo import demo_path
from workbench.errors import CheckpointError, ConfigError, ModelError, PatternError, WeightError, WorkbenchError
from workbench.hf.loading import load_checkpoint, load_model
from workbench.hf.skeleton import open_source
from workbench.measure.errors import error_summary
from workbench.recipe import patterns
from workbench.recipe.recipe import Choice, Recipe, Rule
from workbench.records.layers import LayerRecord
from workbench.session import Session, default_device, open_session
from workbench.solvers import solve
from workbench.sources import ModelSource

pytestmark = pytest.mark.usefixtures("quick_roofline")
TIMEOUT_S = 120
GATE = "model.layers.0.mlp.gate_proj"
UP = "model.layers.0.mlp.up_proj"
EMBEDDING = "model.embed_tokens"


class Heard:
    """Everything that a session told, with the name of the thread that it came from."""

    def __init__(self, session):
        self.events, self.threads = [], []
        self.forget = session.listen(self)

    def __call__(self, event):
        self.events.append(event)
        self.threads.append(threading.current_thread().name)

    def of(self, kind):
        return [event.data for event in self.events if event.kind == kind]

    def threads_of(self, kind):
        return {name for event, name in zip(self.events, self.threads, strict=True) if event.kind == kind}


class Toy:
    """A source of given weights, all linear; `gate` holds up every read."""

    name = "toy"

    def __init__(self, weights, kinds=None):
        self.weights = weights
        self.kinds = kinds or {}
        self.gate = threading.Event()
        self.gate.set()
        self.reading = threading.Event()

    def records(self):
        return [
            LayerRecord(name, self.kinds.get(name, "linear"), tuple(w.shape), "float32", w.numel() * 4)
            for name, w in self.weights.items()
        ]

    def weight(self, name):
        self.reading.set()
        assert self.gate.wait(TIMEOUT_S)
        return self.weights[name]

    def missing(self, name):
        return ""


def toy(*names, shape=(24, 128), **kwargs):
    torch.manual_seed(3)
    return Toy({name: torch.randn(shape) for name in names}, **kwargs)


@pytest.fixture(scope="module")
def demo_source():
    return open_source("demo")


@pytest.fixture
def demo(demo_source):
    session = open_session(demo_source)
    yield session
    session.cancel()
    assert session.wait(TIMEOUT_S)


@pytest.fixture(scope="module")
def live_pair():
    return load_model(demo_path())


def waited(job):
    assert job.wait(TIMEOUT_S)
    return job


# --- opening ------------------------------------------------------------------------------------------------------


def test_a_folder_a_path_a_name_and_a_live_model_open_alike(demo_source, live_pair):
    expected = {row.name: row.decision for row in open_session(demo_source).coverage.rows}
    for given in ("demo", demo_path(), str(demo_path()), live_pair[0], ModelSource(live_pair[0])):
        session = open_session(given)
        assert {row.name: row.decision for row in session.coverage.rows} == expected
        assert session.selection == [session.current] == ["model.layers.0.self_attn.q_proj"]


@pytest.mark.parametrize("given", [None, 3, {"a": 1}, Path("no/such/folder")])
def test_what_is_no_model_is_refused(given):
    with pytest.raises(ModelError):
        open_session(given)


def test_the_device_follows_a_live_model_and_says_why(live_pair, monkeypatch):
    session = open_session(live_pair[0])
    assert (session.device, session.device_reason) == ("cpu", "where the model is")
    assert "device: cpu, where the model is" in session.coverage.notes
    asked = open_session(live_pair[0], device="xpu")
    assert (asked.device, asked.device_reason) == ("xpu", "")
    assert {config.domain for config in asked.coverage.configs.values()} == {"int"}
    for available, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert default_device(ModelSource(live_pair[0]))[0] == "cpu"
        assert default_device(toy("a"))[0] == expected


def test_a_model_without_a_linear_layer_opens_and_refuses_what_needs_one():
    session = open_session(nn.Sequential(nn.Embedding(5, 8), nn.LayerNorm(8)))
    assert (session.current, session.selection, session.targets()) == ("", [], [])
    assert session.refresh() is None
    for action in (
        lambda: session.configure(group_size=32),
        session.keep_dense,
        session.make_int4,
        session.measure_speed,
        lambda: session.export("somewhere"),
    ):
        with pytest.raises(WorkbenchError):
            action()
    assert waited(session.sweep_errors()).state == "done"


def test_repr_is_a_line(demo):
    assert repr(demo).startswith("Session('demo', 42 of ")
    assert "\n" not in repr(demo)


# --- choosing -----------------------------------------------------------------------------------------------------


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


def test_configure_in_each_scope(demo):
    demo.select([GATE, UP], current=UP)
    demo.configure(group_size=32, scope="layer")
    assert {name for name, config in demo.coverage.configs.items() if config.group_size == 32} == {UP}
    demo.configure(group_size=128, scope="selection")
    assert {name for name, config in demo.coverage.configs.items() if config.group_size == 128} == {GATE, UP}
    demo.configure(group_size=256, scope="all")
    assert {config.group_size for config in demo.coverage.configs.values()} == {256}
    assert len(demo.coverage.configs) == 42


def test_configure_leaves_every_layer_what_was_not_given(demo):
    demo.select([GATE])
    demo.configure(domain="int", scope="layer")
    demo.configure(solver="hqq", group_size=32, scope="all")
    configs = demo.coverage.configs
    assert (configs[GATE].domain, configs[GATE].solver, configs[GATE].group_size) == ("int", "hqq", 32)
    assert (configs[UP].domain, configs[UP].solver, configs[UP].group_size) == ("float", "hqq", 32)
    demo.select([GATE, UP])
    demo.configure(inner_k_tiles=2, scope="selection")
    configs = demo.coverage.configs
    assert (configs[GATE].domain, configs[GATE].inner_k_tiles) == ("int", 2)
    assert (configs[UP].domain, configs[UP].inner_k_tiles) == ("float", 2)


@pytest.mark.parametrize("preserve_zero", [True, False, "auto"])
def test_preserve_zero_and_back_to_auto(demo, preserve_zero):
    demo.configure(preserve_zero=preserve_zero)
    assert demo.choice().config.preserve_zero is {"auto": None}.get(preserve_zero, preserve_zero)
    demo.configure(preserve_zero="auto")
    assert demo.choice().config.preserve_zero is None


@pytest.mark.parametrize(
    "settings",
    [
        {"group_size": 48},
        {"domain": "hexagonal"},
        {"inner_k_tiles": 3},
        {"domain": "symmetric", "solver": "hqq"},
        {"scope": "everything"},
        {"solver": "hqq", "preserve_zero": True},
    ],
)
def test_settings_that_cannot_work_change_nothing(demo, settings):
    before, heard = demo.recipe, Heard(demo)
    with pytest.raises(ConfigError):
        demo.configure(**settings)
    assert demo.recipe == before
    assert heard.events == []
    assert not demo.undo()


def test_a_change_that_one_layer_cannot_take_names_it(demo):
    demo.select([GATE])
    demo.configure(domain="symmetric", scope="layer")
    with pytest.raises(ConfigError, match=GATE.replace(".", r"\.")):
        demo.configure(solver="hqq", scope="all")
    assert demo.coverage.configs[UP].solver == "rtn"


def test_options_of_the_solver_on_show_change_and_other_solvers_keep_theirs(demo):
    demo.configure(solver="hqq")
    demo.select([GATE])
    demo.configure(solver="refined", scope="layer")
    demo.configure(options={"iters": 1})
    assert demo.coverage.configs[GATE].options == wb.RefinedOptions(iters=1)
    assert demo.coverage.configs[UP].options == wb.HqqOptions()
    demo.select([UP])
    demo.configure(options={"iters": 2, "lp_norm": 0.5})
    assert demo.coverage.configs[UP].options == wb.HqqOptions(iters=2, lp_norm=0.5)
    assert demo.coverage.configs[GATE].options == wb.RefinedOptions(iters=1)
    before = demo.recipe
    for options in ({"iters": -1}, {"damping": 0.1}, {"iters": "many"}):
        with pytest.raises(ConfigError):
            demo.configure(options=options)
    assert demo.recipe == before
    demo.undo()
    assert demo.coverage.configs[UP].options == wb.HqqOptions()


def test_dense_layers_stay_dense_unless_the_scope_holds_no_other(demo):
    demo.select([GATE, UP], current=GATE)
    demo.keep_dense("layer")
    demo.configure(group_size=32, scope="selection")
    assert GATE not in demo.coverage.configs
    assert demo.coverage.configs[UP].group_size == 32
    demo.configure(group_size=128, scope="all")
    assert GATE not in demo.coverage.configs
    demo.configure(group_size=256, scope="layer")
    assert demo.coverage.configs[GATE].group_size == 256


def test_keep_dense_and_make_int4_in_each_scope(demo):
    linear = len(demo.layer_rows())
    demo.keep_dense("all")
    assert demo.coverage.configs == {}
    assert len(demo.recipe.rules) <= 2
    demo.make_int4("all")
    assert len(demo.coverage.configs) == 42
    demo.select([GATE, UP], current=UP)
    demo.keep_dense("layer")
    assert UP not in demo.coverage.configs and GATE in demo.coverage.configs
    demo.keep_dense("selection")
    assert len(demo.coverage.configs) == 40
    demo.make_int4("selection")
    assert len(demo.coverage.configs) == 42
    demo.select(["lm_head"])
    demo.make_int4("layer")
    assert len(demo.coverage.configs) == 43 == linear


def test_an_embedding_has_no_settings_to_change(demo):
    demo.select([EMBEDDING])
    for scope in ("layer", "selection"):
        with pytest.raises(ConfigError, match="no linear layer"):
            demo.configure(group_size=32, scope=scope)
    assert demo.targets("layer") == []
    assert demo.choice() == demo.recipe.default


def test_undo_and_redo_walk_the_recipes(demo):
    heard = Heard(demo)
    first = demo.recipe
    assert not demo.undo()
    assert not demo.redo()
    demo.configure(group_size=32)
    second = demo.recipe
    demo.keep_dense("layer")
    third = demo.recipe
    assert demo.undo() and demo.recipe == second
    assert demo.undo() and demo.recipe == first
    assert not demo.undo()
    assert demo.redo() and demo.recipe == second
    assert demo.redo() and demo.recipe == third
    assert not demo.redo()
    demo.undo()
    demo.configure(group_size=256)
    assert not demo.redo()
    assert len(heard.of("coverage")) == 8
    assert heard.of("coverage")[-1] is demo.coverage


def test_a_recipe_that_fails_leaves_recipe_and_undo_alone(demo):
    demo.configure(group_size=32)
    before = demo.recipe
    with pytest.raises(PatternError, match="q_porj"):
        demo.set_recipe(Recipe(rules=(Rule("q_porj", None),)))
    assert demo.recipe == before
    assert demo.undo()
    assert demo.redo()
    assert demo.recipe == before


def test_a_recipe_file_shows_in_the_session_and_is_saved_back_unchanged(demo, tmp_path):
    Recipe(
        Choice(wb.Int4WeightOnlyConfig(group_size=128), "refined"),
        (Rule("layers.0.self_attn", None), Rule(GATE, Choice(wb.Int4WeightOnlyConfig(group_size=32), domain="int"))),
    ).save(tmp_path / "first.json")
    recipe = Recipe.load(tmp_path / "first.json")
    demo.set_recipe(recipe)
    demo.select([GATE])
    assert demo.choice() == recipe.rules[1].choice
    assert (demo.coverage.configs[GATE].group_size, demo.coverage.configs[GATE].domain) == (32, "int")
    assert (demo.coverage.configs[UP].group_size, demo.coverage.configs[UP].solver) == (128, "refined")
    assert demo.row("model.layers.0.self_attn.q_proj").decision == "dense"
    demo.configure(group_size=256, scope="layer")
    assert demo.undo()
    demo.recipe.save(tmp_path / "second.json")
    assert (tmp_path / "second.json").read_bytes() == (tmp_path / "first.json").read_bytes()


def test_the_same_recipe_again_is_no_change(demo):
    heard = Heard(demo)
    demo.set_recipe(Recipe(demo.recipe.default, demo.recipe.rules))
    demo.configure(group_size=64)
    assert heard.events == []
    assert not demo.undo()


def test_rules_are_as_plain_as_will_do(demo):
    gates = [name for name in demo.targets("all") if name.endswith(".gate_proj")]
    demo.select(gates)
    demo.configure(group_size=32, scope="selection")
    assert [rule.pattern for rule in demo.recipe.rules] == ["gate_proj"]
    assert {name for name, config in demo.coverage.configs.items() if config.group_size == 32} == set(gates)
    demo.select([name for name in demo.targets("all") if name.startswith("model.layers.1.")])
    demo.keep_dense("selection")
    assert [rule.pattern for rule in demo.recipe.rules] == ["layers.1", "gate_proj"]
    demo.select([GATE])
    demo.configure(group_size=128, scope="layer")
    assert [rule.pattern for rule in demo.recipe.rules] == [GATE, "layers.1", "gate_proj"]
    demo.select(gates)
    demo.configure(group_size=256, scope="selection")
    assert {demo.coverage.configs[name].group_size for name in gates if name in demo.coverage.configs} == {256}
    assert "model.layers.1.mlp.gate_proj" not in demo.coverage.configs


def test_names_that_look_like_patterns_or_hold_each_other_are_told_apart():
    names = ["head", "decoder.head", "a[0]", "a*", "a.b", "a?b"]
    for name in names:
        session = Session(toy(*names))
        session.select([name])
        session.keep_dense("layer")
        assert {row.name for row in session.coverage.rows if row.decision == "dense"} == {name}
        session.wait(TIMEOUT_S)


def test_two_thousand_layers_take_few_rules_and_no_quadratic_work():
    parts = ("self_attn.q_proj", "self_attn.k_proj", "mlp.gate_proj", "mlp.down_proj")
    names = [f"model.layers.{i}.{part}" for i in range(500) for part in parts]
    session = Session(Toy(dict.fromkeys(names, torch.ones(2, 128))))
    patterns_tried = []
    real = patterns.matches
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patterns, "matches", lambda *a: patterns_tried.append(a) or real(*a))
        session.select(names[::2])
        session.configure(group_size=32, scope="selection")
        assert [rule.pattern for rule in session.recipe.rules] == ["mlp.gate_proj", "q_proj"] or {
            rule.pattern for rule in session.recipe.rules
        } == {"gate_proj", "q_proj"}
        session.select(names[::3])
        session.configure(group_size=128, scope="selection")
    assert patterns_tried == []
    assert {name for name, config in session.coverage.configs.items() if config.group_size == 128} == set(names[::3])
    assert session.wait(TIMEOUT_S)


# --- seeing -------------------------------------------------------------------------------------------------------


def test_the_view_after_a_change_is_of_the_new_settings(demo, demo_source):
    heard = Heard(demo)
    demo.select([GATE])
    demo.configure(group_size=32, solver="hqq", scope="layer")
    assert demo.wait(TIMEOUT_S)
    view = heard.of("view")[-1]
    config = demo.coverage.configs[GATE]
    weight = demo_source.weight(GATE)
    assert (view.name, view.config, view.exact, view.badge) == (GATE, config, True, "exact")
    assert view.summary == error_summary(weight, solve(weight, config).weight)
    assert demo.errors[GATE] == view


def test_show_changes_metric_and_reduction_and_nothing_else(demo):
    heard = Heard(demo)
    demo.show(metric="scale")
    assert demo.wait(TIMEOUT_S)
    demo.show(reduce="mean")
    assert demo.wait(TIMEOUT_S)
    assert [view.map.metric for view in heard.of("view")] == ["scale", "scale"]
    assert (demo.metric, demo.reduce) == ("scale", "mean")
    for wrong in ({"metric": "beauty"}, {"reduce": "median"}):
        with pytest.raises(ConfigError, match="Allowed"):
            demo.show(**wrong)
    assert (demo.metric, demo.reduce) == ("scale", "mean")
    assert heard.of("coverage") == []


def test_a_newer_request_wins_and_nothing_stale_follows_it():
    source = toy("a", "b")
    session = Session(source)
    heard = Heard(session)
    source.gate.clear()
    session.refresh()
    assert source.reading.wait(TIMEOUT_S)
    for group_size in (32, 128, 256, 32):
        session.configure(group_size=group_size)
    source.gate.set()
    assert session.wait(TIMEOUT_S)
    assert [view.group_size for view in heard.of("view")] == [32]
    assert session.errors["a"].group_size == 32
    states = {job.state for job in heard.of("job")}
    assert states <= {"done", "cancelled"}


def test_selecting_what_is_not_linear_drops_the_view_under_way():
    source = toy("a", "table", kinds={"table": "embedding"})
    session = Session(source)
    heard = Heard(session)
    source.gate.clear()
    session.refresh()
    assert source.reading.wait(TIMEOUT_S)
    session.select(["table"])
    source.gate.set()
    assert session.wait(TIMEOUT_S)
    assert heard.of("view") == []


def test_events_come_from_the_right_thread(demo, tmp_path):
    heard = Heard(demo)
    demo.select([GATE])
    demo.configure(group_size=32)
    assert demo.wait(TIMEOUT_S)
    waited(demo.sweep_errors())
    waited(demo.measure_speed(batch_sizes=[1], budget_s=0.0))
    waited(demo.export(tmp_path / "out", verify=False))
    with pytest.raises(CheckpointError):
        demo.export("")
    assert heard.threads_of("coverage") == heard.threads_of("selection") == {"MainThread"}
    assert heard.threads_of("view") == {"workbench-preview"}
    for kind in ("error", "speed", "export"):
        assert heard.threads_of(kind) == {"workbench-work"}
    assert heard.of("problem") == []


def test_forgetting_a_listener_stops_it(demo):
    heard = Heard(demo)
    heard.forget()
    heard.forget()
    demo.select([GATE])
    assert heard.events == []


def test_a_listener_that_raises_breaks_neither_the_others_nor_the_lane(demo, caplog):
    def broken(event):
        raise RuntimeError(f"cannot show {event.kind}")

    demo.listen(broken)
    heard = Heard(demo)
    demo.select([GATE])
    assert demo.wait(TIMEOUT_S)
    assert [view.name for view in heard.of("view")] == [GATE]
    assert "cannot show view" in [str(problem) for problem in heard.of("problem")]
    assert [job.state for job in heard.of("job")] == ["done"] * len(heard.of("job"))
    assert "A listener failed" in caplog.text
    demo.configure(group_size=32)
    assert demo.wait(TIMEOUT_S)
    assert heard.of("view")[-1].group_size == 32


# --- sweeping -----------------------------------------------------------------------------------------------------


def test_a_sweep_records_every_int4_layer_with_progress(demo):
    heard = Heard(demo)
    job = waited(demo.sweep_errors())
    assert job.state == "done"
    assert (job.progress.done, job.progress.total, job.progress.remaining_s) == (42, 42, 0)
    assert job.progress.label == f"{demo.coverage.int4_rows[-1].name}, rtn"
    assert [view.name for view in heard.of("error")] == [row.name for row in demo.coverage.int4_rows]
    assert set(demo.errors) == set(demo.coverage.configs)
    assert all(view.exact and view.map.rows <= 64 and view.map.cols <= 64 for view in demo.errors.values())
    weight = demo.source.weight(UP)
    expected = error_summary(weight, solve(weight, demo.coverage.configs[UP]).weight)
    assert demo.errors[UP].summary == expected


def test_a_change_during_a_sweep_leaves_no_error_of_the_old_recipe():
    source = toy("a", "b", "c")
    session = Session(source)
    heard = Heard(session)
    changed = threading.Event()

    def change_once(event):
        if event.kind == "error" and event.data.name == "b" and not changed.is_set():
            changed.set()
            session.configure(group_size=32)

    session.listen(change_once)
    assert waited(session.sweep_errors()).state == "done"
    assert session.wait(TIMEOUT_S)
    assert {name: view.group_size for name, view in session.errors.items()} == {"a": 32, "b": 32, "c": 32}
    assert [(view.name, view.group_size) for view in heard.of("error")][:2] == [("a", 64), ("b", 64)]


def test_a_sweep_started_under_an_older_recipe_is_not_recorded_as_current():
    source = toy("a")
    session = Session(source)
    heard = Heard(session)
    source.gate.clear()
    job = session.sweep_errors()
    assert source.reading.wait(TIMEOUT_S)
    session.keep_dense("all")
    source.gate.set()
    assert waited(job).state == "done"
    assert session.wait(TIMEOUT_S)
    assert session.errors == {}
    assert heard.of("error") == []


def test_errors_survive_a_change_that_leaves_values_as_they_are(demo):
    waited(demo.sweep_errors())
    demo.configure(inner_k_tiles=2)
    assert len(demo.errors) == 42
    assert all(view.config == demo.coverage.configs[name] for name, view in demo.errors.items())
    demo.select([GATE])
    demo.configure(group_size=32, scope="layer")
    assert set(demo.coverage.configs) - set(demo.errors) <= {GATE}


def test_errors_can_be_read_while_a_sweep_writes_them(demo):
    job = demo.sweep_errors()
    while not job.finished:
        assert all(view.summary.mse >= 0 for view in demo.errors.values())
        time.sleep(0.0001)  # lets the sweep have the interpreter
    assert len(demo.errors) == 42


# --- measuring ----------------------------------------------------------------------------------------------------


def test_speed_is_measured_for_the_layer_on_show(demo):
    heard = Heard(demo)
    demo.select([GATE])
    job = waited(demo.measure_speed(batch_sizes=[1, 3], budget_s=0.0))
    assert job.state == "done"
    assert demo.speed == heard.of("speed")
    cpu = [point for point in demo.speed if point.device == "cpu"]
    assert {(point.batch, point.path) for point in cpu} >= {(b, p) for b in (1, 3) for p in ("int4", "dense")}
    assert {(point.n, point.k, point.group_size) for point in demo.speed} == {(768, 256, 64)}
    assert all(point.time_ms > 0 and point.runs > 0 for point in demo.speed)
    assert job.progress.done == job.progress.total
    waited(demo.measure_speed(batch_sizes=[2], budget_s=0.0))
    assert {point.batch for point in demo.speed} == {2}


def test_points_of_other_dtypes_are_kept_while_the_shape_is_the_same(demo):
    demo.select([GATE])
    waited(demo.measure_speed(batch_sizes=[1], paths=["int4"], budget_s=0.0))
    waited(demo.measure_speed(batch_sizes=[2], paths=["int4"], dtypes=["float32"], budget_s=0.0))
    assert {(point.dtype, point.batch) for point in demo.speed} == {("bfloat16", 1), ("float32", 2)}
    assert set(demo.rooflines["cpu"].matmul_gflop_per_s) == {"bfloat16", "float32"}
    assert any("path by batch size" in note for note in demo.speed_notes)
    demo.configure(group_size=32)
    waited(demo.measure_speed(batch_sizes=[1], paths=["int4"], dtypes=["float32"], budget_s=0.0))
    assert {(point.dtype, point.group_size) for point in demo.speed} == {("float32", 32)}


def test_speed_of_what_is_not_linear_is_refused_and_the_old_points_stay(demo):
    waited(demo.measure_speed(batch_sizes=[1], budget_s=0.0))
    before = demo.speed
    for name in (EMBEDDING, "model.norm"):
        demo.select([name])
        with pytest.raises(ConfigError, match="is no linear layer"):
            demo.measure_speed()
    assert demo.speed == before


@pytest.mark.parametrize("batch_sizes", [[], [0], [-1, 4]])
def test_batch_sizes_that_cannot_be_measured_are_a_problem(demo, batch_sizes):
    heard = Heard(demo)
    job = waited(demo.measure_speed(batch_sizes=batch_sizes))
    assert job.state == "failed"
    assert isinstance(heard.of("problem")[0], ConfigError)


def test_two_jobs_at_once_are_refused_by_name():
    source = toy("a")
    session = Session(source)
    source.gate.clear()
    first = session.sweep_errors()
    for second in (session.sweep_errors, session.measure_speed, lambda: session.export("somewhere")):
        with pytest.raises(ConfigError, match="Errors of all layers is running"):
            second()
    assert session.speed == []
    source.gate.set()
    assert waited(first).state == "done"
    assert waited(session.sweep_errors()).state == "done"


def test_cancel_stops_everything_at_the_next_block_and_wait_knows_the_time():
    source = toy("a", "b")
    session = Session(source)
    source.gate.clear()
    preview, sweep = session.refresh(), session.sweep_errors()
    started = time.monotonic()
    assert not session.wait(0.05)
    assert time.monotonic() - started < TIMEOUT_S
    session.cancel()
    assert preview.state in ("cancelling", "cancelled")
    assert sweep.state in ("cancelling", "cancelled")
    source.gate.set()
    assert session.wait(TIMEOUT_S)
    assert (preview.state, sweep.state) == ("cancelled", "cancelled")
    assert session.errors == {}
    session.cancel()
    assert waited(session.refresh()).state == "done"


# --- exporting ----------------------------------------------------------------------------------------------------


def tensors_of(folder):
    found = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(str(path), framework="pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}
    return found


def assert_same_checkpoint(one, other):
    first, second = tensors_of(one), tensors_of(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype, name
        assert torch.equal(tensor, second[name]), name
    settings = [
        json.loads((Path(folder) / "config.json").read_text())["quantization_config"] for folder in (one, other)
    ]
    assert settings[0] == settings[1]


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


def test_a_live_model_exports_what_its_folder_exports_with_its_tokenizer(live_pair, demo, tmp_path):
    model, tokenizer = live_pair
    live = open_session(model, tokenizer)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    for session, name in ((live, "live"), (demo, "folder")):
        session.set_recipe(Recipe(session.recipe.default, (Rule("q_proj", None),)))
        assert waited(session.export(tmp_path / name)).error is None
    assert_same_checkpoint(tmp_path / "live", tmp_path / "folder")
    assert live.exported.sample == demo.exported.sample != ""
    assert load_checkpoint(tmp_path / "live")[1] is not None
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_without_a_tokenizer_a_live_model_still_exports(live_pair, tmp_path):
    session = open_session(live_pair[0])
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


def test_as_python_names_the_model_and_the_directory(live_pair, demo):
    assert "wb.demo_model()" in demo.as_python()
    assert "'my/place'" in demo.as_python("my/place")
    assert "wb.demo_model()" in open_session(live_pair[0]).as_python()
    text = open_session(nn.Sequential(nn.Linear(64, 64))).as_python()
    assert "load_model" not in text and "that you gave to wb.Workbench" in text
    compile(text, "cell", "exec")


def test_cancel_in_the_middle_of_an_export_leaves_nothing(tmp_path, live_pair):
    session = open_session(*live_pair)
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


def test_a_model_that_is_int4_already_is_refused_when_opened_so_or_made_so_later(tmp_path):
    model, _ = load_model(demo_path())
    opened_before = open_session(model)
    wb.quantize_(model, wb.Int4WeightOnlyConfig(group_size=64), include="mlp")
    for session in (opened_before, open_session(model)):
        with pytest.raises(ModelError, match=r"int4 already.*save_checkpoint"):
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


def broken_toy():
    source = toy("good", "bad", "fine")
    source.weights["bad"][3, 7] = float("nan")
    return source


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


def test_the_true_place_of_a_nan_is_named_for_a_weight_that_is_sampled_first():
    source = Toy({"bad": torch.zeros(2048, 1024)})
    source.weights["bad"][8::8, 5] = float("nan")
    session = Session(source)
    heard = Heard(session)
    waited(session.refresh())
    assert "bad[8, 5] is nan" in str(heard.of("problem")[0])


def test_a_sweep_goes_on_past_a_layer_with_nan():
    session = Session(broken_toy())
    heard = Heard(session)
    job = waited(session.sweep_errors())
    assert job.state == "done"
    assert set(session.errors) == {"good", "fine"}
    assert [type(problem) for problem in heard.of("problem")] == [WeightError]


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


def test_a_live_weight_that_was_trained_is_solved_anew():
    model = nn.Sequential(nn.Linear(128, 64))
    session = open_session(model)
    heard = Heard(session)
    waited(session.refresh())
    with torch.no_grad():
        model[0].weight.mul_(3)
    waited(session.refresh())
    first, second = heard.of("view")
    assert second.summary.rmse == pytest.approx(3 * first.summary.rmse, rel=0.05)


def test_settings_of_a_session_can_be_given_when_it_opens(demo_source):
    recipe = Recipe(Choice(wb.Int4WeightOnlyConfig(group_size=256)))
    session = open_session(demo_source, recipe=recipe, current=GATE, scope="layer")
    assert session.coverage.configs[GATE].group_size == 256
    assert session.targets() == [GATE]


def test_the_app_hands_model_tokenizer_and_device_to_its_session(live_pair):
    model, tokenizer = live_pair
    app = wb.Workbench(model, tokenizer, device="xpu")
    try:
        assert app.session.tokenizer is tokenizer
        assert app.session.source.model is model
        assert app.session.device == "xpu"
        assert app.wait(TIMEOUT_S)
    finally:
        app.close()
