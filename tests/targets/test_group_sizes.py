"""The group sizes that integer folders are written in."""

from __future__ import annotations

import pytest
import torch

from tests.targets.exported import a_weight, hand_made
from workbench.checkpoint.native import ModuleFormat
from workbench.targets.group_sizes import common_group_size, fused_sets, group_notes, own_group_sizes, regrouped


def forms(**sizes):
    """Layers "a.<name>" of 128 columns with these group sizes."""
    return {f"a.{name}": ModuleFormat(64, 128, size, "symmetric", "bfloat16") for name, size in sizes.items()}


@pytest.mark.parametrize(("k", "group_size", "wanted"), [(256, 256, 128), (192, 128, 64), (96, 64, 32), (128, 32, 32)])
def test_the_largest_group_that_divides_everything(k, group_size, wanted):
    weight = a_weight(k=k, group_size=group_size)
    said = hand_made(weight)
    assert common_group_size(said) == wanted
    fine = regrouped(weight, wanted)
    assert fine.group_size == wanted
    assert torch.equal(fine.dequantize(), weight.dequantize())
    assert torch.equal(fine.codes, weight.codes)


def test_no_group_size_for_a_k_that_32_does_not_divide():
    weight = a_weight(k=72)
    assert common_group_size(hand_made(weight)) == 0


def test_each_layer_keeps_its_own_size_but_for_those_that_engines_fuse():
    said = hand_made(a_weight(), int4=forms(q_proj=128, k_proj=64, v_proj=128, o_proj=256, up_proj=32, down_proj=64))
    assert {name.removeprefix("a."): size for name, size in own_group_sizes(said).items()} == {
        **dict.fromkeys(("q_proj", "k_proj", "v_proj"), 64),
        "o_proj": 128,
        "up_proj": 32,
        "down_proj": 64,
    }


def test_fused_layers_are_called_as_engines_call_them():
    found = dict(fused_sets(["m.0.q_proj", "m.0.v_proj", "m.1.q_proj", "m.0.up_proj", "m.0.o_proj", "up_proj"]))
    assert found == {
        "m.0.qkv_proj": ["m.0.q_proj", "m.0.v_proj"],
        "m.1.qkv_proj": ["m.1.q_proj"],
        "m.0.gate_up_proj": ["m.0.up_proj"],
        "gate_up_proj": ["up_proj"],
    }


def test_what_repeating_costs_is_said():
    before = hand_made(a_weight(), int4=forms(q_proj=128, o_proj=32))
    after = hand_made(a_weight(), int4=forms(q_proj=32, o_proj=32))
    (note,) = group_notes(before, after)
    assert note.startswith("1 layers have larger groups; all are written in groups of 32")
    assert "384 B more" in note  # 64 rows, 4 groups where 1 was, 2 bytes a scale
    assert group_notes(after, after) == []
