"""Greedy answers: against reading the whole text anew for each token, whatever a model keeps of it."""

from __future__ import annotations

import threading
import types

import pytest
import torch
from torch import nn

from tests.tiny_models import make
from workbench.errors import Cancelled, ConfigError, ModelError
from workbench.measure.causal import window_logits
from workbench.measure.generation import end_tokens, first_difference, iter_answers, room_for

PROMPT = torch.tensor([5, 9, 11])
NO_END = frozenset()


def slow(model, count, ends=NO_END):
    ids, shares = PROMPT.tolist(), []
    for _ in range(count):
        with torch.no_grad():
            row = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].float()
        ids.append(int(row.argmax()))
        shares.append(float(row.softmax(-1)[ids[-1]]))
        if ids[-1] in ends:
            break
    return ids[len(PROMPT) :], shares


def last(steps):
    return list(steps)[-1]


class Forgetful(nn.Module):
    """Says that it keeps the past, and gives something else with it."""

    def __init__(self, model, kept=True):
        super().__init__()
        self.model, self.kept = model, kept

    def forward(self, input_ids, use_cache=False, past_key_values=None):
        logits = self.model(input_ids=input_ids, use_cache=False).logits
        return types.SimpleNamespace(logits=logits, past_key_values=object() if self.kept and use_cache else None)


@pytest.mark.parametrize("family", ["qwen2", "llama_odd", "opt", "gpt2", "mixtral"])
def test_each_family_gives_its_most_likely_tokens(family):
    model = make(family)
    (answer,) = last(iter_answers([model], PROMPT, 10, NO_END))
    ids, shares = slow(model, 10)
    assert list(answer.ids) == ids and answer.shares == pytest.approx(shares, rel=1e-3)


@pytest.mark.parametrize("kept", [True, False])
def test_what_a_model_keeps_is_used_only_where_it_changes_nothing(kept):
    model = make("qwen2")
    (answer,) = last(iter_answers([Forgetful(model, kept)], PROMPT, 8, NO_END))
    assert list(answer.ids) == slow(model, 8)[0]


def test_models_take_turns_and_each_ends_for_itself():
    one, other = make("qwen2"), make("llama_odd")
    ends = frozenset({slow(one, 1)[0][0]})
    steps = list(iter_answers([one, other], PROMPT, 6, ends))
    assert [tuple(len(answer.ids) for answer in step) for step in steps[:3]] == [(1, 0), (1, 1), (1, 2)]
    first, second = steps[-1]
    assert (list(first.ids), first.ended, second.ended) == (slow(one, 6, ends)[0], True, False)
    assert list(second.ids) == slow(other, 6, ends)[0]


def test_cancel_stops_before_the_next_token():
    cancel = threading.Event()
    steps = iter_answers([make("qwen2")], PROMPT, 6, NO_END, cancel)
    next(steps)
    cancel.set()
    with pytest.raises(Cancelled):
        next(steps)


def test_the_model_says_how_much_it_takes_and_what_ends():
    model = make("qwen2")
    assert room_for(model, PROMPT, 100) == 64 - 3 and room_for(model, PROMPT, 5) == 5
    assert room_for(nn.Linear(2, 2), PROMPT, 100) == 100
    with pytest.raises(ConfigError, match=r"64 tokens.*up to 63"):
        room_for(model, torch.zeros(64, dtype=torch.int64), 1)
    model.generation_config.eos_token_id = [1, 7]
    assert end_tokens(model, types.SimpleNamespace(eos_token_id=9)) == {1, 7, 9}
    assert end_tokens(nn.Linear(2, 2), None) == frozenset()


def test_logits_that_are_no_numbers_are_named():
    model = make("qwen2")
    nn.init.constant_(model.model.norm.weight, float("nan"))
    with pytest.raises(ModelError, match="nan"):
        next(iter_answers([model], PROMPT, 2, NO_END))


@pytest.mark.parametrize(
    ("one", "other", "place"), [((1, 2), (1, 3), 1), ((1,), (1, 3), None), ((), (), None), ((4,), (5,), 0)]
)
def test_the_first_difference(one, other, place):
    assert first_difference(one, other) == place


def test_a_pass_that_takes_long_ends_before_its_next_layer():
    cancel, ran, model = threading.Event(), [], make("qwen2")
    layers = model.model.layers
    removes = [
        layers[0].register_forward_pre_hook(lambda *_: cancel.set()).remove,
        layers[1].register_forward_pre_hook(lambda *_: ran.append(1)).remove,
    ]
    try:
        with pytest.raises(Cancelled):
            next(iter_answers([model], PROMPT, 4, frozenset(), cancel))
        with pytest.raises(Cancelled):
            cancel.clear()
            window_logits(model, PROMPT, "the model", 0, cancel)
    finally:
        for remove in removes:
            remove()
    assert ran == [] and not any(module._forward_pre_hooks for module in model.modules())
