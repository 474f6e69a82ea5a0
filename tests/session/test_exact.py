"""Exact errors: found for all layers, kept as long as they hold, and none of an older recipe."""

import threading
import time

from tests.session.stand_ins import GATE, TIMEOUT_S, UP, Heard, broken_toy, toy, waited
from workbench.errors import WeightError
from workbench.measure.errors import error_summary
from workbench.session import Session
from workbench.solvers import solve


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


def test_a_sweep_goes_on_past_a_layer_with_nan():
    session = Session(broken_toy())
    heard = Heard(session)
    job = waited(session.sweep_errors())
    assert job.state == "done"
    assert set(session.errors) == {"good", "fine"}
    assert [type(problem) for problem in heard.of("problem")] == [WeightError]


def test_a_layer_with_nan_is_remembered_with_its_place_until_it_has_an_error():
    source = broken_toy()
    session = Session(source)
    waited(session.sweep_errors())
    assert session.wait(TIMEOUT_S)
    assert list(session.exact.broken) == ["bad"] and "bad[3, 7] is nan" in session.exact.broken["bad"]
    source.weights["bad"][3, 7] = 0.0
    waited(session.sweep_errors())
    assert session.wait(TIMEOUT_S)
    assert session.exact.broken == {} and "bad" in session.errors
