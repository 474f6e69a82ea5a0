"""Layers held: one entry for settings of the same values, within a bound, and round-to-nearest solved once."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.views.test_views import G64, HQQ, Given, settings, weight_of
from workbench.measure.error_map import error_map
from workbench.measure.errors import error_summary
from workbench.options import HqqOptions
from workbench.solvers import InputMoments, solve
from workbench.sources import ModelSource
from workbench.views.cache import NO_INPUTS, WAITING, Inputs, ViewCache, same_values, solve_and_measure
from workbench.views.views import iter_layer_views


def test_round_to_nearest_is_solved_once_for_all_solvers_beside_it(monkeypatch):
    source, cache = Given(weight_of((40, 256))), ViewCache()
    solved = []

    def counted(weight, config, **rest):
        solved.append((config.solver, config.group_size, config.domain))
        return solve(weight, config, **rest)

    monkeypatch.setattr("workbench.views.cache.solve", counted)
    wanted = [HQQ, replace(HQQ, options=HqqOptions(iters=3)), G64, settings(32, solver="hqq"), settings(32)]
    shown = [next(iter_layer_views(source, "w", config, cache=cache)).rtn for config in wanted]
    assert [solver for solver, *_ in solved] == ["hqq", "rtn", "hqq", "rtn", "hqq", "rtn", "rtn"]
    assert shown == [
        error_summary(source.value, solve(source.value, c).weight) for c in (G64, G64, G64, *[settings(32)] * 2)
    ]


def test_round_to_nearest_of_an_older_weight_is_not_used_again():
    model, cache = nn.Sequential(nn.Linear(64, 8)), ViewCache()
    source = ModelSource(model)
    (first,) = iter_layer_views(source, "0", G64, cache=cache)
    with torch.no_grad():
        model[0].weight.mul_(3)
    (second,) = iter_layer_views(source, "0", HQQ, cache=cache)
    assert second.rtn.rmse == pytest.approx(3 * first.rtn.rmse, rel=0.05)


def test_settings_that_leave_values_alone_share_an_entry():
    cache = ViewCache()
    tiles = replace(G64, inner_k_tiles=2, notes=())
    list(iter_layer_views(Given(weight_of((8, 64))), "w", G64, cache=cache))
    (view,) = iter_layer_views(Given(weight_of((8, 64))), "w", tiles, cache=cache)
    assert len(cache) == 1
    assert view.config == tiles
    assert same_values(G64, tiles)
    assert not same_values(HQQ, replace(HQQ, options=HqqOptions(iters=3)))
    for other in (settings(32), settings(domain="int"), HQQ, replace(G64, preserve_zero=True)):
        assert not same_values(G64, other)


def test_a_picture_that_was_seen_is_not_drawn_again(monkeypatch):
    source, cache, drawn = Given(weight_of((40, 256))), ViewCache(), []

    def counted(weight, quantized, **rest):
        drawn.append((rest["metric"], rest["reduce"], rest["max_rows"]))
        return error_map(weight, quantized, **rest)

    monkeypatch.setattr("workbench.views.cache.error_map", counted)
    wanted = [("rmse", "max", 8), ("max", "max", 8), ("rmse", "mean", 8), ("rmse", "max", 16)]
    for _ in range(2):
        for metric, reduce, side in wanted:
            (view,) = iter_layer_views(source, "w", G64, metric=metric, reduce=reduce, max_side=side, cache=cache)
            stored = solve(source.value, G64).weight
            assert view.map == error_map(
                source.value, stored, metric=metric, reduce=reduce, max_rows=side, max_cols=side
            )
    assert drawn == wanted
    pictures = 3 * 8 * 4 + 14 * 4  # 40 rows on at most 16: three to one
    assert cache.held_bytes == source.value.numel() * (4 + 1) + 40 * 4 * 2 * 2 + pictures


def test_the_oldest_are_let_go_when_the_cache_is_full():
    weight = weight_of((64, 256))
    stored = weight.numel() + 64 * 4 * 2 * 2  # codes, scales and zeros; the weight itself is shared
    cache = ViewCache(max_bytes=4 * weight.numel() + 2 * stored)
    source = Given(weight)
    a, b, c = (settings(64, domain) for domain in ("float", "int", "symmetric"))
    for config in (a, b, a, c):
        list(iter_layer_views(source, "w", config, cache=cache))
    assert len(cache) == 2
    assert cache.get("w", b) is None
    assert cache.get("w", a) is not None and cache.get("w", c) is not None
    assert 4 * weight.numel() + stored < cache.held_bytes <= cache.max_bytes
    assert not cache.has_room(stored) and cache.has_room(cache.max_bytes - cache.held_bytes)


def test_a_weight_larger_than_the_cache_is_held_alone():
    cache = ViewCache(max_bytes=10)
    for domain in ("float", "int"):
        list(iter_layer_views(Given(weight_of((8, 64))), "w", settings(domain=domain), cache=cache))
    assert len(cache) == 1
    assert cache.get("w", settings(domain="int")) is not None


def moments_of(k, tokens=400):
    inputs = torch.randn(tokens, k, generator=torch.Generator().manual_seed(1))
    moments = InputMoments.empty(k)
    moments.add(inputs)
    return moments


CALIBRATED = settings(solver="calibrated")


def test_what_was_solved_on_other_inputs_is_solved_again():
    source, cache = Given(weight_of((24, 128))), ViewCache()
    inputs = Inputs(moments_of(128), "inputs of a test", "test", "a/1")

    def shown(given):
        return next(iter_layer_views(source, "w", CALIBRATED, cache=cache, inputs=given))

    waiting, first = shown(WAITING), shown(inputs)
    assert (waiting.solver, first.solver) == ("refined", "calibrated")
    assert shown(replace(inputs, moments=None)) == first, "held under the same stamp"
    assert shown(replace(inputs, stamp="a/2")).stamp == "a/2"
    assert cache.get("w", CALIBRATED).inputs.moments is None, "moments have a bound of their own"
    assert next(iter_layer_views(source, "w", G64, cache=cache, inputs=inputs)).inputs == ""


def test_notes_say_the_inputs_or_why_there_are_none():
    weight = weight_of((8, 128))
    without = solve_and_measure(weight, "w", CALIBRATED, None)
    assert without.notes == (f"solved with refined instead of calibrated: {NO_INPUTS.note}",)
    given = Inputs(moments_of(128), "inputs of a test", "test")
    assert solve_and_measure(weight, "w", CALIBRATED, None, inputs=given).notes[0] == "inputs of a test"
    few = solve_and_measure(weight, "w", CALIBRATED, None, inputs=replace(given, moments=moments_of(128, 5)))
    assert few.notes[0] == "inputs of a test" and "5 tokens" in few.notes[1]
    assert few.solver == "refined"
    assert solve_and_measure(weight, "w", G64, None, inputs=given).notes == ()
