"""Improve: never larger, never worse, and as good as trying every assignment there is."""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace

import pytest
import torch

from tests.tiny_models import make
from workbench.config import GROUP_SIZES, Int4WeightOnlyConfig
from workbench.coverage.preflight import preflight_source
from workbench.coverage.rows import planned_bytes
from workbench.errors import Cancelled, ConfigError, WeightError
from workbench.improve import trials
from workbench.improve.improve import Improvement, SoFar, iter_improve
from workbench.improve.improvement import said
from workbench.improve.trials import Trials, candidates
from workbench.measure.sampling import sampled_rows
from workbench.recipe.edit import changed_choice
from workbench.recipe.recipe import Choice, Recipe, Rule
from workbench.records.layers import LayerRecord
from workbench.records.progress import Progress
from workbench.solvers import InputMoments, solve

GROUP_64 = Recipe(Choice(Int4WeightOnlyConfig(group_size=64)))


class Toy:
    """A source of given weights, all linear."""

    name = "toy"

    def __init__(self, **weights):
        self.weights = weights

    def records(self):
        return [
            LayerRecord(name, "linear", tuple(w.shape), str(w.dtype).removeprefix("torch."), w.numel() * w.itemsize)
            for name, w in self.weights.items()
        ]

    def weight(self, name):
        return self.weights[name]

    def missing(self, name):
        return ""


def toy(seed=0, k=256):
    """Three layers of which the second has outliers, which small groups keep to themselves."""
    torch.manual_seed(seed)
    made = {name: torch.randn(16, k) for name in ("a", "b", "c")}
    made["b"][:, ::37] *= 12
    return Toy(**made)


def improved(source, recipe=GROUP_64, **settings) -> Improvement:
    steps = list(iter_improve(source, preflight_source(source, recipe), recipe, **settings))
    assert all(isinstance(step, Progress | SoFar) for step in steps[:-1])
    done = [step.done for step in steps if isinstance(step, Progress)]
    assert done == list(range(1, len(done) + 1))
    return steps[-1]


def relative_error(weight, config, moments=None):
    """Squared error over squared weight; with inputs X, of X w^T."""
    held = None if moments is None or config.solver != "calibrated" else moments
    error = solve(weight, config, statistics=held).weight.dequantize().double() - weight.double()
    if moments is None:
        return float(error.square().sum() / weight.double().square().sum())
    h = moments.total.double()
    return float((error @ h @ error.t()).trace() / (weight.double() @ h @ weight.double().t()).trace())


def total(source, recipe, moments=None):
    """The sum of the layers' relative squared errors under a recipe, and the bytes that it takes."""
    coverage = preflight_source(source, recipe)
    found = {n: relative_error(source.weight(n), c, (moments or {}).get(n)) for n, c in coverage.configs.items()}
    return sum(found.values()), coverage.after_bytes


def brute_force(source, recipe):
    """The least sum of errors over every assignment of candidates to layers that takes no more bytes."""
    coverage = preflight_source(source, recipe)
    options = []
    for record in source.records():
        found = [one.config for one in candidates(recipe.decide(record.name)[0], "cpu")]
        weight = source.weight(record.name)
        options.append([(planned_bytes(record, config), relative_error(weight, config)) for config in found])
    every = itertools.product(*options)
    return min(sum(e for _, e in one) for one in every if sum(b for b, _ in one) <= coverage.after_bytes)


@pytest.mark.parametrize("seed", range(3))
def test_it_is_as_good_as_trying_every_assignment(seed):
    source = toy(seed)
    found = improved(source, plain=0.0)
    error, size = total(source, found.recipe)
    assert size == found.bytes_after <= found.bytes_before
    assert error == pytest.approx(brute_force(source, GROUP_64), rel=1e-6)
    assert 3 * found.error_after**2 == pytest.approx(error, rel=1e-6)
    assert 3 * found.error_before**2 == pytest.approx(total(source, GROUP_64)[0], rel=1e-6)
    assert found.gain > 0.05


@pytest.mark.parametrize("size", GROUP_SIZES)
@pytest.mark.parametrize("domain", ["auto", "int", "symmetric"])
def test_it_is_never_larger_and_never_worse(size, domain):
    recipe = Recipe(changed_choice(Choice(), size, domain))
    source = toy(k=200)  # which no group size divides
    found = improved(source, recipe)
    (before, held), (after, taken) = total(source, recipe), total(source, found.recipe)
    assert after <= before and taken <= held
    assert (found.recipe == recipe) == (not found.changes)


def test_small_groups_go_to_the_layer_that_needs_them_and_others_pay():
    found = improved(toy(), Recipe(changed_choice(Choice(), 64, solver="refined")), plain=0.0)
    after = {change.name: change for change in found.changes}
    assert after["b"].bytes_after > after["b"].bytes_before
    assert sum(change.bytes_after - change.bytes_before for change in found.changes) <= 0
    assert after["b"].error_after < after["b"].error_before


def test_a_plain_recipe_is_preferred_where_it_is_nearly_as_good():
    source = Toy(**{name: torch.randn(16, 256) for name in "abcd"})
    found = improved(source, plain=0.2)
    assert found.recipe.rules == ()
    assert found.recipe.default == changed_choice(GROUP_64.default, 64, "float", "refined", "auto")
    assert [change.after for change in found.changes] == ["g64 float refined"] * 4


def test_nothing_better_leaves_the_recipe():
    source = toy()
    first = improved(source)
    second = improved(source, first.recipe)
    assert second.recipe == first.recipe and second.changes == ()
    assert str(second).startswith("Nothing better at this size")
    assert second.error_after == second.error_before == pytest.approx(first.error_after)


def test_what_changed_is_listed_and_nothing_else_changed():
    recipe = replace(GROUP_64, rules=(Rule("c", None),))
    found = improved(toy(), recipe)
    before, after = (preflight_source(toy(), one).configs for one in (recipe, found.recipe))
    assert [change.name for change in found.changes] == [name for name in before if before[name] != after[name]]
    assert set(before) == set(after) == {"a", "b"}
    for change in found.changes:
        assert (change.before, change.after) == (said(before[change.name]), said(after[change.name]))
    assert f"{len(found.changes)} layers changed" in str(found) or "1 layer changed" in str(found)


def test_large_layers_are_sampled_first_and_what_is_said_is_of_all_rows():
    torch.manual_seed(3)
    source = Toy(a=torch.randn(700, 128), b=torch.randn(600, 128) ** 3)
    assert len(Trials(source, {}, None).sampled("a", (700, 128))) == 512
    found = improved(source)
    error, _ = total(source, found.recipe)
    assert 2 * found.error_after**2 == pytest.approx(error, rel=1e-6)
    assert total(source, GROUP_64)[0] == pytest.approx(2 * found.error_before**2, rel=1e-6)


def moments_of(source, tokens=512):
    """Inputs of which a few columns are large, as those of a language model are."""
    torch.manual_seed(9)
    found = {}
    for name, weight in source.weights.items():
        found[name] = InputMoments.empty(weight.shape[1])
        found[name].add(torch.randn(tokens, weight.shape[1]) * (1 + 9 * (torch.arange(weight.shape[1]) % 31 == 0)))
    return found


def test_with_inputs_the_error_is_that_of_the_outputs_and_calibrated_is_tried():
    source = toy(k=128)
    moments = moments_of(source)
    found = improved(source, moments=moments)
    error, size = total(source, found.recipe, moments)
    assert found.objective == "output error" and size <= found.bytes_before
    assert 3 * found.error_after**2 == pytest.approx(error, rel=1e-3)
    assert any("calibrated" in change.after for change in found.changes)
    assert found.error_after < improved(source).error_after


def test_without_all_inputs_the_weights_are_judged_and_calibrated_layers_stay():
    source = toy(k=128)
    recipe = Recipe(changed_choice(Choice(), 64), (Rule("b", changed_choice(Choice(), 64, solver="calibrated")),))
    found = improved(source, recipe, moments={"a": moments_of(source)["a"]})
    assert found.objective == "weight error"
    assert [change.name for change in found.changes] == ["a", "c"]
    assert found.recipe.decide("b")[0] == recipe.decide("b")[0]
    assert "b stays as it is: calibrated" in found.notes[0]


def test_a_layer_with_nan_stays_and_is_named():
    source = toy()
    source.weights["b"][3, 5] = float("nan")
    found = improved(source)
    assert [change.name for change in found.changes] == ["a", "c"]
    assert found.notes == ("b stays as it is: b[3, 5] is nan.",)
    assert found.recipe.decide("b")[0] == GROUP_64.default


@pytest.mark.parametrize("row", [2, 3], ids=["sampled", "not sampled"])
def test_a_nan_of_a_large_layer_is_named_where_it_is_and_the_others_go_on(row):
    torch.manual_seed(3)
    source = Toy(a=torch.randn(1030, 128), b=torch.randn(1030, 128))
    assert (2 in sampled_rows(1030, 512)) and (3 not in sampled_rows(1030, 512))
    source.weights["b"][row, 5] = float("nan")
    found = improved(source)
    assert found.notes == (f"b stays as it is: b[{row}, 5] is nan.",)
    assert [change.name for change in found.changes] == ["a"] and found.recipe.decide("b")[0] == GROUP_64.default


def test_a_nan_of_a_layer_larger_than_a_block_is_named_where_it_is(monkeypatch):
    monkeypatch.setattr(trials, "_BLOCK_WEIGHTS", 300 * 128)
    test_a_nan_of_a_large_layer_is_named_where_it_is_and_the_others_go_on(2)
    source = Toy(a=torch.randn(1030, 128))
    source.weights["a"][1001, 7] = float("inf")
    with pytest.raises(WeightError, match=r"a\[1001, 7\] is inf"):
        Trials(source, {}, None).exact("a", (1030, 128), candidates(GROUP_64.default, "cpu")[0].config)


def test_what_would_change_is_said_early_and_the_last_of_it_is_what_is_found():
    torch.manual_seed(5)
    source = Toy(**{name: torch.randn(600, 128) for name in "abcde"})
    steps = list(iter_improve(source, preflight_source(source, GROUP_64), GROUP_64))
    early = [step for step in steps if isinstance(step, SoFar)]
    assert [one.tried_layers for one in early[:4]] == [1, 2, 4, 5], "then once before each round on all rows"
    assert all((one.layers, one.exact) == (5, False) for one in early)
    assert steps.index(early[0]) == 1, "as soon as the first layer is tried"
    for one in early:
        assert {change.name for change in one.changes} == set("abcde"[: one.tried_layers])
        mean = sum(change.error_after**2 for change in one.changes) / one.tried_layers
        assert one.error_after == pytest.approx(mean**0.5) and 0 < one.gain < 1
        before, after = (sum(getattr(c, f"bytes_{when}") for c in one.changes) for when in ("before", "after"))
        assert after <= before
    assert [change.after for change in early[-1].changes] == [change.after for change in steps[-1].changes]
    assert early[-1].error_after == pytest.approx(steps[-1].error_after, rel=0.05)


def test_nothing_better_so_far_is_no_change():
    source = Toy(a=torch.zeros(8, 128), b=torch.zeros(8, 128))
    early = [
        step for step in iter_improve(source, preflight_source(source, GROUP_64), GROUP_64) if isinstance(step, SoFar)
    ]
    assert early and all(one.changes == () and one.gain == 0 for one in early)


def test_many_layers_change_together_by_pattern():
    source = Toy(**{f"layers.{i}.{leaf}": torch.randn(8, 128) for i in range(4) for leaf in ("up", "down")})
    for i in range(4):
        source.weights[f"layers.{i}.down"][:, ::29] *= 15
    found = improved(source, Recipe(changed_choice(Choice(), 64, solver="refined")), plain=0.0, one_by_one=4)
    after = preflight_source(source, found.recipe).configs
    for leaf in ("up", "down"):
        assert len({said(after[f"layers.{i}.{leaf}"]) for i in range(4)}) == 1
    assert len(found.recipe.rules) <= 2


def test_a_real_model_keeps_what_is_dense_and_gets_no_larger():
    from workbench.sources import ModelSource

    source = ModelSource(make("qwen2"))
    before = preflight_source(source, GROUP_64)
    found = improved(source)
    after = preflight_source(source, found.recipe)
    assert set(after.configs) == set(before.configs) and after.after_bytes <= before.after_bytes
    assert found.changes


def test_it_stops_between_trials():
    source, cancel = toy(), threading.Event()
    steps = iter_improve(source, preflight_source(source, GROUP_64), GROUP_64, cancel=cancel)
    next(steps)
    cancel.set()
    with pytest.raises(Cancelled, match="nothing was changed"):
        list(steps)


def test_no_int4_layer_is_nothing_to_improve():
    recipe = Recipe(None)
    found = improved(toy(), recipe)
    assert (found.recipe, found.changes, found.gain) == (recipe, (), 0.0)


def test_candidates_are_all_different_and_the_first_is_what_is_there():
    choice = Choice(Int4WeightOnlyConfig(group_size=128, use_hqq=True))
    found = candidates(choice, "cpu")
    assert found[0].choice == choice
    settings = [replace(one.config, notes=()) for one in found]
    assert all(one not in settings[:place] for place, one in enumerate(settings))
    assert {one.config.group_size for one in found} == set(GROUP_SIZES)
    assert {one.config.domain for one in found} == {"float", "int", "symmetric"}
    assert not any(one.config.solver == "calibrated" for one in found)
    for one in found:
        assert one.choice.resolved("cpu") == one.config
    with pytest.raises(ConfigError):
        changed_choice(choice, domain="symmetric")
