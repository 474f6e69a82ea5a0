"""`QuantizedWeight`: what it accepts, the values it stands for (against loops), and its packed codes."""

import dataclasses
import shutil

import pytest
import torch

from tests.oracles import random_weight
from workbench.affine import QuantizedWeight, group_count, unpack_nibbles
from workbench.errors import ConfigError, WeightError

DOMAINS = ["float", "int", "symmetric"]
GROUP_SIZES = [32, 64, 128, 256]
SHAPES = [(1, 1), (3, 32), (2, 33), (5, 100), (4, 257), (1, 512)]


def exact_value(weight, code, row, column):
    """One weight in float64 by the formula of its domain; a product of a code and a scale is exact there."""
    group = column // weight.group_size
    scale = float(weight.scale[row, group])
    if weight.domain == "float":
        return (code - 8) * scale + float(weight.zero[row, group])
    return (code - (8 if weight.zero is None else int(weight.zero[row, group]))) * scale


@pytest.mark.parametrize("output", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("group_size", GROUP_SIZES)
@pytest.mark.parametrize("domain", DOMAINS)
def test_dequantize_against_loops(domain, group_size, shape, dtype, output):
    weight = random_weight(*shape, group_size, domain, dtype)
    values = weight.dequantize(output)
    assert (values.dtype, values.shape) == (output, shape)
    exact = [
        [exact_value(weight, int(weight.codes[row, column]), row, column) for column in range(shape[1])]
        for row in range(shape[0])
    ]
    once = torch.tensor(exact, dtype=torch.float64).to(torch.float32).to(output)  # float32, then rounded once
    if domain == "float" and dtype == torch.float32:  # a fused multiply-add or not: the product may be rounded
        assert torch.allclose(values.float(), once.float(), rtol=2 * torch.finfo(output).eps, atol=1e-7)
    else:
        assert torch.equal(values, once)


@pytest.mark.parametrize("group_size", GROUP_SIZES)
@pytest.mark.parametrize("domain", DOMAINS)
def test_minimum_and_the_zero_in_weight_units_are_the_values_of_codes_0_and_8(domain, group_size):
    weight = random_weight(3, 300, group_size, domain)
    for code, values in ((0, weight.minimum()), (8, weight.zero_in_weight_units())):
        assert (values.dtype, values.shape) == (torch.float32, (3, group_count(300, group_size)))
        constant = dataclasses.replace(weight, codes=torch.full_like(weight.codes, code)).dequantize()
        for group in range(values.shape[1]):
            columns = constant[:, group * group_size : (group + 1) * group_size]
            expected = [exact_value(weight, code, row, group * group_size) for row in range(3)]
            assert torch.equal(values[:, group], torch.tensor(expected, dtype=torch.float64).float())
            assert torch.equal(columns, values[:, group : group + 1].expand_as(columns))


@pytest.mark.parametrize("k", [1, 2, 31, 32, 63, 64, 65])
@pytest.mark.parametrize("domain", DOMAINS)
def test_packed_codes_round_trip(domain, k):
    weight = random_weight(3, k, 32, domain)
    packed = weight.packed_codes()
    assert (packed.dtype, packed.shape) == (torch.uint8, (3, (k + 1) // 2))
    for row in range(3):
        for column in range(k):
            byte = int(packed[row, column // 2])
            assert (byte >> 4 if column % 2 else byte & 15) == int(weight.codes[row, column])
    if k % 2:
        assert not (packed[:, -1] >> 4).any()
    back = QuantizedWeight.from_packed(packed, weight.scale, weight.zero, in_features=k, group_size=32, domain=domain)
    assert torch.equal(back.codes, weight.codes)
    assert torch.equal(unpack_nibbles(packed, k), weight.codes)


def test_sizes():
    weight = random_weight(4, 65, 32, "float")
    assert weight.shape == (4, 65)
    assert weight.size_bytes == 4 * 33 + 4 * 3 * 2 + 4 * 3 * 2
    assert weight.bits_per_weight == 8 * weight.size_bytes / (4 * 65)
    assert random_weight(4, 65, 32, "int").size_bytes == 4 * 33 + 4 * 3 * 2 + 4 * 3
    assert random_weight(4, 65, 32, "symmetric").size_bytes == 4 * 33 + 4 * 3 * 2
    assert random_weight(4, 65, 32, "symmetric", torch.float32).size_bytes == 4 * 33 + 4 * 3 * 4


def test_another_device_keeps_everything():
    for domain in DOMAINS:
        moved = random_weight(4, 65, 32, domain).to("meta")
        assert {moved.codes.device.type, moved.scale.device.type} == {"meta"}
        assert (moved.shape, moved.domain, moved.group_size) == ((4, 65), domain, 32)
        assert moved.packed_codes().shape == (4, 33)


CODES, GROUPS = torch.zeros(4, 65, dtype=torch.uint8), (4, 3)
REFUSED = [
    ({"domain": "none"}, ConfigError, "domain='none' is unknown.*float, int, symmetric"),
    ({"group_size": 48}, ConfigError, "group_size=48.*256, 128, 64 or 32"),
    ({"codes": CODES.int()}, WeightError, r"codes is torch.int32 \[4, 65\].*uint8 \[N, K\]"),
    ({"codes": CODES[0]}, WeightError, r"codes is torch.uint8 \[65\]"),
    ({"scale": torch.ones(4, 2)}, WeightError, r"scale is torch.float32 \[4, 2\].*\[4, 3\]"),
    ({"scale": torch.ones(GROUPS).half()}, WeightError, r"scale is torch.float16.*bfloat16 or float32"),
    ({"zero": None}, WeightError, "float domain needs a zero point"),
    ({"zero": torch.zeros(GROUPS).bfloat16()}, WeightError, r"zero is torch.bfloat16.*torch.float32 \[4, 3\]"),
    ({"zero": torch.zeros(3, 4)}, WeightError, r"zero is torch.float32 \[3, 4\]"),
    ({"domain": "int"}, WeightError, r"zero is torch.float32.*torch.uint8 \[4, 3\]"),
    ({"domain": "symmetric"}, WeightError, "symmetric domain has no zero point"),
]


@pytest.mark.parametrize(("change", "error", "message"), REFUSED)
def test_parts_that_do_not_fit_are_refused(change, error, message):
    parts = {
        "codes": CODES,
        "scale": torch.ones(GROUPS),
        "zero": torch.zeros(GROUPS),
        "group_size": 32,
        "domain": "float",
    }
    QuantizedWeight(**parts)
    with pytest.raises(error, match=message):
        QuantizedWeight(**{**parts, **change})


def test_values_above_four_bits_never_reach_a_neighbour_s_nibble():
    weight = random_weight(4, 65, 32, "int")
    weight.codes[2, 7] = 16
    with pytest.raises(WeightError, match=r"codes\[2, 7\] is 16.*0 to 15"):
        weight.packed_codes()
    weight.codes[2, 7] = 15
    weight.zero[1, 2] = 200
    with pytest.raises(WeightError, match=r"zero\[1, 2\] is 200"):
        weight.packed_codes()


@pytest.mark.parametrize(("packed", "in_features"), [(CODES, 65), (CODES.int(), 130), (CODES[0], 130), (CODES, 131)])
def test_packed_codes_that_do_not_fit_are_refused(packed, in_features):
    scale = torch.ones(4, group_count(in_features, 32))
    with pytest.raises(WeightError, match=r"packed codes is .*uint8 \[N, "):
        QuantizedWeight.from_packed(packed, scale, None, in_features=in_features, group_size=32, domain="symmetric")


BACKENDS = ["aot_eager", *(["inductor"] if shutil.which("c++") else [])]  # inductor compiles C++


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("output", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(16, 100), (17, 33), (16, 128)])
def test_dequantize_compiled(shape, output, backend):
    """Inductor once read scales out of bounds in a short last group: errors of 1e38."""
    torch.compiler.reset()
    weight = random_weight(*shape, 32)
    compiled = torch.compile(lambda _: weight.dequantize(output), fullgraph=True, backend=backend)
    assert torch.allclose(compiled(torch.zeros(1)), weight.dequantize(output), rtol=2**-7, atol=1e-6)


def test_its_repr_says_what_it_holds_and_none_of_the_numbers():
    scale = torch.full((3, 2), 0.5, dtype=torch.bfloat16)
    weight = QuantizedWeight(torch.zeros(3, 70, dtype=torch.uint8), scale, scale, 64, "float", "refined/1")
    form = "group_size=64, domain='float', scales torch.bfloat16"
    assert repr(weight) == f"QuantizedWeight([3, 70], {form}, {weight.bits_per_weight:.2f} bits, by refined/1, on cpu)"
