"""What a configuration leaves open becomes something on every device, with a note; contradictions are refused."""

import pytest
import torch

from workbench import HqqOptions, Int4WeightOnlyConfig, TensorCoreTiledLayout, ZeroPointDomain
from workbench.errors import ConfigError

FLOAT, INT = ZeroPointDomain.FLOAT, ZeroPointDomain.INT


@pytest.mark.parametrize(
    ("device", "domain"), [("cpu", "float"), ("cuda", "float"), ("cuda:1", "float"), ("xpu", "int"), ("mps", "float")]
)
def test_an_automatic_domain_is_the_one_that_the_device_s_kernel_takes_first(device, domain):
    resolved = Int4WeightOnlyConfig().resolved(device)
    assert (resolved.domain, resolved.preserve_zero) == (domain, domain == "int")
    note = next(note for note in resolved.notes if note.setting == "zero_point_domain")
    kind = device.partition(":")[0]
    assert str(note) == f"zero_point_domain: NONE (auto) → {domain} (the {kind} kernel takes it first)"


@pytest.mark.parametrize("device", ["cpu", "cuda", "xpu"])
@pytest.mark.parametrize("configured", [FLOAT, INT])
def test_a_named_domain_holds_on_every_device_and_needs_no_note(device, configured):
    resolved = Int4WeightOnlyConfig(zero_point_domain=configured).resolved(device)
    assert resolved.domain == configured.name.lower()
    assert "zero_point_domain" not in {note.setting for note in resolved.notes}


@pytest.mark.parametrize("asked", [None, True, False])
@pytest.mark.parametrize(("configured", "automatic"), [(FLOAT, False), (INT, True)])
def test_preserve_zero(configured, automatic, asked):
    resolved = Int4WeightOnlyConfig(zero_point_domain=configured, preserve_zero=asked).resolved()
    assert resolved.preserve_zero is (automatic if asked is None else asked)
    notes = [note.became for note in resolved.notes if note.setting == "preserve_zero"]
    assert notes == ([str(automatic)] if asked is None else [])


@pytest.mark.parametrize("asked", [None, True])
def test_symmetric_is_asked_for_beside_the_configuration_and_always_keeps_zero(asked):
    resolved = Int4WeightOnlyConfig(preserve_zero=asked).resolved("xpu", domain="symmetric")
    assert (resolved.domain, resolved.preserve_zero) == ("symmetric", True)
    assert {note.setting: note.became for note in resolved.notes} == {
        "zero_point_domain": "symmetric",
        "solver": "rtn",
        "preserve_zero": "True",
    }


@pytest.mark.parametrize(
    ("use_hqq", "solver", "final"),
    [(False, None, "rtn"), (True, None, "hqq"), (False, "hqq", "hqq"), (True, "hqq", "hqq")],
)
def test_the_solver_follows_use_hqq_unless_it_is_named(use_hqq, solver, final):
    resolved = Int4WeightOnlyConfig(use_hqq=use_hqq).resolved(solver=solver)
    assert resolved.solver == final
    assert ("solver" in {note.setting for note in resolved.notes}) == (solver is None)


def test_nothing_is_left_open():
    config = Int4WeightOnlyConfig(32, TensorCoreTiledLayout(2), use_hqq=True, zero_point_domain=INT)
    options = HqqOptions(iters=3)
    resolved = config.resolved("cuda", scale_dtype=torch.float32, options=options)
    assert (resolved.group_size, resolved.inner_k_tiles) == (32, 2)
    assert (resolved.scale_dtype, resolved.options) == (torch.float32, options)
    assert resolved.to_json() == {
        "group_size": 32,
        "zero_point_domain": "int",
        "preserve_zero": True,
        "solver": "hqq",
        "solver_form": "hqq/2",
        "solver_options": {"iters": 3},
        "inner_k_tiles": 2,
        "scale_dtype": "float32",
    }


# --- refusals --------------------------------------------------------------------------------------------------------


REFUSED = [
    ({"domain": "none"}, "domain='none' is unknown.*'float', 'int', 'symmetric'"),
    ({"solver": "gptq"}, "solver='gptq' is unknown.*'rtn', 'hqq'"),
    ({"solver": "refind"}, "To mend it: use solver='refined'"),
    ({"domain": "symetric"}, "To mend it: use domain='symmetric'"),
    ({"scale_dtype": torch.float16}, "scale_dtype=torch.float16.*bfloat16 or torch.float32"),
    (
        {"config": Int4WeightOnlyConfig(zero_point_domain=INT), "domain": "float"},
        "domain='float' contradicts zero_point_domain=INT.*NONE in the configuration",
    ),
    (
        {"config": Int4WeightOnlyConfig(zero_point_domain=FLOAT), "domain": "symmetric"},
        "domain='symmetric' contradicts zero_point_domain=FLOAT",
    ),
    (
        {"config": Int4WeightOnlyConfig(use_hqq=True), "solver": "rtn"},
        "solver='rtn' contradicts use_hqq=True.*set use_hqq=False",
    ),
    (
        {"config": Int4WeightOnlyConfig(use_hqq=True), "domain": "symmetric"},
        "HQQ moves the zero point, and the symmetric domain has none.*use_hqq=False",
    ),
    ({"solver": "hqq", "domain": "symmetric"}, "the symmetric domain has none"),
    (
        {"config": Int4WeightOnlyConfig(preserve_zero=True), "solver": "hqq"},
        "preserve_zero=True with HQQ and a float zero point.*int domain",
    ),
    (
        {"config": Int4WeightOnlyConfig(preserve_zero=False), "domain": "symmetric"},
        "preserve_zero=False with the symmetric domain.*leave preserve_zero at None",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_what_contradicts_itself_is_refused_with_the_mend(arguments, message):
    config = arguments.get("config", Int4WeightOnlyConfig())
    with pytest.raises(ConfigError, match=message):
        config.resolved(**{name: value for name, value in arguments.items() if name != "config"})
