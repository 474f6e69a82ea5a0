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


# --- refusals --------------------------------------------------------------------------------------------------------


def configure(**settings):
    return Int4WeightOnlyConfig(**settings)


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


def test_a_repr_makes_the_configuration_again():
    config = Int4WeightOnlyConfig(64, zero_point_domain=ZeroPointDomain.INT)
    assert eval(repr(config)) == config
