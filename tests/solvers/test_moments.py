"""Second moments: the sum of x x^T over all tokens, in whatever pieces and dtypes they come."""

from __future__ import annotations

import pytest
import torch

from workbench.errors import Cancelled, WeightError
from workbench.solvers import InputMoments


def outer_sum(tokens):
    """Sum of x x^T, one token at a time, float64."""
    total = torch.zeros(tokens.shape[-1], tokens.shape[-1], dtype=torch.float64)
    for token in tokens.double().reshape(-1, tokens.shape[-1]):
        total += token[:, None] * token[None, :]
    return total


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_pieces_add_up_to_the_sum_over_tokens(dtype):
    inputs = (torch.randn(3, 40, 24, generator=torch.Generator().manual_seed(0)) * 5).to(dtype)
    moments = InputMoments.empty(24)
    for piece in (inputs[0], inputs[1, :1], inputs[1, 1:], inputs[2, 0], inputs[2:, 1:], inputs[:0]):
        moments.add(piece)
    assert moments.tokens == 120 and moments.total.dtype == torch.float32
    torch.testing.assert_close(moments.total.double(), outer_sum(inputs), rtol=1e-5, atol=1e-3)
    assert torch.equal(moments.total, moments.total.t())


@pytest.mark.parametrize("stop_at", [1, 4, 10])
def test_tokens_whose_adding_was_stopped_are_added_once_when_they_come_again(stop_at, monkeypatch):
    monkeypatch.setattr("workbench.solvers.panels.LEAST_PANEL", 8)  # four panels: ten tiles
    first, second = torch.randn(2, 30, 33, generator=torch.Generator().manual_seed(3))
    looks = 0

    def look():
        nonlocal looks
        looks += 1
        if looks == stop_at:
            raise Cancelled("Stop.")

    stopped, whole = InputMoments.empty(33), InputMoments.empty(33)
    stopped.add(first)
    with pytest.raises(Cancelled):
        stopped.add(second, look)
    assert stopped.tokens == 30
    stopped.add(second, look)
    assert stopped.tokens == 60 and looks == 11  # ten tiles, and the look that stopped
    for inputs in (first, second):
        whole.add(inputs)
    assert torch.equal(stopped.total, whole.total)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_squares_beyond_half_precision_are_summed_in_float32(dtype):
    inputs = torch.full((64, 2), 6e4).to(dtype)
    moments = InputMoments.empty(2)
    moments.add(inputs)
    torch.testing.assert_close(moments.total.double(), outer_sum(inputs), rtol=1e-5, atol=0)


def test_inputs_may_need_gradients_and_are_left_alone():
    inputs = torch.randn(8, 6, requires_grad=True)
    before, moments = inputs.detach().clone(), InputMoments.empty(6)
    moments.add(inputs * 1)
    assert torch.equal(inputs.detach(), before) and not moments.total.requires_grad


def test_bytes_are_those_of_the_tensor():
    total = InputMoments.empty(33).total
    assert InputMoments.size_bytes(33) == total.numel() * total.element_size()


def test_what_moments_cannot_guide_is_said():
    moments = InputMoments.empty(4)
    assert "0 tokens of the calibration text reached it" in moments.problem(4, 1)
    moments.add(torch.zeros(10, 4))
    assert "all 0" in moments.problem(4, 10)
    moments.add(torch.eye(4))
    assert moments.problem(4, 14) == "" and "14 tokens" in moments.problem(4, 15)
    moments.add(torch.full((1, 4), float("inf")))
    assert "NaN or infinity" in moments.problem(4, 1)
    with pytest.raises(WeightError, match=r"\[4, 4\] for a weight of 5 columns"):
        moments.problem(5, 1)
