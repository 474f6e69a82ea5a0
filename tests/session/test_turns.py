"""Turns: what a person waits for and what runs behind it may run together, a timing runs alone."""

import threading

import pytest

from workbench.errors import Cancelled
from workbench.session.turns import Turns

KINDS = ("in_turn", "behind", "alone")
TOGETHER = {("in_turn", "behind"), ("behind", "in_turn")}


class Held:
    """A step that is under way on a thread of its own until it is let go."""

    def __init__(self, taken):
        self.begun, self.go = threading.Event(), threading.Event()
        self.found = []
        self.thread = threading.Thread(target=lambda: self.found.extend(taken(self.steps(), threading.Event())))
        self.thread.start()
        assert self.begun.wait(30)

    def steps(self):
        self.begun.set()
        assert self.go.wait(30)
        yield "done"

    def end(self):
        self.go.set()
        self.thread.join(30)
        return self.found


@pytest.mark.parametrize("second", KINDS)
@pytest.mark.parametrize("first", KINDS)
def test_which_steps_run_together(first, second):
    turns, cancel = Turns(), threading.Event()
    held = Held(getattr(turns, first))
    try:
        if (first, second) in TOGETHER:
            assert list(getattr(turns, second)(iter("ab"), cancel)) == ["a", "b"]
        else:
            cancel.set()  # or it would wait for ever
            with pytest.raises(Cancelled):
                list(getattr(turns, second)(iter("ab"), cancel))
    finally:
        assert held.end() == ["done"]
    assert list(getattr(turns, second)(iter("ab"), threading.Event())) == ["a", "b"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_turn_ends_with_each_step_and_with_an_error(kind):
    turns, cancel = Turns(), threading.Event()

    def failing():
        yield "a"
        raise ValueError("no more")

    steps = getattr(turns, kind)(failing(), cancel)
    assert next(steps) == "a"
    assert list(turns.alone(iter("b"), cancel)) == ["b"]
    with pytest.raises(ValueError, match="no more"):
        next(steps)
    assert list(turns.alone(iter("c"), cancel)) == ["c"]
