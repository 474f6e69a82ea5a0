"""Chains of blocks: which lists of modules are one, and where a block's hidden state stands."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from tests.calibrated_models import hand_made, run
from tests.tiny_models import make
from workbench.block_chains import argument_at, find_chains, hidden_state, is_linked, watching, with_argument

IDS = torch.arange(12).view(1, 12)


def linears(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def chains_of(model):
    chains = find_chains(model, linears(model))
    with watching(chains) as seen:
        run(model, IDS)
    return [chain for chain in chains if is_linked(chain, seen)]


@pytest.mark.parametrize(("name", "place"), [("swapped", 1), ("by name", "state"), ("mixture", 0)])
def test_blocks_in_a_row_are_a_chain_wherever_their_hidden_state_stands(name, place):
    model = hand_made(name)
    [chain] = chains_of(model)
    assert {block.place for block in chain} == {place}
    blocks = model.layers if name == "mixture" else model.blocks
    assert [block.module for block in chain] == list(blocks)
    named = [layer for block in chain for layer in block.names]
    assert sorted(named) == sorted(layer for layer in linears(model) if layer != "head")


@pytest.mark.parametrize("name", ["loose", "between", "repeated"])
def test_other_blocks_are_none(name):
    assert chains_of(hand_made(name)) == []


def test_encoder_and_decoder_are_a_chain_each():
    assert len(find_chains(make("t5"), linears(make("t5")))) == 2


def test_a_list_is_no_chain_where_one_block_alone_has_layers_to_solve():
    model = make("llama_odd")
    assert find_chains(model, {name: one for name, one in linears(model).items() if "layers.1." in name}) == []


def test_calls_of_another_thread_are_not_seen_and_the_hooks_go():
    model = hand_made("swapped")
    chains = find_chains(model, linears(model))
    with watching(chains) as seen:
        other = threading.Thread(target=run, args=(model, IDS))
        other.start()
        other.join()
    assert [len(calls) for calls in seen.values()] == [0, 0, 0]
    assert not any(block._forward_hooks for block in model.blocks)


def test_arguments_are_found_and_replaced_by_position_and_by_keyword():
    assert argument_at((1, 2), {"a": 3}, 1) == 2 and argument_at((1, 2), {"a": 3}, "a") == 3
    assert argument_at((1,), {}, 1) is argument_at((1,), {}, "a") is None
    assert with_argument((1, 2), 0, 9) == (9, 2) and with_argument((1, 2), "a", 9) == (1, 2)
    assert with_argument({"a": 3}, "a", 9) == {"a": 9} and with_argument({"a": 3}, 0, 9) == {"a": 3}
    assert hidden_state((1, 2)) == hidden_state([1]) == hidden_state(1) == 1
