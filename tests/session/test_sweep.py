"""The sweep by itself: every int4 layer once, again what a change touches, and nothing of an older recipe at the end.

What a session makes of it is in test_session.py and test_calibration.py.
"""

import threading
from types import SimpleNamespace

import pytest
import torch

from tests.session.stand_ins import Toy
from workbench.config import Int4WeightOnlyConfig
from workbench.coverage.preflight import preflight_source
from workbench.errors import Cancelled, WeightError
from workbench.recipe.recipe import Choice, Recipe
from workbench.session.sweep import Sweep
from workbench.views.cache import ViewCache

G32, G64 = (Recipe(Choice(Int4WeightOnlyConfig(group_size=size))) for size in (32, 64))


@pytest.fixture
def source():
    torch.manual_seed(3)
    return Toy({name: torch.randn(8, 128) for name in "abc"})


class Held:
    """Stands in for a session: the coverage that holds, and the views that were kept."""

    def __init__(self, source, recipe=G64):
        self.source, self.views = source, {}
        self.take(recipe)
        text = SimpleNamespace(stamp="")
        self.sweep = Sweep(
            *(source, text, ViewCache()),
            coverage=lambda: self.coverage,
            recorded=lambda name: self.views.get(name),
            check=lambda name: None,
        )

    def take(self, recipe):
        self.coverage = preflight_source(self.source, recipe)
        self.views = {}

    def run(self, after=lambda held, name: None, cancel=None):
        found = []
        for progress, view in self.sweep.run(cancel or threading.Event()):
            found.append((progress, view))
            if not isinstance(view, WeightError):
                self.views[view.name] = view
                after(self, view.name)
        return found


def test_every_layer_once_with_its_place_and_solver(source):
    found = Held(source).run()
    assert [(view.name, progress.done, progress.label) for progress, view in found] == [
        ("a", 1, "a, rtn"),
        ("b", 2, "b, rtn"),
        ("c", 3, "c, rtn"),
    ]
    assert all(view.exact and view.map.rows <= 64 for _, view in found)


@pytest.mark.parametrize("recipes", [(G32,), (G32, G64)], ids=["changed", "changed and back to an equal one"])
def test_what_was_solved_under_another_recipe_is_solved_again(source, recipes):
    def change(held, name):
        if name == "b" and recipes_left:
            for recipe in recipes_left:
                held.take(recipe)
            recipes_left.clear()

    recipes_left = list(recipes)
    held = Held(source)
    found = held.run(change)
    assert [view.name for _, view in found] == ["a", "b", "a", "b", "c"]
    assert {view.group_size for view in held.views.values()} == {64 if len(recipes) == 2 else 32}
    assert set(held.views) == set("abc")


def test_a_weight_that_is_not_finite_is_told_and_the_others_follow(source):
    source.weights["b"][1, 2] = torch.nan
    found = [view for _, view in Held(source).run()]
    assert isinstance(found[1], WeightError) and "b[1, 2] is nan" in str(found[1])
    assert [view.name for view in (found[0], found[2])] == ["a", "c"]


def test_cancel_stops_it(source):
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        Held(source).run(cancel=cancel)
