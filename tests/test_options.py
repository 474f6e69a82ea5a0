"""Settings of solvers: values out of range are refused by name, and JSON keeps what differs from the defaults."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from workbench.errors import ConfigError
from workbench.options import (
    FORMS,
    OPTIONS_OF,
    SOLVERS,
    CalibratedOptions,
    HqqOptions,
    RefinedOptions,
    options_from_json,
    options_to_json,
    resolve_options,
)

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("kind", "name", "bad"),
    [
        (HqqOptions, "lp_norm", (0, -1, 1.5, NAN)),
        (HqqOptions, "beta", (0, -1.0, INF, NAN)),
        (HqqOptions, "kappa", (0.99, INF, NAN)),
        (HqqOptions, "iters", (-1, 2.0, True, 10_001)),
        (HqqOptions, "tolerance", (-0.1, 1.0, NAN)),
        (RefinedOptions, "norm", (0, -2, 8.5, INF, NAN)),
        (RefinedOptions, "ranges", (0, 257, 1.0, True)),
        (RefinedOptions, "starts", (0, 17, 1.0, False)),
        (RefinedOptions, "iters", (-1, 1001, 2.0)),
        (CalibratedOptions, "damping", (0, -0.01, INF, NAN)),
        (CalibratedOptions, "activation_order", (1, "yes", None)),
        (CalibratedOptions, "candidates", (0, 65, 1.0)),
        (CalibratedOptions, "sweeps", (-1, 101, 1.0)),
        (CalibratedOptions, "min_tokens", (0, -1, 2.0, 2**31)),
    ],
)
def test_values_out_of_range_are_refused_with_value_allowed_and_mend(kind, name, bad):
    for value in bad:
        with pytest.raises(ConfigError) as raised:
            kind(**{name: value})
        said = str(raised.value)
        assert f"{name}={value!r}" in said and "Allowed: " in said
        assert f"leave {name} at {getattr(kind(), name)}" in said


@pytest.mark.parametrize(
    ("options", "name"),
    [(HqqOptions, "lp_norm"), (RefinedOptions, "norm"), (CalibratedOptions, "damping")],
)
@pytest.mark.parametrize("value", ["2", None, [2]])
def test_values_of_another_type_are_refused(options, name, value):
    with pytest.raises(ConfigError):
        options(**{name: value})


CHANGED = [
    ("hqq", HqqOptions(lp_norm=0.5, beta=1.0, kappa=1.1, iters=3, tolerance=0.01)),
    ("refined", RefinedOptions(norm=1.0, ranges=4, starts=3, iters=9)),
    ("calibrated", CalibratedOptions(0.1, False, 4, 1, 7)),
]


@pytest.mark.parametrize(("solver", "options"), CHANGED)
def test_json_both_ways(solver, options):
    written = json.loads(json.dumps(options_to_json(options)))
    assert set(written) == set(asdict(options))
    assert options_from_json(solver, written) == options
    for name, value in written.items():
        alone = options_from_json(solver, {name: value})
        assert options_to_json(alone) == {name: value}


@pytest.mark.parametrize(("solver", "options"), CHANGED)
def test_defaults_take_no_room(solver, options):
    assert options_to_json(type(options)()) == {}
    assert options_from_json(solver, {}) == type(options)()


@pytest.mark.parametrize(
    ("solver", "data", "said"),
    [
        ("rtn", {}, "with solver='rtn'"),
        ("refined", [], r"solver_options=\[\]"),
        ("refined", "norm", "solver_options='norm'"),
        ("refined", {"nrom": 1}, r"Unknown solver options \['nrom'\] for 'refined'.*norm, ranges, starts, iters"),
        ("hqq", {"norm": 1}, r"Unknown solver options \['norm'\] for 'hqq'"),
        ("calibrated", {"damping": -1}, "damping=-1"),
        ("calibrated", {"damping": "small"}, "damping='small'|wrong type"),
        ("calibrated", {"sweeps": [1, 2]}, "sweeps"),
    ],
)
def test_bad_json_is_refused(solver, data, said):
    with pytest.raises(ConfigError, match=said):
        options_from_json(solver, data)


def test_every_solver_has_a_form_and_takes_its_own_options_only():
    assert set(FORMS) == set(OPTIONS_OF) == set(SOLVERS)
    assert all(form.split("/")[0] == solver for solver, form in FORMS.items())
    for solver in SOLVERS:
        kind = OPTIONS_OF[solver]
        assert resolve_options(solver, None) == (None if kind is None else kind())
        for _, options in CHANGED:
            if kind is not None and isinstance(options, kind):
                assert resolve_options(solver, options) is options
            else:
                with pytest.raises(ConfigError, match=rf"{type(options).__name__} with solver='{solver}'"):
                    resolve_options(solver, options)
