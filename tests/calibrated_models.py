"""Tiny hand-made models that run token ids in ways which families of transformers use, and oracles of their inputs."""

from __future__ import annotations

import copy

import torch
from torch import nn

VOCABULARY, WIDTH = 97, 48


class Letters:
    """A tokenizer: one token for each character."""

    def __call__(self, text, verbose=True):
        return {"input_ids": [2 + ord(letter) % 95 for letter in text]}

    def save_pretrained(self, folder):
        """Letters have nothing to save."""


class Embedded(nn.Module):
    """Token ids in, an output head behind; what is between is for its children to say."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, input_ids):
        return self.head(self.body(self.embed(input_ids)))


class Step(nn.Module):
    def __init__(self, inner=64):
        super().__init__()
        self.up, self.gate = nn.Linear(WIDTH, inner), nn.Linear(WIDTH, inner, bias=False)
        self.down = nn.Linear(inner, WIDTH)

    def forward(self, hidden):
        return hidden + self.down(torch.tanh(self.up(hidden)) * torch.sigmoid(self.gate(hidden)))


class Loose(Embedded):
    """Layers outside of any list: there is no chain."""

    def __init__(self):
        super().__init__()
        self.first, self.second = Step(), Step()

    def body(self, hidden):
        return self.second(self.first(hidden))


class Swapped(Embedded):
    """A chain whose blocks take their hidden state second, or by name, and return a tuple."""

    class Block(Step):
        def forward(self, bias, state=None, *, scale=1.0):
            return super().forward(state * scale + bias), "more"

    def __init__(self, by_name=False):
        super().__init__()
        self.blocks, self.by_name = nn.ModuleList(self.Block() for _ in range(3)), by_name

    def body(self, hidden):
        bias = hidden.mean(-1, keepdim=True)
        for number, block in enumerate(self.blocks):
            if self.by_name:
                hidden, _ = block(bias, state=hidden, scale=1.0 + number)
            else:
                hidden, _ = block(bias, hidden)
        return hidden


class Between(Embedded):
    """Blocks between which the model itself computes: they look like a chain and are none."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Step() for _ in range(2))

    def body(self, hidden):
        for block in self.blocks:
            hidden = block(hidden * 0.9) + 0.1
        return hidden


class Repeated(Embedded):
    """The same blocks twice."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Step() for _ in range(2))

    def body(self, hidden):
        for block in [*self.blocks, *self.blocks]:
            hidden = block(hidden)
        return hidden


class Expert(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.w1, self.w2 = nn.Linear(WIDTH, inner, bias=False), nn.Linear(inner, WIDTH, bias=False)

    def forward(self, rows):
        return self.w2(torch.tanh(self.w1(rows)))


class MixtureBlock(nn.Module):
    def __init__(self, experts, inner):
        super().__init__()
        self.router = nn.Linear(WIDTH, experts, bias=False)
        self.experts = nn.ModuleList(Expert(inner) for _ in range(experts))

    def forward(self, hidden):
        chosen = self.router(hidden).argmax(-1)
        out = hidden.clone()
        for number, expert in enumerate(self.experts):
            places = chosen == number
            if places.any():
                out[places] = hidden[places] + expert(hidden[places])
        return out


class Mixture(Embedded):
    """Experts of plain linear layers; `starve` keeps the last one from being reached at all."""

    def __init__(self, experts=4, inner=64, starve=False):
        super().__init__()
        self.layers = nn.ModuleList(MixtureBlock(experts, inner) for _ in range(2))
        if starve:
            for layer in self.layers:
                layer.router.weight.data[-1] = 0
                layer.router.weight.data[0] = -layer.router.weight.data[1]

    def body(self, hidden):
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden


HAND_MADE = {
    "loose": Loose,
    "swapped": Swapped,
    "by name": lambda: Swapped(by_name=True),
    "between": Between,
    "repeated": Repeated,
    "mixture": Mixture,
}


def hand_made(name, **changes):
    torch.manual_seed(3)
    return HAND_MADE[name](**changes).eval()


def run(model, ids):
    given = {"input_ids": ids}
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        given["decoder_input_ids"] = ids
    with torch.no_grad():
        return model(**given)


def inputs_of(model, names, ids):
    """Inputs of layers in a run of the whole model, rows of float64 by name, in the order of first calls."""
    seen: dict[str, list[torch.Tensor]] = {}
    handles = []
    for name in names:

        def hook(_module, args, name=name):
            seen.setdefault(name, []).append(args[0].reshape(-1, args[0].shape[-1]).double())

        handles.append(model.get_submodule(name).register_forward_pre_hook(hook))
    run(model, ids)
    for handle in handles:
        handle.remove()
    return {name: torch.cat(rows) for name, rows in seen.items()}


def sequential_inputs(model, names, weights, ids):
    """Inputs of each layer in a copy of the model where all layers called before it have their solved weights.

    Layers with the same input are solved together: they see each other dense, where the model comes back to them.

    Args:
        model: Unchanged.
        names: Layers, in any order.
        weights: Name → solved weight [N, K].
        ids: Token ids.
    """
    dense = inputs_of(model, names, ids)
    order = list(dense)
    found = {}
    for place, name in enumerate(order):
        changed = copy.deepcopy(model)
        for before in order[:place]:
            if torch.equal(dense[before], dense[name]):
                continue
            changed.get_submodule(before).weight.data.copy_(weights[before])
        found[name] = inputs_of(changed, [name], ids).get(name, torch.zeros(0, 1).double())
    return found
