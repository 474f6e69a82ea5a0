"""Affine primitives: bit for bit as torchao 0.11 answered, as the formulas say, and what they refuse."""

import inspect
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import workbench as wb
from workbench import MappingType, ZeroPointDomain, choose_qparams_affine, dequantize_affine, quantize_affine
from workbench.errors import ConfigError, WeightError

FLOAT, INT, NONE = ZeroPointDomain.FLOAT, ZeroPointDomain.INT, ZeroPointDomain.NONE
ASYMMETRIC, SYMMETRIC = MappingType.ASYMMETRIC, MappingType.SYMMETRIC
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
ROW = torch.linspace(-1, 1, 64)[None]
BLOCK = (1, 32)


# --- torchao's own answers -------------------------------------------------------------------------------------------

with safe_open(Path(__file__).parent / "data" / "affine_torchao_0_11.safetensors", "pt") as file:
    CASES = json.loads(file.metadata()["cases"])
    GOLDEN = {key: file.get_tensor(key) for key in file.keys()}


def bits(tensor):
    return tensor.contiguous().view(torch.uint8)


def same_bits(ours, golden):
    return ours.dtype == golden.dtype and ours.shape == golden.shape and torch.equal(bits(ours), bits(golden))


def test_golden_cases_cover_what_is_promised():
    assert {(case["dtype"], case["zero_point_domain"], case["preserve_zero"]) for case in CASES.values()} == {
        (dtype, domain, preserve)
        for dtype in ("float32", "bfloat16", "float16")
        for domain in ("FLOAT", "INT")
        for preserve in (False, True)
    }
    assert {case["block_size"][-1] for case in CASES.values()} >= {2, 32, 64, 128, 256}
    assert {name.split(".")[0] for name in CASES} == {
        *("normal", "heavy-tailed", "positive", "negative", "constant", "zero", "tiny")
    }


@pytest.mark.parametrize("name", sorted(CASES))
def test_bit_for_bit_as_torchao_0_11_answered(name):
    case = CASES[name]
    block, codes = tuple(case["block_size"]), (case["quant_min"], case["quant_max"])
    domain, target = ZeroPointDomain[case["zero_point_domain"]], getattr(torch, case["target_dtype"])
    values = GOLDEN[f"{name}/input"]
    scale, zero = choose_qparams_affine(
        values,
        ASYMMETRIC,
        block,
        target,
        *codes,
        case["eps"],
        preserve_zero=case["preserve_zero"],
        zero_point_domain=domain,
    )
    assert same_bits(scale, GOLDEN[f"{name}/scale"])
    assert same_bits(zero, GOLDEN[f"{name}/zero_point"])
    quantized = quantize_affine(values, block, scale, zero, target, *codes, domain)
    assert quantized.dtype == target
    assert same_bits(quantized.to(torch.uint8), GOLDEN[f"{name}/codes"])
    for key in (key for key in GOLDEN if key.startswith(f"{name}/dequantized.")):
        output = getattr(torch, key.rpartition(".")[2])
        back = dequantize_affine(quantized, block, scale, zero, target, *codes, domain, output_dtype=output)
        assert same_bits(back, GOLDEN[key])


# --- the formulas, one weight at a time ------------------------------------------------------------------------------


def clamp(code):
    return int(min(15, max(0, code)))


def oracle(group, dtype, domain, preserve_zero, eps):
    """Scale, zero point, codes and values of one group; every step rounded to the dtype as it is made."""

    def r(value):
        return float(torch.tensor(value, dtype=torch.float32).to(dtype))

    low, high = min(group), max(group)
    if preserve_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    scale = max(r(r(high - low) / 15), r(eps))
    if domain is FLOAT:
        zero = r(low + r(scale * 8))
        base = r(zero - r(scale * 8))
        codes = [clamp(round(r(r(w - base) / scale))) for w in group]
        return scale, zero, codes, [r(r((code - 8) * scale) + zero) for code in codes]
    zero = clamp(0 - round(r(low / scale)))
    codes = [clamp(round(r(w * r(1 / scale))) + zero) for w in group]
    return scale, zero, codes, [r((code - zero) * scale) for code in codes]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("group_size", [2, 5, 32, 64, 128, 256])
@pytest.mark.parametrize(("domain", "preserve_zero"), [(FLOAT, False), (FLOAT, True), (INT, False), (INT, True)])
def test_against_loops_over_groups(domain, preserve_zero, group_size, dtype):
    generator = torch.Generator().manual_seed(group_size)
    values = (torch.randn(2, 3 * group_size, generator=generator) ** 3 * 0.1 + 0.05).to(dtype)
    arguments = ((1, group_size), torch.uint8, 0, 15)
    scale, zero = choose_qparams_affine(
        values, ASYMMETRIC, *arguments, 1e-3, preserve_zero=preserve_zero, zero_point_domain=domain
    )
    codes = quantize_affine(values, arguments[0], scale, zero, *arguments[1:], domain)
    back = dequantize_affine(codes, arguments[0], scale, zero, *arguments[1:], domain, output_dtype=dtype)
    for row in range(2):
        for index in range(3):
            here = slice(index * group_size, (index + 1) * group_size)
            expected = oracle(values[row, here].tolist(), dtype, domain, preserve_zero, 1e-3)
            found = scale[row, index].item(), zero[row, index].item(), codes[row, here].tolist(), back[row, here]
            assert (*found[:3], found[3].tolist()) == expected


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("codes", "middle"), [((0, 15), 8), ((-8, 7), 0)])
def test_symmetric_without_a_zero_point(dtype, codes, middle):
    values = (torch.randn(3, 64, generator=torch.Generator().manual_seed(0)) * 0.1).to(dtype)
    target = torch.int8
    scale, zero = choose_qparams_affine(values, SYMMETRIC, BLOCK, target, *codes, zero_point_domain=NONE)
    assert zero is None
    quantized = quantize_affine(values, BLOCK, scale, None, target, *codes, NONE)
    back = dequantize_affine(quantized, BLOCK, scale, None, target, *codes, NONE, output_dtype=dtype)
    for row in range(3):
        for index in range(2):
            group = values[row, 32 * index : 32 * index + 32]
            step = (group.abs().max() / 7.5).item()
            assert scale[row, index].item() == step
            inverse = 1 / scale[row, index]
            expected = [min(codes[1], max(codes[0], round((w * inverse).item()) + middle)) for w in group]
            assert quantized[row, 32 * index : 32 * index + 32].tolist() == expected
            values_back = [((code - middle) * scale[row, index]).item() for code in expected]
            assert back[row, 32 * index : 32 * index + 32].tolist() == values_back
    error = (back - values).abs().float().view(3, 2, 32)
    assert (error <= scale.float()[..., None] * 0.51).logical_or(quantized.view(3, 2, 32) == codes[1]).all()


def test_a_symmetric_mapping_with_an_integer_zero_point_has_the_middle_code():
    _, zero = choose_qparams_affine(ROW, SYMMETRIC, BLOCK, torch.uint8, 0, 15, zero_point_dtype=torch.int32)
    assert zero.tolist() == [[8, 8]]
    scale, zero = choose_qparams_affine(
        ROW, MappingType.SYMMETRIC_NO_CLIPPING_ERR, (1, 64), torch.int8, -8, 7, zero_point_domain=NONE
    )
    assert zero is None
    assert scale.item() == pytest.approx(1 / 7)


def test_minus_one_takes_a_whole_dimension_and_blocks_drop_out_of_the_shape():
    values = torch.randn(4, 6, 8)
    whole, _ = choose_qparams_affine(values, ASYMMETRIC, (1, -1, 4), torch.uint8, 0, 15)
    named, _ = choose_qparams_affine(values, ASYMMETRIC, (1, 6, 4), torch.uint8, 0, 15)
    assert torch.equal(whole, named)
    assert whole.shape == (4, 2)


def test_results_carry_no_gradient():
    values = torch.randn(2, 64, requires_grad=True)
    scale, zero = choose_qparams_affine(values, ASYMMETRIC, BLOCK, torch.uint8, 0, 15)
    assert not scale.requires_grad
    assert not quantize_affine(values, BLOCK, scale, zero, torch.uint8, 0, 15).requires_grad


def test_a_strided_input_is_read_as_it_looks():
    values = torch.randn(64, 3).t()
    for made, plain in zip(choose(values), choose(values.contiguous()), strict=True):
        assert torch.equal(made, plain)
    scale, zero = choose(values)
    codes = quantize_affine(values, BLOCK, scale, zero, torch.uint8, 0, 15, FLOAT)
    assert torch.equal(codes, quantize_affine(values.contiguous(), BLOCK, scale, zero, torch.uint8, 0, 15, FLOAT))


# --- signatures ------------------------------------------------------------------------------------------------------

REQUIRED = inspect.Parameter.empty
SIGNATURES = {
    "choose_qparams_affine": [
        *(("input", REQUIRED), ("mapping_type", REQUIRED), ("block_size", REQUIRED), ("target_dtype", REQUIRED)),
        *(("quant_min", None), ("quant_max", None), ("eps", None), ("scale_dtype", None), ("zero_point_dtype", None)),
        *(("preserve_zero", True), ("zero_point_domain", INT)),
    ],
    "quantize_affine": [
        *(("input", REQUIRED), ("block_size", REQUIRED), ("scale", REQUIRED), ("zero_point", REQUIRED)),
        *(("output_dtype", REQUIRED), ("quant_min", None), ("quant_max", None), ("zero_point_domain", INT)),
    ],
    "dequantize_affine": [
        *(("input", REQUIRED), ("block_size", REQUIRED), ("scale", REQUIRED), ("zero_point", REQUIRED)),
        *(("input_dtype", REQUIRED), ("quant_min", None), ("quant_max", None), ("zero_point_domain", INT)),
        ("output_dtype", torch.float32),
    ],
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_those_of_torchao_0_11(name):
    parameters = inspect.signature(getattr(wb, name)).parameters.values()
    assert [(parameter.name, parameter.default) for parameter in parameters] == SIGNATURES[name]
    kinds = {p.name: p.kind for p in parameters if p.kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD}
    assert kinds == ({"output_dtype": inspect.Parameter.KEYWORD_ONLY} if name == "dequantize_affine" else {})


def test_enums_have_torchao_s_members_in_its_order():
    assert [member.name for member in MappingType] == ["SYMMETRIC", "SYMMETRIC_NO_CLIPPING_ERR", "ASYMMETRIC"]
    assert [member.name for member in ZeroPointDomain] == ["INT", "FLOAT", "NONE"]


# --- refusals --------------------------------------------------------------------------------------------------------


def choose(values=ROW, mapping=ASYMMETRIC, block=BLOCK, target=torch.uint8, low=0, high=15, domain=FLOAT, **more):
    more.setdefault("preserve_zero", mapping is not ASYMMETRIC)
    return choose_qparams_affine(values, mapping, block, target, low, high, zero_point_domain=domain, **more)


def quantize(values=ROW, block=BLOCK, scale=None, zero=None, dtype=torch.uint8, low=0, high=15, domain=FLOAT):
    scale = torch.full((1, 2), 0.1) if scale is None else scale
    zero = torch.zeros(1, 2) if zero is None else zero
    return quantize_affine(values, block, scale, zero, dtype, low, high, domain)


def dequantize(codes=None, block=BLOCK, scale=None, zero=None, dtype=torch.uint8, low=0, high=15, domain=FLOAT, **more):
    codes = torch.zeros(1, 64, dtype=torch.uint8) if codes is None else codes
    scale = torch.full((1, 2), 0.1) if scale is None else scale
    zero = torch.zeros(1, 2) if zero is None else zero
    return dequantize_affine(codes, block, scale, zero, dtype, low, high, domain, **more)


def with_value(value, dtype=torch.float32):
    values = ROW.to(dtype, copy=True)
    values[0, 40] = value
    return values


NO_ZERO = torch.zeros(0)
REFUSED = [
    (choose, {"values": with_value(float("nan"))}, WeightError, r"input holds nan.*finite values.*repair"),
    (choose, {"values": with_value(float("-inf"))}, WeightError, "input holds -inf"),
    (choose, {"values": ROW.double()}, WeightError, r"input is torch.float64.*float32, torch.bfloat16.*\.float\(\)"),
    (choose, {"values": torch.ones(1, 64, dtype=torch.int32)}, WeightError, "input is torch.int32"),
    (choose, {"values": torch.zeros(0, 64)}, WeightError, r"\[0, 64\] is empty"),
    (choose, {"values": ROW * 3e38, "block": (1, 64)}, WeightError, "scale or zero point holds inf.*use float32"),
    (choose, {"values": ROW.half() * 6e4, "block": (1, 64)}, WeightError, "scale or zero point holds inf"),
    (choose, {"block": (1, 48)}, WeightError, r"64 elements, which blocks of 48 do not divide.*multiple of 48"),
    (choose, {"block": (32,)}, ConfigError, r"1 entries for a tensor \[1, 64\].*\(1, 64\)"),
    (choose, {"block": (1, 0)}, ConfigError, r"block_size\[1\]=0.*-1 for the whole"),
    (choose, {"block": (1, -2)}, ConfigError, r"block_size\[1\]=-2"),
    (choose, {"block": (1, 1)}, ConfigError, "blocks of one element"),
    (choose, {"target": torch.float32}, ConfigError, "torch.float32 cannot hold codes.*torch.uint8"),
    (choose, {"high": 300}, ConfigError, "quant_max=300.*within 0 to 255 for torch.uint8"),
    (choose, {"low": 15, "high": 0}, ConfigError, "quant_min=15 to quant_max=0"),
    (choose, {"domain": NONE}, ConfigError, "asymmetric mapping without a zero point.*SYMMETRIC"),
    (choose, {"domain": None}, ConfigError, "domain=None is of type NoneType.*ZeroPointDomain.NONE"),
    (choose, {"mapping": "ASYMMETRIC"}, ConfigError, "mapping_type='ASYMMETRIC' is of type str.*MappingType.SYMM"),
    (choose, {"mapping": SYMMETRIC}, ConfigError, "SYMMETRIC with zero_point_domain=FLOAT.*always keeps 0"),
    (choose, {"mapping": SYMMETRIC, "domain": INT, "preserve_zero": False}, ConfigError, "preserve_zero=False"),
    (
        choose,
        {"mapping": MappingType.SYMMETRIC_NO_CLIPPING_ERR, "domain": NONE},
        ConfigError,
        "codes from 0 to 15.*quant_min < 0",
    ),
    (choose, {"zero_point_dtype": torch.int32}, ConfigError, "zero_point_dtype=torch.int32 would cut"),
    (choose, {"domain": INT, "zero_point_dtype": torch.int8, "high": 255}, ConfigError, "int8 cannot hold codes"),
    (quantize, {"values": with_value(float("nan"))}, WeightError, "input holds nan"),
    (quantize, {"values": ROW.double()}, WeightError, "input is torch.float64"),
    (quantize, {"block": (1, 48)}, WeightError, "blocks of 48 do not divide"),
    (quantize, {"scale": torch.ones(1, 3)}, WeightError, r"scale \[1, 3\] has 3 values.*2 values"),
    (quantize, {"scale": torch.tensor([[1.0, float("nan")]])}, WeightError, "scale holds nan"),
    (quantize, {"zero": torch.zeros(1, 3)}, WeightError, r"zero_point \[1, 3\] has 3 values"),
    (quantize, {"scale": torch.tensor([[0.0, 1.0]])}, WeightError, "scale holds 0.*eps"),
    (quantize, {"scale": torch.tensor([[1e-40, 1.0]]), "domain": INT}, WeightError, "1 / scale holds inf"),
    (quantize, {"scale": torch.full((1, 2), 1e38)}, WeightError, "value of the lowest code holds -inf"),
    (quantize, {"domain": NONE}, ConfigError, "NONE with a zero point"),
    (quantize, {"zero": NO_ZERO}, ConfigError, "FLOAT without a zero point.*choose_qparams_affine"),
    (quantize, {"zero": NO_ZERO, "domain": INT}, ConfigError, "INT without a zero point"),
    (quantize, {"domain": None}, ConfigError, "zero_point_domain=None is of type NoneType"),
    (quantize, {"dtype": torch.float16}, ConfigError, "torch.float16 cannot hold codes"),
    (dequantize, {"codes": torch.zeros(1, 64)}, WeightError, "codes are torch.float32.*torch.uint8 for input_dtype"),
    (dequantize, {"codes": torch.full((1, 64), 16, dtype=torch.uint8)}, WeightError, "from 16 to 16.*0 to 15"),
    (dequantize, {"output_dtype": torch.float64}, WeightError, "output_dtype is torch.float64"),
    (dequantize, {"scale": torch.ones(2, 2)}, WeightError, "scale .* has 4 values"),
    (dequantize, {"block": (1, 48)}, WeightError, "blocks of 48 do not divide"),
    (dequantize, {"domain": NONE}, ConfigError, "NONE with a zero point"),
    (dequantize, {"domain": "FLOAT"}, ConfigError, "zero_point_domain='FLOAT' is of type str"),
]


@pytest.mark.parametrize(("call", "change", "error", "message"), REFUSED)
def test_what_torchao_answers_with_garbage_is_refused(call, change, error, message):
    call()
    with pytest.raises(error, match=message):
        call(**change)
