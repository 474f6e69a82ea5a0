"""Summaries against slow loops, histograms against numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.measure.weights import DOMAINS, quantized, some_weight
from workbench.measure.errors import error_summary, histogram


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_summary_against_loops(domain, dtype):
    weight = some_weight(5, 77).to(dtype)
    stored = quantized(weight, domain)
    summary = error_summary(weight, stored)
    original, restored = weight.double().flatten().tolist(), stored.dequantize().double().flatten().tolist()
    differences = [b - a for a, b in zip(original, restored, strict=True)]
    square = sum(d * d for d in differences)
    assert summary.mse == pytest.approx(square / 385, rel=1e-5)
    assert summary.rmse == pytest.approx(math.sqrt(square / 385), rel=1e-5)
    assert summary.mean_abs == pytest.approx(sum(map(abs, differences)) / 385, rel=1e-5)
    assert summary.max_abs == pytest.approx(max(map(abs, differences)), rel=1e-5)
    assert abs(differences[summary.max_at[0] * 77 + summary.max_at[1]]) == pytest.approx(summary.max_abs, rel=1e-5)
    signal = sum(a * a for a in original)
    assert summary.sqnr_db == pytest.approx(10 * math.log10(signal / square), rel=1e-5)
    assert summary.relative_rmse == pytest.approx(math.sqrt(square / signal), rel=1e-5)
    assert summary.bits_per_weight == stored.bits_per_weight and summary.count == 385


def test_a_weight_without_error_has_infinite_signal_to_noise():
    weight = torch.zeros(3, 40)
    summary = error_summary(weight, quantized(weight))
    assert (summary.mse, summary.max_abs, summary.relative_rmse, summary.sqnr_db) == (0, 0, 0, math.inf)
    lost = error_summary(weight, quantized(torch.ones(3, 40)))
    assert (lost.mse, lost.relative_rmse, lost.sqnr_db) == (1, math.inf, -math.inf)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("bins", [1, 7, 64])
def test_histograms_against_numpy(domain, bins):
    weight = some_weight(20, 90)
    stored = quantized(weight, domain)
    found = histogram(weight, stored, bins)
    error = (stored.dequantize() - weight).double().numpy()
    for values, limit, counts in (
        (weight.double().numpy(), found.limit, found.counts),
        (error, found.error_limit, found.error_counts),
    ):
        assert limit == np.abs(values).max()
        expected, _ = np.histogram(values, bins, (-limit, limit))
        assert list(counts) == expected.tolist() and sum(counts) == 1800


def test_a_histogram_of_zeros_is_one_column_in_the_middle():
    found = histogram(torch.zeros(2, 32), quantized(torch.zeros(2, 32)), bins=8)
    assert found.counts == found.error_counts == (0, 0, 0, 0, 64, 0, 0, 0)
