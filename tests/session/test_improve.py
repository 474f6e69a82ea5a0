"""The Improve button without a widget: one undoable change, a list of what changed, and an answer when nothing is."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch

import workbench.session.improve as session_improve
from tests.improve.test_improve import Toy, toy
from tests.tiny_models import make
from workbench.errors import ConfigError
from workbench.hf.loading import demo_model
from workbench.improve.improvement import Improvement, SoFar, grouped
from workbench.recipe.recipe import Recipe
from workbench.session import open_session


def heard(session):
    events = []
    session.listen(events.append)
    return lambda kind: [event.data for event in events if event.kind == kind]


def ended(session):
    job = session.improve()
    assert job.wait(120) and session.wait(60)
    return job


def test_it_is_one_change_that_can_be_undone_and_says_what_it_changed():
    session = open_session(toy())
    of, before = heard(session), session.recipe
    job = ended(session)
    assert (job.state, job.label) == ("done", "Improve at the same size")
    found = session.improving.latest
    *early, last = of("improved")
    assert last is found and found.changes and session.improving.applied
    assert [one.tried_layers for one in early] == [1, 2] and session.improving.so_far is None
    assert session.recipe == found.recipe != before
    assert session.coverage.after_bytes == found.bytes_after <= found.bytes_before
    assert found.error_after < found.error_before
    assert any(job.progress.done == job.progress.total for job in of("job") if job.progress)
    assert session.undo() and session.recipe == before and not session.can_undo
    assert not session.improving.applied
    assert session.redo() and session.improving.applied


def test_its_own_undo_goes_back_and_only_while_it_holds():
    session = open_session(toy())
    before = session.recipe
    ended(session)
    session.configure(group_size=32)
    assert not session.improving.undo()
    session.undo()
    assert session.improving.undo() and session.recipe == before
    assert not session.improving.undo()


def test_nothing_better_is_said_and_nothing_changes():
    session = open_session(toy())
    ended(session)
    recipe, of = session.recipe, heard(session)
    ended(session)
    *_, found = of("improved")
    assert found.changes == () and str(found).startswith("Nothing better at this size")
    assert session.recipe == recipe and of("coverage") == [] and not session.improving.applied
    session.improving.forget()
    assert session.improving.latest is None and of("improved")[-1] is None


def test_without_a_text_the_weights_are_judged_and_that_is_said():
    session = open_session(make("qwen2"))
    ended(session)
    found = session.improving.latest
    assert found.objective == "weight error"
    assert found.notes[0] == "errors are those of the weights: with a calibration text they would be those of outputs"


def test_with_a_text_the_outputs_are_judged():
    model, tokenizer = demo_model()
    model.model.layers = model.model.layers[:1]
    session = open_session(model, tokenizer)
    session.calibration.set_text("A plain text of many words, said once more. " * 400)
    session.set_recipe(replace(session.recipe, default=None).with_rule("v_proj", session.recipe.default))
    before = session.recipe
    ended(session)
    found = session.improving.latest
    assert found.objective == "output error"
    assert "inputs of the dense model" in found.notes[0]
    assert found.error_after < found.error_before and session.recipe != before
    assert session.verdict.error_said() == f"output error {found.error_after:.1%} over all layers in int4"


def test_inputs_that_do_not_fit_are_not_collected(monkeypatch):
    monkeypatch.setattr(session_improve, "HELD_BYTES", 1000)
    model, tokenizer = demo_model()
    session = open_session(model, tokenizer)
    session.calibration.set_text("word " * 4000)
    session.set_recipe(replace(session.recipe, default=None).with_rule("layers.0.self_attn", session.recipe.default))
    ended(session)
    found = session.improving.latest
    assert found.objective == "weight error" and "would take" in found.notes[0]


def test_a_recipe_changed_meanwhile_is_not_overwritten(monkeypatch):
    session = open_session(toy())
    real = session_improve.iter_improve

    def changed(*args, **settings):
        yield from list(real(*args, **settings))[:-1]
        session.configure(group_size=32)
        yield list(real(*args, **settings))[-1]

    monkeypatch.setattr(session_improve, "iter_improve", changed)
    ended(session)
    assert session.recipe.default.config.group_size == 32
    assert session.improving.latest.notes[0] == session_improve.OUTDATED
    assert not session.improving.applied and not session.improving.undo()


def test_a_recipe_changed_while_the_better_one_is_taken_is_not_overwritten(monkeypatch):
    session = open_session(toy())
    preflight, changed = session.history._preflight, []

    def late(recipe):
        coverage = preflight(recipe)
        if not changed:
            changed.append(recipe)
            session.configure(group_size=32)
        return coverage

    monkeypatch.setattr(session.history, "_preflight", late)
    ended(session)
    assert session.recipe.default.config.group_size == 32 and changed == [session.improving.latest.recipe]
    assert session.improving.latest.notes[0] == session_improve.OUTDATED
    assert session.undo() and not session.can_undo


def test_cancelling_changes_nothing():
    source = toy()
    session = open_session(source)
    started, go_on = threading.Event(), threading.Event()
    weight = source.weight

    def slow(name):
        started.set()
        assert go_on.wait(30)
        return weight(name)

    source.weight = slow
    before, job = session.recipe, session.improve()
    assert started.wait(30)
    job.cancel()
    assert job.state == "cancelling"
    go_on.set()
    assert job.wait(30) and job.state == "cancelled"
    assert session.recipe == before and session.improving.latest is None


def test_a_cancelled_search_takes_away_what_it_had_so_far_and_leaves_what_was_found_before(monkeypatch):
    session = open_session(toy())
    ended(session)
    found, recipe, of = session.improving.latest, session.recipe, heard(session)
    real = session_improve.iter_improve

    def cut_short(*args, **settings):
        for step in real(*args, **settings):
            yield step
            if isinstance(step, SoFar):
                session.work.cancel()

    monkeypatch.setattr(session_improve, "iter_improve", cut_short)
    assert ended(session).state == "cancelled"
    early, last = of("improved")
    assert isinstance(early, SoFar) and last is found and session.improving.so_far is None
    assert session.improving.latest is found and session.recipe == recipe


def test_one_that_is_put_away_comes_back_at_the_end_alone(monkeypatch):
    session = open_session(toy())
    of = heard(session)
    session.listen(lambda event: isinstance(event.data, SoFar) and session.improving.forget())
    ended(session)
    assert [type(one) for one in of("improved")] == [SoFar, type(None), Improvement]


def test_what_cannot_be_improved_is_refused():
    session = open_session(Toy(a=torch.randn(8, 64)))
    session.set_recipe(Recipe(None))
    with pytest.raises(ConfigError, match="there is nothing to improve"):
        session.improve()


def test_changes_of_layers_alike_are_one_line():
    session = open_session(
        Toy(**{f"layers.{i}.{leaf}": torch.randn(8, 64) for i in range(3) for leaf in ("up", "down")})
    )
    ended(session)
    groups = grouped(session.improving.latest.changes)
    assert [group.pattern for group in groups] == ["layers.*.up", "layers.*.down"]
    for group in groups:
        of = [change for change in session.improving.latest.changes if change.name in group.names]
        assert group.bytes_after == sum(change.bytes_after for change in of)
        assert 3 * group.error_after**2 == pytest.approx(sum(change.error_after**2 for change in of))
