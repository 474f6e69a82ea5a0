"""Runs in the order of the model that are stopped anywhere and go on: to the same bits, with nothing run twice."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
import torch
from torch import nn

import workbench as wb
from tests.calibrated_models import hand_made
from workbench.calibration import Calibration
from workbench.errors import Cancelled
from workbench.sequential import iter_sequential
from workbench.solvers import quantize_weight
from workbench.stopped_run import StoppedRun

G32 = wb.Int4WeightOnlyConfig(group_size=32)


@pytest.fixture(autouse=True)
def several_batches(monkeypatch):
    monkeypatch.setattr("workbench.calibration._BATCH_TOKENS", {"cpu": 40})


def text(seed=0, sequences=4):
    return Calibration(torch.randint(2, 97, (sequences, 20), generator=torch.Generator().manual_seed(seed)))


class StopAt(threading.Event):
    """An event that is set as it is looked at for the n-th time."""

    def __init__(self, looks=0):
        super().__init__()
        self.looks, self.at = 0, looks

    def is_set(self):
        self.looks += 1
        return 0 < self.at <= self.looks


class Runs:
    """Runs of one model that share what was solved, each under a text; the layers in `fine` are solved otherwise."""

    def __init__(self, model, max_bytes=2**20):
        self.model, self.names = model, [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
        self.solved, self.stopped, self.fine = {}, StoppedRun(max_bytes), frozenset()
        self.asked, self.moments, self.calls = {}, {}, Counter()
        for name, module in model.named_modules():
            module.register_forward_hook(lambda *_, name=name: self.calls.update([name]))

    def known(self, name, key):
        self.asked[name] = name, key, name in self.fine
        return self.asked[name] in self.solved

    def solve(self, name, moments):
        key = self.asked.pop(name)
        if key not in self.solved:
            self.moments[name] = moments.total.clone(), moments.tokens
            config = G32 if name not in self.fine else wb.Int4WeightOnlyConfig(group_size=64)
            self.solved[key] = quantize_weight(self.model.get_submodule(name).weight, config)
        return self.solved[key]

    def run(self, calibration, cancel=None):
        return list(self.steps(calibration, cancel))

    def steps(self, calibration, cancel=None):
        needs = dict.fromkeys(self.names, True)
        more = {"known": self.known, "stopped": self.stopped, "cancel": cancel or StopAt()}
        return iter_sequential(self.model, self.names, needs, calibration, self.solve, **more)


def same(one, other):
    assert set(one) == set(other)
    assert all(torch.equal(one[name][0], other[name][0]) and one[name][1] == other[name][1] for name in one)


KINDS = ["swapped", "by name", "loose", "between", "mixture"]


def stopped_and_gone_on(kind, at, **changes):
    """A run that was stopped as it looked for the at-th time, and went on."""
    runs = Runs(hand_made(kind), **changes)
    with pytest.raises(Cancelled):
        runs.run(text(), StopAt(at))
    return runs


@pytest.mark.parametrize("kind", KINDS)
def test_stopped_anywhere_it_goes_on_to_the_same_bits_and_runs_nothing_twice(kind):
    whole, looks = Runs(hand_made(kind)), StopAt()
    order = whole.run(text(), looks)
    for at in range(1, looks.looks, 1 + looks.looks // 6):
        cut = stopped_and_gone_on(kind, at)
        assert cut.run(text()) == order
        same(cut.moments, whole.moments)
        # One run shows the order, one batch was cut short, one more at most had its arguments noted for nothing.
        assert all(cut.calls[name] <= calls + 3 for name, calls in whole.calls.items())
        assert cut.stopped.held_bytes == 0


def test_let_go_of_between_two_layers_it_goes_on_too():
    whole, cut = Runs(hand_made("swapped")), Runs(hand_made("swapped"))
    order = whole.run(text())
    for _ in order:
        steps = cut.steps(text())
        for _ in range(len(cut.moments) + 1):
            next(steps)
        steps.close()
    assert cut.run(text()) == order
    same(cut.moments, whole.moments)


@pytest.mark.parametrize("kind", ["swapped", "loose"])
def test_where_nothing_may_be_held_the_solved_layers_alone_are_kept(kind):
    whole = Runs(hand_made(kind))
    order = whole.run(text())
    cut = stopped_and_gone_on(kind, 80, max_bytes=0)
    solved = len(cut.moments)
    assert solved and cut.stopped.held_bytes == 0 and cut.run(text()) == order
    same(cut.moments, whole.moments)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_known_throughout_takes_one_run_that_shows_the_order(kind):
    runs = Runs(hand_made(kind))
    order = runs.run(text())
    runs.calls.clear(), runs.moments.clear()
    assert runs.run(text()) == order and runs.moments == {}
    assert runs.calls["embed"] == runs.calls["head"] == 1


def changed_weight(runs):
    weight = runs.model.get_submodule(runs.names[1]).weight
    weight.data = weight.data * 1.01  # of which its version tells nothing


def changed_code(runs):
    own = runs.model.body
    runs.model.body = lambda hidden: own(hidden * 1.01)


CHANGES = {
    "another text": (lambda runs: None, text(seed=1)),
    "a longer text": (lambda runs: None, text(sequences=6)),
    "other settings of a layer before": (lambda runs: setattr(runs, "fine", {runs.names[1]}), text()),
    "other settings of a layer after": (lambda runs: setattr(runs, "fine", {runs.names[-2]}), text()),
    "a weight": (changed_weight, text()),
    "what the model computes": (changed_code, text()),
}


@pytest.mark.parametrize("kind", ["swapped", "loose"])
@pytest.mark.parametrize("change", CHANGES)
def test_after_a_change_everything_is_as_in_a_run_from_the_beginning(kind, change):
    make, calibration = CHANGES[change]
    for at in (40, 80):
        fresh, cut = Runs(hand_made(kind)), stopped_and_gone_on(kind, at)
        make(fresh), make(cut)
        assert fresh.run(calibration) == cut.run(calibration)
        same(cut.moments, fresh.moments)
        assert all(torch.equal(cut.solved[key].codes, weight.codes) for key, weight in fresh.solved.items())
