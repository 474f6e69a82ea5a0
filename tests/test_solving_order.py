"""The order of solving: chains and what is outside of them, and in each the layers that one pass serves."""

from __future__ import annotations

from torch import nn

from workbench.block_chains import Block
from workbench.input_tap import InputTap
from workbench.solving_order import segments_of, stages_of


def blocks(*names):
    return [Block(nn.Identity(), list(one)) for one in names]


def tap_of(calls, leaders, never=()):
    tap = InputTap({name: nn.Linear(1, 1) for name in (*calls, *never)})
    tap.calls = list(calls)
    tap.leader.update(leaders)
    return tap


def test_a_chain_is_one_segment_at_the_place_of_its_first_call():
    chain = blocks(["a.0.x"], ["a.1.x", "a.1.y"])
    found = segments_of(["in", "a.0.x", "between", "a.1.x", "out"], ["in", "between", "out"], [chain])
    assert [segment.names for segment in found] == [["in"], [], ["between", "out"]]
    assert [segment.chain for segment in found] == [None, chain, None]


def test_layers_that_are_never_called_come_last():
    chain = blocks(["a.0.x"], ["a.1.x"])
    found = segments_of(["in"], ["in", "a.0.x", "a.1.x", "never"], [chain])
    assert [segment.names for segment in found] == [["in"], ["a.0.x", "a.1.x", "never"]]
    assert segments_of([], [], []) == []


def test_layers_with_one_input_are_one_stage():
    tap = tap_of(["q", "k", "o"], {"k": "q"})
    assert stages_of(["o", "k", "q"], tap, False) == [["q", "k"], ["o"]]


def test_experts_are_one_stage_inside_of_a_block_and_one_each_outside():
    names = ["b.experts.0.up", "b.experts.0.down", "b.experts.1.up", "b.experts.1.down"]
    tap = tap_of(names, {})
    assert stages_of(names, tap, True) == [names[::2], names[1::2]]
    assert stages_of(names, tap, False) == [[name] for name in names]


def test_an_expert_that_is_never_reached_joins_its_like():
    tap = tap_of(["b.experts.0.up"], {}, never=["b.experts.7.up"])
    assert stages_of(["b.experts.7.up", "b.experts.0.up"], tap, True) == [["b.experts.0.up", "b.experts.7.up"]]
