"""Work that was cancelled or failed goes on where it stopped when it is begun again: counted in layers solved."""

from __future__ import annotations

import pytest
import torch

import workbench as wb
from tests.session.stand_ins import Toy
from tests.tiny_models import make
from workbench.demo import demo_eval_text
from workbench.errors import Cancelled
from workbench.session import open_session

TIMEOUT_S = 120


class Counted:
    """Counts the layers that `solve` is called for, and raises at one of them."""

    def __init__(self, monkeypatch, place, stop_at=None, error=None):
        module, _, name = place.rpartition(".")
        solve = getattr(__import__(module, fromlist=[name]), name)
        self.names: list[str] = []
        self.stop_at, self.error = stop_at, error

        def counting(*given, **more):
            if self.stop_at is not None and len(self.names) >= self.stop_at:  # two threads may count past it
                self.stop_at = None
                raise self.error
            found = solve(*given, **more)
            self.names.append(more.get("name") or given[1])
            return found

        monkeypatch.setattr(place, counting)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def model():
    return make("qwen2")


def ended(session, job):
    assert session.wait(TIMEOUT_S)
    return job.state


@pytest.mark.parametrize("error", [Cancelled("stop"), RuntimeError("no more memory")])
def test_an_export_that_was_cut_short_solves_only_what_is_left(error, model, tmp_path, monkeypatch):
    session = open_session(model)
    session.configure(solver="refined")
    assert session.wait(TIMEOUT_S)
    solved = Counted(monkeypatch, "workbench.solving.solve", stop_at=5, error=error)
    wanted = len(session.coverage.configs)
    state = ended(session, session.export(tmp_path / "one", verify=False))
    assert state == ("cancelled" if isinstance(error, Cancelled) else "failed") and len(solved.names) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    other = open_session(model)  # as after a restart of the kernel
    other.configure(solver="refined")
    assert other.wait(TIMEOUT_S)
    assert ended(other, other.export(tmp_path / "one", verify=False)) == "done"
    assert len(solved.names) == len(set(solved.names)) == wanted - 1  # the layer on show was solved by its view
    assert list((tmp_path / "cache" / "solved").iterdir()) == []
    whole = open_session(make("qwen2"))
    whole.configure(solver="refined")
    assert ended(whole, whole.export(tmp_path / "two", verify=False)) == "done"
    for path in (tmp_path / "two").glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "one" / path.name).read_bytes()


def test_what_the_sweep_has_solved_an_export_takes(model, tmp_path, monkeypatch):
    session = open_session(model)
    session.configure(solver="refined")
    assert ended(session, session.sweep_errors()) == "done"
    solved = Counted(monkeypatch, "workbench.solving.solve")
    assert ended(session, session.export(tmp_path / "one", verify=False)) == "done"
    assert solved.names == []


@pytest.fixture
def toy():
    torch.manual_seed(3)
    session = open_session(Toy({name: torch.randn(16, 128) for name in "abcdef"}))
    session.configure(solver="refined")
    assert session.wait(TIMEOUT_S)
    return session


def test_a_sweep_goes_on_also_where_the_cache_holds_nothing(toy, monkeypatch):
    toy._cache.max_bytes = 0
    solved = Counted(monkeypatch, "workbench.views.views.solve_and_measure", stop_at=3, error=Cancelled("stop"))
    assert ended(toy, toy.sweep_errors()) == "cancelled" and solved.names == list("bcd")  # a is on show
    assert ended(toy, toy.sweep_errors()) == "done" and solved.names == list("bcdef")
    assert set(toy.errors) == set("abcdef")


def test_a_sweep_sees_what_was_trained_meanwhile(model, monkeypatch):
    session = open_session(model)
    assert ended(session, session.sweep_errors()) == "done"
    name = "model.layers.1.mlp.up_proj"
    with torch.no_grad():
        model.get_submodule(name).weight.mul_(2)
    solved = Counted(monkeypatch, "workbench.views.views.solve_and_measure")
    assert ended(session, session.sweep_errors()) == "done" and solved.names == [name]


def test_improve_goes_on(toy, monkeypatch):
    solved = Counted(monkeypatch, "workbench.improve.trials.solve", stop_at=40, error=Cancelled("stop"))
    assert ended(toy, toy.improve()) == "cancelled"
    cut = len(solved.names)
    assert ended(toy, toy.improve()) == "done"
    rest, found = len(solved.names), toy.improving.latest
    fresh = open_session(toy.source)
    fresh.configure(solver="refined")
    assert ended(fresh, fresh.improve()) == "done"
    whole = len(solved.names) - rest
    begun_ahead = 2 * torch.get_num_threads()  # no more blocks than that are solved and not taken, see in_order
    assert cut >= 40 and rest - cut < whole and abs(rest - whole) <= begun_ahead
    assert fresh.improving.latest.recipe == found.recipe
    assert fresh.improving.latest.error_after == found.error_after


def test_quality_goes_on_with_the_layers_solved_and_the_windows_read(monkeypatch):
    session = open_session(*wb.demo_model())
    session.quality.set_text(demo_eval_text()[:6000])
    session.quality.configure(window=512, windows=3)
    assert session.wait(TIMEOUT_S)
    solved = Counted(monkeypatch, "workbench.solving.solve", stop_at=9, error=Cancelled("stop"))
    read = Counted(monkeypatch, "workbench.measure.quality.window_logits")
    assert ended(session, session.quality.measure()) == "cancelled" and (len(solved.names), read.names) == (9, [])
    read.stop_at, read.error = 2, Cancelled("stop")
    assert ended(session, session.quality.measure()) == "cancelled"
    assert ended(session, session.quality.measure()) == "done" and session.quality.state.measured.complete
    assert len(solved.names) == len(set(solved.names)) == len(session.coverage.configs)
