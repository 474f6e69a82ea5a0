"""A causal language model of an embedding and int4 layers, in plain torch, and its greedy text."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from workbench import Int4Linear, Int4WeightOnlyConfig

VOCABULARY, WIDTH, INNER = 96, 128, 320


class Block(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.mix, self.up, self.down = make(WIDTH, WIDTH), make(WIDTH, INNER), make(INNER, WIDTH)

    def forward(self, hidden):
        steps = torch.arange(1, hidden.shape[1] + 1, device=hidden.device)[:, None]
        hidden = hidden + self.mix(hidden.cumsum(1) / steps)
        return hidden + self.down(functional.silu(self.up(functional.layer_norm(hidden, (WIDTH,)))))


class TinyLM(nn.Module):
    """Tokens [batch, length] to logits [batch, length, VOCABULARY]."""

    def __init__(self, seed=0, device="cpu", solver="hqq"):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        words = torch.randn(VOCABULARY, WIDTH, generator=generator)

        def make(inputs, outputs, favours=None):
            linear = nn.Linear(inputs, outputs, bias=outputs == WIDTH)
            weight = torch.randn(outputs, inputs, generator=generator) * inputs**-0.5
            linear.weight = nn.Parameter(weight if favours is None else weight + 0.1 * favours)
            if linear.bias is not None:
                linear.bias = nn.Parameter(torch.linspace(-0.1, 0.1, outputs))
            return Int4Linear.from_linear(linear.to(device), Int4WeightOnlyConfig(group_size=64), solver=solver)

        self.embedding = nn.Embedding(VOCABULARY, WIDTH, _weight=words)
        self.blocks = nn.ModuleList(Block(make) for _ in range(2))
        # Each word favours another one: without that, every fourth word of a random model would hang on a rounding.
        self.head = make(WIDTH, VOCABULARY, words[torch.randperm(VOCABULARY, generator=generator)])
        self.to(device)

    def forward(self, tokens):
        hidden = self.embedding(tokens)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(functional.layer_norm(hidden, (WIDTH,)))


@torch.no_grad()
def greedy(model, prompt, count=24):
    """Return (tokens, the least lead of a chosen token over the next, in standard deviations of the logits)."""
    tokens = torch.tensor([prompt], device=model.embedding.weight.device)
    lead = float("inf")
    for _ in range(count):
        logits = model(tokens)[0, -1].float()
        first, second = logits.topk(2).values.tolist()
        lead = min(lead, (first - second) / float(logits.std()))
        tokens = torch.cat((tokens, logits.argmax()[None, None]), dim=1)
    return tokens[0].tolist(), lead
