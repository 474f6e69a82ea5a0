"""The microscope: levels by the formulas of the format, errors by slow loops, and what there is not with its reason."""

from __future__ import annotations

import math
import threading
from dataclasses import replace

import pytest
import torch

from tests.solvers.oracles import nearest
from workbench.affine import QuantizedWeight
from workbench.config import DOMAINS, SCALE_DTYPES, Int4WeightOnlyConfig, ZeroPointDomain
from workbench.errors import Cancelled, ConfigError, WeightError
from workbench.measure import microscope as room
from workbench.measure.microscope import VARIANTS, Variant, absent, levels_of, microscope, why_not
from workbench.options import HqqOptions
from workbench.records.microscope import MicroscopeVariant
from workbench.solvers import InputMoments, solve

DATA_FREE = [variant for variant in VARIANTS if not why_not(variant, with_statistics=False)]


def some_weight(n=3, k=200, seed=0):
    return torch.randn(n, k, generator=torch.Generator().manual_seed(seed)) * 0.05 + 0.01


def config(group_size=64, **settings):
    return Int4WeightOnlyConfig(group_size=group_size).resolved("cpu", **settings)


def own(settings, variant):
    """The configuration that a variant stands for, made from nothing but its names."""
    fresh = config(settings.group_size, domain=variant.domain, solver=variant.solver, scale_dtype=settings.scale_dtype)
    return replace(fresh, preserve_zero=variant.preserve_zero)


def found(seen, *key):
    (one,) = [v for v in seen.variants if (v.domain, v.preserve_zero, v.solver) == key]
    return one


# --- levels -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", SCALE_DTYPES)
@pytest.mark.parametrize(("row", "group"), [(0, 0), (2, 1), (1, 3)])
def test_levels_of_round_to_nearest_are_those_of_the_formulas(dtype, row, group):
    weight = some_weight()
    seen = microscope(weight, row, group, config(scale_dtype=dtype))
    piece = weight[row, group * 64 : group * 64 + 64]
    assert seen.weights == tuple(piece.tolist())
    for domain, preserve_zero in (("float", False), ("float", True), ("int", True), ("symmetric", True)):
        _, scale, zero = nearest(piece, domain, preserve_zero, dtype)
        formula = {
            "float": lambda q, s, z: (q - 8) * s + z,
            "int": lambda q, s, z: (q - z) * s,
            "symmetric": lambda q, s, _: (q - 8) * s,
        }[domain]
        variant = found(seen, domain, preserve_zero, "rtn")
        assert variant.levels == pytest.approx([formula(q, scale, zero) for q in range(16)], rel=1e-6, abs=1e-9)
        for weight_value, code in zip(seen.weights, variant.codes, strict=True):
            away = [abs(level - weight_value) for level in variant.levels]
            assert away[code] == pytest.approx(min(away), abs=1e-6 * scale)
        assert variant.scale == scale
        assert variant.zero == (None if domain == "symmetric" else zero)


@pytest.mark.parametrize("domain", DOMAINS)
def test_levels_are_what_the_codes_dequantize_to(domain):
    weight = some_weight(4, 130)
    quantized = solve(weight, config(32, domain=domain)).weight
    levels, values = levels_of(quantized), quantized.dequantize()
    assert levels.dtype == torch.float32 and levels.shape == (4, 5, 16)
    for row in range(4):
        for column in range(130):
            assert levels[row, column // 32, int(quantized.codes[row, column])] == values[row, column]
    for code in range(16):
        all_alike = QuantizedWeight(torch.full_like(quantized.codes, code), quantized.scale, quantized.zero, 32, domain)
        assert torch.equal(all_alike.dequantize()[:, ::32], levels[:, :, code])


# --- numbers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", DATA_FREE, ids=lambda v: f"{v.domain}-{v.preserve_zero}-{v.solver}")
@pytest.mark.parametrize("group", [0, 3])
def test_a_variant_is_what_the_solver_makes_of_the_whole_layer(variant, group):
    weight, settings = some_weight(), config()
    seen = found(microscope(weight, 1, group, settings), *variant)
    columns = slice(group * 64, min(200, group * 64 + 64))
    whole = solve(weight, own(settings, variant)).weight
    assert list(seen.codes) == whole.codes[1, columns].tolist()
    restored = whole.dequantize()[1, columns].tolist()
    assert [seen.levels[code] for code in seen.codes] == restored
    errors = [b - a for a, b in zip(weight[1, columns].tolist(), restored, strict=True)]
    assert seen.rms == pytest.approx(math.sqrt(sum(e * e for e in errors) / len(errors)), rel=1e-5)
    assert seen.mean_abs == pytest.approx(sum(map(abs, errors)) / len(errors), rel=1e-5)
    assert seen.max_abs == pytest.approx(max(map(abs, errors)), rel=1e-5)
    assert seen.zero_level == min(seen.levels, key=abs)


@pytest.mark.parametrize("group_size", [32, 64, 128, 256])
def test_bits_count_the_codes_the_scale_and_the_zero_point(group_size):
    seen = microscope(some_weight(1, 2 * group_size), 0, 1, config(group_size))
    zero_bits = {"float": 16, "int": 8, "symmetric": 0}
    for variant in seen.solved:
        assert variant.bits_per_weight == 4 + (16 + zero_bits[variant.domain]) / group_size
    wide = microscope(some_weight(1, group_size), 0, 0, config(group_size, scale_dtype=torch.float32))
    assert found(wide, "float", False, "rtn").bits_per_weight == 4 + 64 / group_size


def test_errors_are_against_round_to_nearest_of_the_same_domain():
    seen = microscope(some_weight(seed=4), 0, 0, config())
    for variant in seen.solved:
        base = found(seen, variant.domain, variant.preserve_zero, "rtn")
        for name in ("rms", "mean_abs", "max_abs"):
            assert getattr(variant, f"{name}_ratio") == getattr(variant, name) / getattr(base, name)
        if variant.solver == "hqq":
            assert variant.mean_abs_ratio <= 1


def test_ratios_need_no_round_to_nearest_among_the_variants():
    asked = (Variant("int", True, "hqq"),)
    (alone,) = microscope(some_weight(), 0, 0, config(), variants=asked).variants
    assert alone == found(microscope(some_weight(), 0, 0, config()), "int", True, "hqq")


def test_where_round_to_nearest_is_exact_an_equal_is_1():
    seen = microscope(torch.zeros(1, 64), 0, 0, config())
    assert {variant.rms for variant in seen.solved} == {0.0}
    assert {variant.rms_ratio for variant in seen.solved} == {1.0}


def test_a_worse_one_than_an_exact_one_is_infinitely_worse():
    assert room._ratio(0.1, 0.0) == math.inf


def test_where_zero_lands():
    seen = microscope(some_weight().abs() + 0.2, 0, 0, config())
    assert found(seen, "float", False, "rtn").zero_level > 0.1, "a range that does not hold 0"
    assert found(seen, "float", True, "rtn").zero_level == pytest.approx(0, abs=1e-3), "widened to hold it"
    for domain in ("int", "symmetric"):
        assert found(seen, domain, True, "rtn").zero_level == 0.0


@pytest.mark.parametrize("extra", [1, 31])
def test_a_short_last_group(extra):
    weight = some_weight(2, 64 + extra)
    seen = microscope(weight, 1, 1, config())
    assert (seen.first_column, len(seen.weights), seen.group_size) == (64, extra, 64)
    assert all(len(variant.codes) == extra and len(variant.levels) == 16 for variant in seen.solved)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_weights_of_other_types_are_looked_at_in_float32(dtype):
    weight = some_weight().to(dtype)
    assert microscope(weight, 0, 0, config()) == microscope(weight.float(), 0, 0, config())


@pytest.mark.parametrize("weight", [torch.zeros(1, 64), torch.full((1, 64), 1e30), torch.full((1, 64), 1e-42)])
def test_extreme_groups_have_finite_levels(weight):
    weight = weight.clone()
    weight[0, 5] *= -1
    for variant in microscope(weight, 0, 0, config()).solved:
        assert all(math.isfinite(level) for level in variant.levels)
        assert math.isfinite(variant.rms) and math.isfinite(variant.max_abs)


# --- what there is not --------------------------------------------------------------------------------------------


def test_every_variant_is_listed_with_levels_or_with_a_reason():
    seen = microscope(some_weight(), 0, 0, config())
    assert len(seen.variants) == len(VARIANTS) == 24
    for variant in seen.variants:
        assert bool(variant.levels) != bool(variant.reason)
    assert absent(seen) == [
        ("calibrated", "needs a text run through the model, for the layer's inputs"),
        ("hqq · float · preserve_zero", "HQQ moves the zero point freely"),
        ("int · without preserve_zero", "the same as with it: an int zero point is one of the codes"),
        ("symmetric · without preserve_zero", "code 8 is always exactly 0"),
        ("hqq · symmetric", "there is no zero point to move"),
    ]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: f"{v.domain}-{v.preserve_zero}-{v.solver}")
def test_what_there_is_not_is_what_a_configuration_refuses(variant):
    """But for int without preserve_zero, which is accepted and changes nothing."""
    named = {"float": ZeroPointDomain.FLOAT, "int": ZeroPointDomain.INT, "symmetric": ZeroPointDomain.NONE}
    reason = why_not(variant, with_statistics=True)

    def resolved():
        made = Int4WeightOnlyConfig(zero_point_domain=named[variant.domain], preserve_zero=variant.preserve_zero)
        return made.resolved("cpu", solver=variant.solver, domain=variant.domain)

    if reason and variant.domain != "int":
        with pytest.raises(ConfigError):
            resolved()
    else:
        same = replace(resolved(), preserve_zero=True)
        assert not reason or torch.equal(
            solve(some_weight(), resolved()).weight.codes, solve(some_weight(), same).weight.codes
        )


# --- settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ({}, ("float", False, "rtn")),
        ({"solver": "hqq"}, ("float", False, "hqq")),
        ({"domain": "int"}, ("int", True, "rtn")),
        ({"domain": "symmetric"}, ("symmetric", True, "rtn")),
    ],
)
def test_the_layers_own_settings_are_pointed_at(settings, place):
    seen = microscope(some_weight(), 0, 0, config(**settings))
    at = seen.variants[seen.current]
    assert (at.domain, at.preserve_zero, at.solver) == place


def test_int_without_preserve_zero_is_pointed_at_where_it_is_the_same():
    settings = replace(config(domain="int"), preserve_zero=False)
    seen = microscope(some_weight(), 0, 0, settings)
    assert seen.variants[seen.current].preserve_zero
    assert microscope(some_weight(), 0, 0, settings, variants=VARIANTS[:1]).current is None


def test_the_solvers_own_options_hold_and_others_take_their_defaults():
    few = config(solver="hqq", options=HqqOptions(iters=0))
    seen = microscope(some_weight(seed=4), 0, 0, few)
    assert found(seen, "float", False, "hqq").levels == found(seen, "float", False, "rtn").levels
    usual = microscope(some_weight(seed=4), 0, 0, config())
    assert found(usual, "float", False, "hqq").levels != found(usual, "float", False, "rtn").levels


def test_one_row_alone_is_the_same_as_within_its_weight():
    weight = some_weight(5)
    assert microscope(weight[3:4], 3, 2, config(), first_row=3) == microscope(weight, 3, 2, config())


def test_with_statistics_the_calibrated_solver_gets_the_whole_row(monkeypatch):
    asked = []

    def fake(weight, settings, *, statistics=None, **others):
        asked.append((settings.solver, tuple(weight.shape), statistics))
        return replace(solve(weight, replace(settings, solver="rtn", options=None)), notes=("a note",))

    monkeypatch.setattr(room, "solve", fake)
    moments = object()
    weight = some_weight()
    seen = microscope(weight, 2, 3, config(), statistics=moments)
    calibrated = [variant for variant in seen.solved if variant.solver == "calibrated"]
    assert [(variant.domain, variant.preserve_zero) for variant in calibrated] == [
        ("float", False),
        ("float", True),
        ("int", True),
        ("symmetric", True),
    ]
    assert {shape for solver, shape, _ in asked if solver == "calibrated"} == {(1, 200)}
    assert {shape for solver, shape, _ in asked if solver != "calibrated"} == {(1, 8)}
    assert all((given is moments) == (solver == "calibrated") for solver, _, given in asked)
    assert {variant.notes for variant in calibrated} == {("a note",)}
    assert calibrated[0].levels == found(seen, "float", False, "rtn").levels


def moments(k=200, tokens=400, seed=6):
    generator = torch.Generator().manual_seed(seed)
    found = InputMoments.empty(k)
    found.add(torch.randn(tokens, k, generator=generator) @ torch.randn(k, k, generator=generator))
    return found


@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if variant.solver == "calibrated"])
def test_a_calibrated_group_is_the_one_of_the_whole_layer(variant):
    if why_not(variant, with_statistics=True):
        return
    weight, statistics = some_weight(), moments()
    seen = found(microscope(weight, 1, 2, config(), statistics=statistics), *variant)
    whole = solve(weight, own(config(), variant), statistics=statistics).weight
    assert list(seen.codes) == whole.codes[1, 128:192].tolist()
    assert seen.levels == tuple(levels_of(whole)[1, 2].tolist())
    assert any("output" in note for note in seen.notes), "why its error here can be larger"


def test_what_calibrated_fell_back_to_is_said():
    seen = microscope(some_weight(), 1, 2, config(), statistics=moments(tokens=3))
    fallen = found(seen, "float", False, "calibrated")
    assert fallen.levels == found(seen, "float", False, "refined").levels
    assert "refined" in fallen.notes[0] and not any("output, not" in note for note in fallen.notes)


# --- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "group", "message"),
    [
        (5, 0, r"no row 5. Allowed: 2 to 4"),
        (1, 0, r"no row 1. Allowed: 2 to 4"),
        (2, 4, r"no group 4. Allowed: 0 to 3"),
        (2, -1, r"no group -1. Allowed: 0 to 3"),
    ],
)
def test_a_place_that_there_is_not_is_refused(row, group, message):
    with pytest.raises(ConfigError, match=message):
        microscope(some_weight(), row, group, config(), first_row=2)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_weight_that_is_no_number_is_named_and_other_groups_can_be_looked_at(bad):
    weight = some_weight()
    weight[1, 70] = bad
    with pytest.raises(WeightError, match=r"layer\[1, 70\] is (nan|-?inf)"):
        microscope(weight, 1, 1, config(), name="layer")
    assert microscope(weight, 1, 0, config()).solved


@pytest.mark.parametrize("weight", [torch.zeros(64), torch.zeros(1, 64, dtype=torch.int32), torch.zeros(1, 1, 64)])
def test_what_is_no_weight_is_refused(weight):
    with pytest.raises(WeightError, match="floating-point weight"):
        microscope(weight, 0, 0, config())


def test_it_stops_between_variants():
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        microscope(some_weight(), 0, 0, config(), cancel=cancel)


def test_the_same_each_time_and_no_gradient_is_kept():
    weight = some_weight().requires_grad_()
    first = microscope(weight, 0, 0, config())
    assert first == microscope(weight, 0, 0, config())
    assert all(isinstance(variant, MicroscopeVariant) for variant in first.variants)
