"""A weight as named tensors: names by domain, round trips of bits, and damaged tensors that are named."""

import pytest
import torch

from tests.oracles import random_weight
from workbench.errors import CheckpointError, WeightError
from workbench.portable import portable_names, portable_tensors, quantized_from_portable

DOMAINS = ["float", "int", "symmetric"]
NAMES = {
    "float": ("weight", "weight_scale", "weight_zero"),
    "int": ("weight", "weight_scale", "weight_zp"),
    "symmetric": ("weight", "weight_scale"),
}


def load(tensors, k, group_size, domain):
    return quantized_from_portable(tensors, in_features=k, group_size=group_size, domain=domain)


@pytest.mark.parametrize("domain", DOMAINS)
def test_names_by_domain(domain):
    assert portable_names(domain) == NAMES[domain]
    tensors = portable_tensors(random_weight(4, 65, 32, domain), "model.layers.0.mlp.")
    assert set(tensors) == {f"model.layers.0.mlp.{name}" for name in NAMES[domain]}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (4, 65), (3, 256), (17, 99)])
@pytest.mark.parametrize("group_size", [32, 64, 128, 256])
@pytest.mark.parametrize("domain", DOMAINS)
def test_round_trip_keeps_every_bit(domain, group_size, shape, dtype):
    weight = random_weight(*shape, group_size, domain, dtype)
    tensors = portable_tensors(weight)
    assert (tensors["weight"].dtype, tensors["weight"].shape) == (torch.uint8, (shape[0], (shape[1] + 1) // 2))
    assert tensors["weight_scale"].dtype == dtype
    back = load(tensors, shape[1], group_size, domain)
    assert torch.equal(back.codes, weight.codes)
    assert torch.equal(back.scale, weight.scale)
    assert (back.zero is None) if weight.zero is None else torch.equal(back.zero, weight.zero)
    assert (back.group_size, back.domain) == (group_size, domain)


DAMAGED = [
    (
        "float",
        "weight_scale",
        lambda t: t.index_fill(0, torch.tensor([1]), float("nan")),
        CheckpointError,
        "weight_scale holds NaN",
    ),
    ("float", "weight_zero", lambda t: t / 0, CheckpointError, "weight_zero holds NaN or infinity.*damaged"),
    ("int", "weight_zp", lambda t: t | 16, CheckpointError, r"weight_zp holds \d+.*0 to 15"),
    ("int", "weight_zp", lambda t: t.float(), WeightError, "zero is torch.float32"),
    ("float", "weight_zero", lambda t: t[:, 1:], WeightError, r"zero is torch.bfloat16 \[4, 2\].*\[4, 3\]"),
    ("float", "weight", lambda t: t[:, 1:], WeightError, r"packed codes is torch.uint8 \[4, 32\].*\[N, 33\]"),
    ("symmetric", "weight_scale", lambda t: t.half(), WeightError, "scale is torch.float16"),
]


@pytest.mark.parametrize(("domain", "name", "damage", "error", "message"), DAMAGED)
def test_damage_is_named(domain, name, damage, error, message):
    tensors = portable_tensors(random_weight(4, 65, 32, domain))
    load(tensors, 65, 32, domain)
    tensors[name] = damage(tensors[name])
    with pytest.raises(error, match=message):
        load(tensors, 65, 32, domain)


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_missing_tensor_is_named(domain):
    tensors = portable_tensors(random_weight(4, 65, 32, domain))
    for name in NAMES[domain]:
        with pytest.raises(CheckpointError, match=f"'{name}' is missing.*weight, weight_scale"):
            load({key: value for key, value in tensors.items() if key != name}, 65, 32, domain)
