"""Solving a source: one layer at a time."""

from __future__ import annotations

import gc
import weakref

from workbench.coverage.preflight import preflight_source
from workbench.demo import demo_path
from workbench.hf.skeleton import open_source
from workbench.recipe.recipe import as_recipe
from workbench.solving import iter_quantize


def test_only_one_layer_is_held_at_a_time(monkeypatch):
    """Steps that are let go free their weight, and no dense weight outlives its own step."""
    source = open_source(demo_path())
    coverage = preflight_source(source, as_recipe(None))
    dense, solved, alive = [], [], []
    read = source.weight

    def counted(name):
        gc.collect()
        alive.append(sum(one() is not None for one in dense + solved))
        tensor = read(name)
        dense.append(weakref.ref(tensor))
        return tensor

    monkeypatch.setattr(source, "weight", counted)
    gc.collect()
    gc.freeze()  # what is there already is not looked through again at each layer
    try:
        for step in iter_quantize(source, coverage):
            solved.append(weakref.ref(step.weight))
            del step
    finally:
        gc.unfreeze()
    assert len(dense) == len(coverage.int4_rows) > 20
    assert max(alive) <= 1
