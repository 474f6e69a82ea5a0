"""Configuration: torchao's fields and defaults, what each "auto" became, refusals, and old traps that are gone."""

import dataclasses

import pytest
import torch
from torch import nn

from workbench import HqqOptions, Int4Linear, Int4WeightOnlyConfig, TensorCoreTiledLayout, ZeroPointDomain
from workbench.config import GROUP_SIZES
from workbench.errors import ConfigError
from workbench.inductor import inductor_settings

FLOAT, INT, NONE = ZeroPointDomain.FLOAT, ZeroPointDomain.INT, ZeroPointDomain.NONE

# torchao 0.12, Int4WeightOnlyConfig, in its order ('make peers' reads them from torchao itself)
FIELDS = {
    "group_size": 128,
    "layout": TensorCoreTiledLayout(inner_k_tiles=8),
    "use_hqq": False,
    "zero_point_domain": NONE,
    "set_inductor_config": True,
    "preserve_zero": None,
}


def test_fields_defaults_and_order_are_those_of_torchao_0_12():
    config = Int4WeightOnlyConfig()
    assert {field.name: getattr(config, field.name) for field in dataclasses.fields(config)} == FIELDS
    assert [field.name for field in dataclasses.fields(config)] == list(FIELDS)
    assert Int4WeightOnlyConfig(*FIELDS.values()) == config


def test_a_configuration_is_a_value():
    assert Int4WeightOnlyConfig(64) == Int4WeightOnlyConfig(group_size=64)
    assert hash(Int4WeightOnlyConfig(64)) == hash(Int4WeightOnlyConfig(64))
    with pytest.raises(dataclasses.FrozenInstanceError):
        Int4WeightOnlyConfig().group_size = 64
    with pytest.raises(ConfigError, match="group_size=48"):
        dataclasses.replace(Int4WeightOnlyConfig(), group_size=48)


# --- resolved --------------------------------------------------------------------------------------------------------


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


def configure(**settings):
    return Int4WeightOnlyConfig(**settings)


def resolve(config=None, **arguments):
    return (config or Int4WeightOnlyConfig()).resolved(**arguments)


NO_GROUP = r"not supported by the int4 kernels\. Allowed: 256, 128, 64 or 32\. To mend it: use group_size=64"
REFUSED = [
    *((configure, {"group_size": size}, f"group_size={size!r} is {NO_GROUP}") for size in (16, 48, 512, 0, -1)),
    *((configure, {"group_size": size}, NO_GROUP) for size in (None, "64", 64.0, True)),
    (configure, {"layout": 8}, r"layout=8 is of type int.*pass layout=TensorCoreTiledLayout"),
    (configure, {"layout": None}, "layout=None is of type NoneType"),
    (configure, {"zero_point_domain": None}, "zero_point_domain=None.*use ZeroPointDomain.NONE for an automatic"),
    (configure, {"zero_point_domain": "INT"}, "zero_point_domain='INT' is of type str.*a ZeroPointDomain"),
    (configure, {"use_hqq": 1}, "use_hqq=1 is of type int.*True or False"),
    (configure, {"set_inductor_config": None}, "set_inductor_config=None is of type NoneType"),
    (configure, {"preserve_zero": "yes"}, "preserve_zero='yes' is of type str.*True, False or None"),
    (configure, {"use_hqq": True, "preserve_zero": True}, "HQQ moves the zero point.*ZeroPointDomain.INT"),
    (configure, {"use_hqq": True, "preserve_zero": True, "zero_point_domain": FLOAT}, "HQQ moves the zero point"),
    *((TensorCoreTiledLayout, {"inner_k_tiles": n}, f"inner_k_tiles={n!r}.*2, 4 or 8") for n in (1, 16, 8.0, None)),
    (HqqOptions, {"lp_norm": 0}, "lp_norm=0.*0 < lp_norm <= 1.*leave lp_norm at 0.7"),
    (HqqOptions, {"lp_norm": 1.5}, "lp_norm=1.5"),
    (HqqOptions, {"lp_norm": float("nan")}, "lp_norm=nan"),
    (HqqOptions, {"beta": 0}, "beta=0.*leave beta at 10.0"),
    (HqqOptions, {"beta": float("inf")}, "beta=inf"),
    (HqqOptions, {"kappa": 0.9}, "kappa=0.9.*leave kappa at 1.01"),
    (HqqOptions, {"iters": -1}, "iters=-1.*0 to 10000.*leave iters at 20"),
    (HqqOptions, {"iters": 2.0}, "iters=2.0"),
    (HqqOptions, {"iters": True}, "iters=True"),
    (resolve, {"domain": "none"}, "domain='none' is unknown.*'float', 'int', 'symmetric'"),
    (resolve, {"solver": "gptq"}, "solver='gptq' is unknown.*'rtn', 'hqq'"),
    (resolve, {"solver": "refind"}, "To mend it: use solver='refined'"),
    (resolve, {"domain": "symetric"}, "To mend it: use domain='symmetric'"),
    (resolve, {"scale_dtype": torch.float16}, "scale_dtype=torch.float16.*bfloat16 or torch.float32"),
    (
        resolve,
        {"config": Int4WeightOnlyConfig(zero_point_domain=INT), "domain": "float"},
        "domain='float' contradicts zero_point_domain=INT.*NONE in the configuration",
    ),
    (
        resolve,
        {"config": Int4WeightOnlyConfig(zero_point_domain=FLOAT), "domain": "symmetric"},
        "domain='symmetric' contradicts zero_point_domain=FLOAT",
    ),
    (
        resolve,
        {"config": Int4WeightOnlyConfig(use_hqq=True), "solver": "rtn"},
        "solver='rtn' contradicts use_hqq=True.*set use_hqq=False",
    ),
    (
        resolve,
        {"config": Int4WeightOnlyConfig(use_hqq=True), "domain": "symmetric"},
        "HQQ moves the zero point, and the symmetric domain has none.*use_hqq=False",
    ),
    (resolve, {"solver": "hqq", "domain": "symmetric"}, "the symmetric domain has none"),
    (
        resolve,
        {"config": Int4WeightOnlyConfig(preserve_zero=True), "solver": "hqq"},
        "preserve_zero=True with HQQ and a float zero point.*int domain",
    ),
    (
        resolve,
        {"config": Int4WeightOnlyConfig(preserve_zero=False), "domain": "symmetric"},
        "preserve_zero=False with the symmetric domain.*leave preserve_zero at None",
    ),
]


@pytest.mark.parametrize(("make", "arguments", "message"), REFUSED)
def test_what_cannot_work_is_refused_with_the_mend(make, arguments, message):
    with pytest.raises(ConfigError, match=message):
        make(**arguments)


# --- traps of the reference that must not come back ------------------------------------------------------------------


def quantized(weight, bias=False, **settings):
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias, dtype=weight.dtype)
    with torch.no_grad():
        linear.weight.copy_(weight)
    return Int4Linear.from_linear(linear, Int4WeightOnlyConfig(**settings))


def largest_error_in_steps(weight, layer):
    """The largest error of a weight, in steps of its group's scale."""
    scale = layer.quantized_weight().scale.float().repeat_interleave(layer.group_size, 1)[:, : weight.shape[1]]
    return float(((layer.quantized_weight().dequantize() - weight.float()).abs() / scale).max())


def test_a_float_zero_point_that_preserves_zero_is_no_garbage():
    weight = torch.rand(16, 128) + 1
    layer = quantized(weight, zero_point_domain=FLOAT, preserve_zero=True)
    assert largest_error_in_steps(weight, layer) <= 1
    assert (layer.quantized_weight().minimum().abs() <= layer.quantized_weight().scale.float()).all()


def test_an_integer_zero_point_works_on_the_tensor_core_layout():
    weight = torch.randn(16, 128)
    layer = quantized(weight, zero_point_domain=INT, layout=TensorCoreTiledLayout(4))
    assert largest_error_in_steps(weight, layer) <= 1
    assert layer.quantized_weight().zero.dtype == torch.uint8


def test_a_group_size_that_does_not_divide_the_row_is_quantized_all_the_same():
    weight = torch.randn(16, 100)
    layer = quantized(weight, group_size=64)
    assert layer.quantized_weight().scale.shape == (16, 2)
    assert largest_error_in_steps(weight, layer) <= 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.bfloat16])
def test_weights_of_any_float_dtype_run(dtype):
    weight = torch.randn(16, 128).to(dtype)
    layer = quantized(weight, bias=True)
    x = torch.randn(2, 128).to(dtype)
    assert layer(x).dtype == layer.weight.dtype == dtype
    assert layer(x).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("domain", [FLOAT, INT])
def test_constant_groups_have_no_nan_under_hqq(domain, dtype):
    for value in (0.0, 0.5, -3.0):
        weight = torch.full((16, 128), value, dtype=dtype)
        layer = quantized(weight, use_hqq=True, zero_point_domain=domain)
        assert torch.equal(layer.quantized_weight().dequantize(), weight.float())


def test_every_group_size_that_is_accepted_runs():
    for group_size in GROUP_SIZES:
        layer = quantized(torch.randn(16, 2 * group_size), group_size=group_size)
        assert layer(torch.randn(1, 2 * group_size)).isfinite().all()


def test_quantizing_changes_no_setting_of_the_process():
    import torch._inductor.config as inductor

    def settings():
        return inductor.get_config_copy(), torch.get_float32_matmul_precision()

    before = settings()
    config = Int4WeightOnlyConfig(set_inductor_config=True)
    assert quantized(torch.randn(16, 128), set_inductor_config=True)(torch.randn(1, 128)).isfinite().all()
    assert settings() == before
    with inductor_settings(config.set_inductor_config):
        assert settings() != before
    assert settings() == before
