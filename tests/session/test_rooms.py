"""What rooms share: work that follows the layer on show; what is of another layer or other settings is dropped."""

import threading

import pytest

from tests.session.stand_ins import TIMEOUT_S, Heard, toy
from workbench.errors import ConfigError, ModelError
from workbench.session import Session
from workbench.session.rooms import check_readable, linear_row


class Slow:
    """A session whose details wait for `go`, or for their end, after the views of the settings at the start."""

    def __init__(self, monkeypatch):
        self.session = Session(toy("a", "b"))
        self.session.refresh()
        assert self.session.wait(TIMEOUT_S)
        self.begun, self.go = threading.Event(), threading.Event()
        found = self.session.details._found

        def slow(view, inputs, cancel):
            self.begun.set()
            while not (self.go.is_set() or cancel.wait(0.01)):
                pass
            yield from found(view, inputs, cancel)

        monkeypatch.setattr(self.session.details, "_found", slow)

    def end(self):
        self.go.set()
        assert self.session.wait(TIMEOUT_S)
        return self.session.details.latest


def test_what_follows_a_view_that_comes_before_its_recipe_is_told_is_kept(monkeypatch):
    slow = Slow(monkeypatch)
    session, refresh = slow.session, slow.session.views.refresh

    def quick():  # as for a layer that is held already
        job = refresh()
        assert slow.begun.wait(TIMEOUT_S)
        return job

    monkeypatch.setattr(session.views, "refresh", quick)
    session.configure(group_size=32)
    assert slow.end().config.group_size == 32


def test_more_layers_in_the_selection_drop_nothing_of_the_one_on_show(monkeypatch):
    slow = Slow(monkeypatch)
    heard = Heard(slow.session)
    slow.session.refresh()
    assert slow.begun.wait(TIMEOUT_S)
    slow.session.select(["a", "b"], current="a")
    slow.end()
    assert [details.name for details in heard.of("details")] == ["a"]


def test_another_layer_drops_what_was_begun(monkeypatch):
    slow = Slow(monkeypatch)
    heard = Heard(slow.session)
    slow.session.refresh()
    assert slow.begun.wait(TIMEOUT_S)
    slow.session.select(["b"])
    assert slow.end().name == "b"
    assert [details.name for details in heard.of("details")] == ["b"]


def test_a_row_that_is_not_linear_says_what_it_lacks():
    session = Session(toy("a", "table", kinds={"table": "embedding"}))
    assert linear_row(session, "it has no colour").name == "a"
    session.current = "table"
    with pytest.raises(ConfigError, match=r"table is no linear layer \(embedding\): it has no colour"):
        linear_row(session, "it has no colour")
    session.current = ""
    with pytest.raises(ConfigError, match="No layer is on show: it has no colour"):
        linear_row(session, "it has no colour")


def test_a_layer_without_values_is_refused_with_the_reason():
    source = toy("a")
    check_readable(source, "a")
    source.missing = lambda name: f"{name} lies elsewhere"
    with pytest.raises(ModelError, match="a cannot be shown: a lies elsewhere"):
        check_readable(source, "a")
