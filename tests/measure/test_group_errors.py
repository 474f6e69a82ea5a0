"""Errors of groups against slow loops."""

from __future__ import annotations

import math

import pytest
import torch

from tests.measure.weights import DOMAINS, quantized, some_weight
from workbench.affine import QuantizedWeight
from workbench.config import GROUP_SIZES
from workbench.measure.group_errors import GROUP_METRICS, group_errors

ERRORS = [metric for metric in GROUP_METRICS if metric not in ("scale", "zero")]


def slow_group(original, restored, metric):
    """One group's value, a list of floats against another."""
    differences = [b - a for a, b in zip(original, restored, strict=True)]
    rmse = math.sqrt(sum(d * d for d in differences) / len(differences))
    power = math.sqrt(sum(a * a for a in original) / len(original))
    sizes = [abs(d) for d in differences]
    if metric in ("rmse", "mse"):
        return rmse if metric == "rmse" else rmse * rmse
    if metric in ("relative", "relative_max"):
        return (rmse if metric == "relative" else max(sizes)) / power
    if metric == "sqnr":
        exact = not any(differences)
        return 150 if exact else 10 * math.log10(sum(a * a for a in original) / sum(d * d for d in differences))
    return max(sizes) if metric == "max" else sum(sizes) / len(sizes)


@pytest.mark.parametrize("metric", ERRORS)
@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("group_size", GROUP_SIZES)
@pytest.mark.parametrize("extra", [0, 1, 31])
def test_group_errors_against_loops(metric, domain, group_size, extra):
    weight = some_weight(3, 2 * group_size + extra)
    stored = quantized(weight, domain, group_size)
    result, restored = group_errors(weight, stored, metric), stored.dequantize()
    assert result.dtype == torch.float32 and result.shape == stored.scale.shape
    for row in range(3):
        for index, start in enumerate(range(0, weight.shape[1], group_size)):
            columns = slice(start, start + group_size)
            expected = slow_group(weight[row, columns].tolist(), restored[row, columns].tolist(), metric)
            assert float(result[row, index]) == pytest.approx(expected, rel=1e-5)


def test_a_group_without_error_or_without_weights_has_a_finite_sqnr():
    weight = torch.zeros(1, 96)
    weight[0, 32:] = 1.0
    found = group_errors(weight, quantized(torch.zeros(1, 96)), "sqnr")
    assert found.tolist() == [[150.0, 0.0, 0.0]], "nothing lost, then as much as there was"
    assert group_errors(torch.zeros(1, 32), quantized(torch.ones(1, 32)), "sqnr").tolist() == [[-150.0]]


@pytest.mark.parametrize("metric", GROUP_METRICS)
def test_groups_of_another_size_count_their_own_weights(metric):
    """Cells of 32 in groups of 128: errors of 32 weights each, scales and zeros of the group that they are in."""
    weight, stored = some_weight(3, 300), quantized(some_weight(3, 300), "float", 128)
    found, restored = group_errors(weight, stored, metric, 32), stored.dequantize()
    assert found.shape == (3, 10)
    for row in range(3):
        for cell in range(10):
            columns = slice(32 * cell, 32 * cell + 32)
            if metric in ("scale", "zero"):
                assert found[row, cell] == group_errors(weight, stored, metric)[row, cell // 4]
                continue
            expected = slow_group(weight[row, columns].tolist(), restored[row, columns].tolist(), metric)
            assert float(found[row, cell]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("domain", DOMAINS)
def test_scales_and_zeros_of_groups_are_what_is_stored(domain):
    stored = quantized(some_weight(4, 70), domain)
    assert torch.equal(group_errors(some_weight(4, 70), stored, "scale"), stored.scale.float())
    at_code_8 = QuantizedWeight(torch.full_like(stored.codes, 8), stored.scale, stored.zero, 32, domain).dequantize()
    assert torch.equal(group_errors(some_weight(4, 70), stored, "zero"), at_code_8[:, [0, 32, 64]])
