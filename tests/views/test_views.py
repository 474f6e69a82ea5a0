"""Views: what the badge says is what was solved; exact views are the direct measurement; the cache is bounded."""

import threading

import pytest
import torch
from torch import nn

from workbench.config import Int4WeightOnlyConfig
from workbench.errors import Cancelled, WeightError
from workbench.measure.error_map import METRICS, error_map
from workbench.measure.errors import error_summary
from workbench.measure.sampling import sampled_rows
from workbench.records.layers import LayerRecord
from workbench.solvers import solve
from workbench.sources import ModelSource
from workbench.views.cache import ViewCache
from workbench.views.views import SAMPLED_ROWS, iter_layer_views, unhurried

G64 = Int4WeightOnlyConfig(group_size=64).resolved("cpu")
HQQ = Int4WeightOnlyConfig(group_size=64, use_hqq=True).resolved("cpu")
LARGE = (1500, 1024)


class Given:
    """A source of one weight that counts how often it is read."""

    name = "given"

    def __init__(self, weight):
        self.value = weight
        self.reads = 0

    def records(self):
        return [LayerRecord("w", "linear", tuple(self.value.shape), "float32", 0)]

    def weight(self, name):
        self.reads += 1
        return self.value

    def missing(self, name):
        return ""


def weight_of(shape, dtype=torch.float32):
    torch.manual_seed(7)
    return torch.randn(shape).to(dtype)


def views(weight, config=G64, **settings):
    return list(iter_layer_views(Given(weight), "w", config, **settings))


def settings(group_size=64, domain="float", solver="rtn"):
    beside = {"domain": "symmetric"} if domain == "symmetric" else {"domain": domain}
    return Int4WeightOnlyConfig(group_size=group_size).resolved("cpu", solver=solver, **beside)


@pytest.mark.parametrize("group_size", [32, 64, 128, 256])
@pytest.mark.parametrize("domain", ["float", "int", "symmetric"])
@pytest.mark.parametrize(("shape", "dtype"), [((40, 256), torch.float32), ((33, 100), torch.bfloat16)])
def test_an_exact_view_is_the_direct_measurement(shape, dtype, domain, group_size):
    config, weight = settings(group_size, domain), weight_of(shape, dtype)
    (view,) = views(weight, config)
    quantized = solve(weight, config).weight
    assert view.summary == view.rtn == error_summary(weight, quantized)
    assert view.map == error_map(weight, quantized)
    assert (view.exact, view.badge, view.rows, view.total_rows) == (True, "exact", shape[0], shape[0])
    assert (view.group_size, view.in_features, view.config, view.name) == (group_size, shape[1], config, "w")


@pytest.mark.parametrize("domain", ["float", "int"])
def test_hqq_is_shown_against_round_to_nearest(domain):
    weight = weight_of((40, 256))
    (view,) = views(weight, settings(domain=domain, solver="hqq"))
    assert view.summary == error_summary(weight, solve(weight, settings(domain=domain, solver="hqq")).weight)
    assert view.rtn == error_summary(weight, solve(weight, settings(domain=domain)).weight)
    assert view.summary.mean_abs <= view.rtn.mean_abs


def test_a_view_carries_the_trace_of_what_was_solved():
    weight = weight_of((40, 256))
    for solver in ("rtn", "hqq"):
        (view,) = views(weight, settings(solver=solver))
        assert view.trace == solve(weight, settings(solver=solver)).trace
    first, last = views(weight_of((160, 2048)), HQQ)
    assert first.trace.groups < last.trace.groups == 160 * 32


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("reduce", ["max", "mean"])
def test_metric_and_reduction_reach_the_picture(metric, reduce):
    weight = weight_of((40, 256))
    (view,) = views(weight, metric=metric, reduce=reduce, max_side=16)
    assert view.map == error_map(
        weight, solve(weight, G64).weight, metric=metric, reduce=reduce, max_rows=16, max_cols=16
    )


@pytest.mark.parametrize(("config", "shape"), [(G64, LARGE), (HQQ, (160, 2048))], ids=["rtn", "hqq"])
def test_a_large_weight_is_sampled_first_as_the_badge_says(config, shape):
    weight = weight_of(shape)
    first, last = views(weight, config)
    rows = sampled_rows(shape[0], first.rows)
    assert first.rows <= SAMPLED_ROWS
    assert first.badge == f"sampled 1/{max(2, round(shape[0] / first.rows))}"
    assert not first.exact
    assert first.total_rows == shape[0]
    part = weight[rows]
    assert first.summary == error_summary(part, solve(part, config).weight)
    assert first.map == error_map(part, solve(part, config).weight)
    assert last.exact
    assert last.summary == error_summary(weight, solve(weight, config).weight)


def test_hqq_begins_with_fewer_rows_for_it_takes_longer():
    weight = weight_of((600, 2048))
    first = [next(iter_layer_views(Given(weight), "w", config)) for config in (HQQ, G64)]
    assert [view.rows for view in first] == [128, 256]


@pytest.mark.parametrize(
    ("shape", "exact_at_once"),
    [((1024, 1024), True), ((1025, 1024), False), ((100, 20_000), False), ((2, 600_000), False)],
)
def test_small_weights_are_exact_at_once_and_a_sample_is_never_the_whole(shape, exact_at_once):
    found = views(torch.ones(shape))
    assert [view.exact for view in found] == ([True] if exact_at_once else [False, True])
    assert all(view.badge.startswith("sampled 1/") for view in found[:-1])
    assert found[0].rows * shape[1] <= 1 << 20


def test_a_sweep_asks_for_no_sample():
    (view,) = views(weight_of(LARGE), sampled=False)
    assert view.exact


def test_what_was_solved_is_not_solved_or_read_again(monkeypatch):
    source, cache = Given(weight_of((40, 256))), ViewCache()
    config = settings(32)
    first = list(iter_layer_views(source, "w", config, cache=cache))
    other = list(iter_layer_views(source, "w", G64, cache=cache))
    assert (source.reads, len(cache)) == (1, 2)
    monkeypatch.setattr("workbench.views.cache.solve", None)
    assert list(iter_layer_views(source, "w", config, cache=cache)) == first
    assert list(iter_layer_views(source, "w", G64, cache=cache)) == other
    (scales,) = iter_layer_views(source, "w", G64, cache=cache, metric="scale")
    assert scales.map.metric == "scale"
    assert source.reads == 1


def test_cancel_stops_before_the_view_and_keeps_nothing():
    cancel, cache = threading.Event(), ViewCache()
    steps = iter_layer_views(Given(weight_of(LARGE)), "w", G64, cache=cache, cancel=cancel)
    assert not next(steps).exact
    cancel.set()
    with pytest.raises(Cancelled):
        next(steps)
    assert len(cache) == 0


@pytest.mark.parametrize("shape", [(40, 256), LARGE])
def test_nan_is_named_with_its_true_place_and_not_cached(shape):
    weight, cache = weight_of(shape), ViewCache()
    weight[-1, 5] = float("nan")
    with pytest.raises(WeightError, match=rf"w\[{shape[0] - 1}, 5\] is nan"):
        list(iter_layer_views(Given(weight), "w", G64, cache=cache))
    assert len(cache) == 0


def test_a_live_weight_is_solved_again_after_it_changed_in_place_or_was_replaced():
    model, cache = nn.Sequential(nn.Linear(64, 8)), ViewCache()
    source = ModelSource(model)

    def shown():
        (view,) = iter_layer_views(source, "0", G64, cache=cache)
        return view.summary

    first = shown()
    assert shown() == first
    with torch.no_grad():
        model[0].weight.mul_(2)
    second = shown()
    assert second.rmse == pytest.approx(2 * first.rmse, rel=0.05)
    model[0].weight = nn.Parameter(torch.zeros(8, 64))
    assert shown().rmse == 0
    with torch.inference_mode():
        model[0].weight = nn.Parameter(torch.ones(8, 64), requires_grad=False)
    assert shown().rmse == 0


def test_a_view_from_sampled_rows_is_followed_by_a_pause_that_a_change_ends():
    waited = []

    class Cancel(threading.Event):
        def wait(self, timeout=None):
            waited.append(timeout)
            return self.is_set()

    found = views(weight_of(LARGE))
    assert [view.exact for view in found] == [False, True]
    assert list(unhurried(iter(found), Cancel())) == found and len(waited) == 1
    assert list(unhurried(iter(found[1:]), Cancel())) == found[1:] and len(waited) == 1
