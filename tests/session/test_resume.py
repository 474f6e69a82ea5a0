"""Work that was cancelled or failed goes on where it stopped when it is begun again: counted in layers solved."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

import workbench as wb
from tests.calibrated_models import Letters
from tests.session.stand_ins import Toy, tensors_of
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


# --- layers that are calibrated, in the order of the model --------------------------------------------------------

TEXT = "One text of many letters that a tokenizer of letters cuts into tokens. " * 5
CALIBRATED = {"group_size": 32, "domain": "int", "solver": "calibrated", "options": {"sweeps": 0, "candidates": 1}}


class Passes:
    """Counts how often each layer of a model is run, on any thread."""

    def __init__(self, model):
        self.calls = Counter()
        for name, module in model.named_modules():
            module.register_forward_hook(lambda *_, name=name: self.calls.update([name]))

    def taken(self):
        taken, self.calls = self.calls, Counter()
        return taken


@pytest.fixture(autouse=True)
def several_batches(monkeypatch):
    monkeypatch.setattr("workbench.calibration._BATCH_TOKENS", {"cpu": 100})


def with_text():
    session = open_session(make("qwen2"), Letters())
    session.calibration.set_text(TEXT)
    assert session.wait(TIMEOUT_S)
    return session


def calibrated():
    session = with_text()
    session.configure(**CALIBRATED)
    session.cancel()
    assert session.wait(TIMEOUT_S)
    return session


def layers_of(session, folder, **how):
    """What an export of the session writes."""
    assert ended(session, session.export(folder, verify=False, **how)) == "done"
    return tensors_of(folder)


def assert_same(one, other):
    assert set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("at", "format"), [(1, "native"), (6, "compressed-tensors"), (13, "native")])
def test_a_calibrated_export_that_was_cancelled_goes_on_with_the_pass_it_was_at(at, format, tmp_path, monkeypatch):
    session = calibrated()
    passes, names = Passes(session.source.model), list(session.coverage.configs)
    solved = Counted(monkeypatch, "workbench.solving.solve", stop_at=at, error=Cancelled("stop"))
    assert ended(session, session.export(tmp_path / "one", verify=False, format=format)) == "cancelled"
    cut = passes.taken()
    assert session.calibration.stopped.held_bytes > 0
    found = layers_of(session, tmp_path / "one", format=format)
    rest = passes.taken()
    assert solved.names.count(names[0]) == 1 and len(solved.names) == len(set(solved.names)) == len(names)
    assert session.calibration.stopped.held_bytes == 0
    whole = calibrated()
    passes = Passes(whole.source.model)
    expected = layers_of(whole, tmp_path / "two", format=format)
    once = passes.taken()
    assert_same(found, expected)
    assert all(cut[name] + rest[name] <= once[name] + 1 for name in once), "one run more shows the order"


def test_the_progress_says_how_many_layers_were_kept(tmp_path, monkeypatch):
    session = calibrated()
    Counted(monkeypatch, "workbench.solving.solve", stop_at=6, error=Cancelled("stop"))
    assert ended(session, session.sweep_errors()) == "cancelled"
    seen = []
    session.listen(lambda event: event.kind == "job" and event.data.progress and seen.append(event.data.progress))
    assert ended(session, session.sweep_errors()) == "done"
    kept = [one for one in seen if one.label.endswith("kept from before")]
    assert [one.label for one in kept[:1] + kept[-1:]] == ["1 layer kept from before", "6 layers kept from before"]
    assert all(one.remaining_s is None for one in kept), "what took no time tells nothing of the rest"
    assert seen[-1].label.endswith(", calibrated")


@pytest.mark.parametrize("at", [1, 8])
def test_a_calibrated_sweep_goes_on_also_with_its_views(at, monkeypatch):
    session = calibrated()
    viewed = Counted(monkeypatch, "workbench.views.ordered.view_of")
    Counted(monkeypatch, "workbench.solving.solve", stop_at=at, error=Cancelled("stop"))
    assert ended(session, session.sweep_errors()) == "cancelled"
    assert ended(session, session.sweep_errors()) == "done"
    whole = calibrated()
    assert ended(whole, whole.sweep_errors()) == "done"
    assert session.errors == whole.errors and len(whole.errors) == len(whole.coverage.configs)
    passes = Passes(session.source.model)
    before = len(viewed.names)
    assert ended(session, session.sweep_errors()) == "done"
    assert len(viewed.names) == before == 2 * len(whole.errors), "the views are at hand"
    assert max(passes.taken().values()) == 1, "one run shows the order"


def another_text(session):
    session.calibration.set_text(TEXT[::-1])


def another_recipe(session):
    session.select([next(iter(session.coverage.configs))])
    session.configure(group_size=64, scope="layer")


def another_weight(session):
    weight = session.source.model.model.layers[0].self_attn.q_proj.weight
    weight.data = weight.data * 1.5  # of which its version tells nothing


@pytest.mark.parametrize(
    ("change", "work"), [(another_text, "sweep"), (another_recipe, "export"), (another_weight, "sweep")]
)
def test_what_was_stopped_before_a_change_is_nowhere_after_it(work, change, tmp_path, monkeypatch):
    session = calibrated()
    Counted(monkeypatch, "workbench.solving.solve", stop_at=9, error=Cancelled("stop"))
    job = session.sweep_errors() if work == "sweep" else session.export(tmp_path / "cut", verify=False)
    assert ended(session, job) == "cancelled" and session.calibration.stopped.held_bytes > 0
    change(session)
    session.cancel()
    assert session.wait(TIMEOUT_S)
    assert change is another_weight or session.calibration.stopped.held_bytes == 0
    fresh = calibrated()
    change(fresh)
    session.cancel(), fresh.cancel()
    assert session.wait(TIMEOUT_S) and fresh.wait(TIMEOUT_S)
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "another cache"))
    expected = layers_of(fresh, tmp_path / "fresh")
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    assert ended(session, session.sweep_errors()) == "done"
    assert_same(layers_of(session, tmp_path / "one"), expected)


def test_another_kernel_keeps_the_layers_and_takes_one_pass_to_where_they_end(tmp_path, monkeypatch):
    session = calibrated()
    solved = Counted(monkeypatch, "workbench.solving.solve", stop_at=9, error=Cancelled("stop"))
    assert ended(session, session.export(tmp_path / "one", verify=False)) == "cancelled"
    other = calibrated()  # as after a restart of the kernel
    passes = Passes(other.source.model)
    found = layers_of(other, tmp_path / "one")
    assert len(solved.names) == len(set(solved.names)) == len(other.coverage.configs)
    whole = calibrated()
    once = Passes(whole.source.model)
    assert_same(found, layers_of(whole, tmp_path / "two"))
    first = "model.layers.0.self_attn.q_proj"
    assert passes.taken()[first] < once.taken()[first], "no moments of a layer that is solved are collected"


def test_improve_on_outputs_goes_on_with_inputs_and_errors(tmp_path, monkeypatch):
    session = with_text()
    passes = Passes(session.source.model)
    solved = Counted(monkeypatch, "workbench.improve.trials.solve", stop_at=60, error=Cancelled("stop"))
    assert ended(session, session.improve()) == "cancelled"
    assert passes.taken()
    cut = len(solved.names)
    assert ended(session, session.improve()) == "done" and passes.taken() == {}
    rest = len(solved.names) - cut
    fresh = with_text()
    before = len(solved.names)
    assert ended(fresh, fresh.improve()) == "done"
    assert cut + rest <= len(solved.names) - before + 2 * torch.get_num_threads()
    assert session.improving.latest.recipe == fresh.improving.latest.recipe
    assert session.improving.latest.error_after == fresh.improving.latest.error_after
